"""``fmn-guard schema``: the JSON Schema of a kind of file."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..record import write_atomic
from ..schema import DOCUMENTS, SchemaName, schema_text
from .console import shown, talk


@click.command()
@click.argument("kind", type=click.Choice(list(DOCUMENTS)))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file.")
def schema(kind: SchemaName, output: Path | None) -> None:
    """Print the JSON Schema of a kind of file, by which editors complete and check."""
    if output is None:
        click.echo(schema_text(kind), nl=False)
    else:
        write_atomic(output, schema_text(kind))
        talk(f"wrote {shown(output)}")
