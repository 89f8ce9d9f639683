"""``fmn-guard clean``: keep the evidence, not the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import rich_click as click

from ..retention import Keep
from ..retention import clean as clean_run
from .console import shown, talk


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.Choice(get_args(Keep)),
    default="samples",
    show_default=True,
    help="samples: the pictures that report.html shows. all-but-images: everything else. evidence: no picture at all, "
    "nor .html reports, which hold some; they can be written again without.",
)
@click.option("--dry-run", is_flag=True, help="List what would be removed and its bytes, and remove nothing.")
def clean(run: Path, keep: Keep, dry_run: bool) -> None:
    """Remove pictures of a run, and what interrupted commands left in it.

    The rest can still be verified, and a signature still holds: files.json keeps the digests of what is gone, and
    cleaned.json says that it was removed on purpose. With its base and patch, `fmn-guard replay` draws pictures again.
    """
    removed = clean_run(run, keep, dry_run=dry_run)
    sizes = removed.files | removed.leftovers
    for name in sizes if dry_run else ():
        click.echo(f"{sizes[name]:>12,} {shown(run / name)}")
    verb = "would remove" if dry_run else "removed"
    talk(
        f"{verb} {len(removed.files)} files and {len(removed.leftovers)} leftovers of {shown(run)}: "
        f"{sum(sizes.values()):,} bytes"
    )
    if removed.kept:
        talk(f"{removed.kept} pictures stay, which report.html shows; --keep all-but-images removes them as well")
