"""``fmn-guard init``: a manifest to start from."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import InputError
from ..record import write_atomic
from ..schema import schema_text
from ..shipped import manifests
from .console import shown, talk

_SCHEMA = "concept-manifest.schema.json"


@click.command()
@click.argument("target", type=click.Path(path_type=Path), default=Path(), metavar="[DIR|FILE]")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def init(target: Path, dry_run: bool) -> None:
    """Write a commented manifest to start from, and its schema for editors beside it.

    Nothing is overwritten. The manifest is the quickstart's: it runs on the built-in model as it is.
    """
    manifest = target if target.suffix in (".yaml", ".yml") else target / "manifest.yaml"
    if manifest.exists():
        raise InputError(f"{shown(manifest)} exists already", hint="give another name; nothing is overwritten")
    texts = {manifest: (manifests() / "quickstart.yaml").read_text(encoding="utf-8")}
    if not (manifest.parent / _SCHEMA).exists():
        texts[manifest.parent / _SCHEMA] = schema_text("concept-manifest")
    for path, text in texts.items():
        if dry_run:
            talk(f"would write {shown(path)}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text)
            talk(f"wrote {shown(path)}")
    talk(f"next: edit it, then fmn-guard plan {shown(manifest)}")
