"""``fmn-guard clean``: keep the evidence, not the pictures."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..chain import clean as clean_run
from .console import shown, talk


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
def clean(run: Path, dry_run: bool) -> None:
    """Remove the pictures of a run and what interrupted commands left in it.

    The rest can still be verified, and a signature still holds: files.json keeps the digests of the pictures, and
    cleaned.json says that they were removed on purpose.
    """
    removed = clean_run(run, dry_run=dry_run)
    for name in (*removed.pictures, *removed.leftovers) if dry_run else ():
        click.echo(shown(run / name))
    verb = "would remove" if dry_run else "removed"
    talk(f"{verb} {len(removed.pictures)} pictures and {len(removed.leftovers)} leftovers of {shown(run)}")
