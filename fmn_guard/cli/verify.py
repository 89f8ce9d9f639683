"""``fmn-guard verify``: is every byte of a run folder what the run left?"""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..chain import MIGRATED
from ..gate import verify_run
from .console import emit_json
from .keys import keys_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@keys_option
@click.option(
    "--require-signature",
    is_flag=True,
    help="Refuse a run that nobody signed. Only --key tells who did; without it, anybody may have.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was checked as one JSON document.")
def verify(run: Path, keys: tuple[Path, ...], require_signature: bool, as_json: bool) -> None:
    """Check every byte of a run folder, and recompute its verdict from what was observed.

    Names the first file that differs and exits with 2; otherwise with 0, whatever the verdict: see `gate`.
    """
    verified = verify_run(run, keys, require_signature=require_signature)
    if as_json:
        emit_json(verified)
        return
    there = len(verified.files) - len(verified.cleaned)
    click.echo(f"{there} files are as the run left them; the verdict comes out again: {verified.verdict}")
    if verified.cleaned:
        click.echo(f"{len(verified.cleaned)} were cleaned: their digests are known, their content is not")
    if MIGRATED in verified.files:
        click.echo(f"lifted from a run of an older version: {MIGRATED} names the digests that it supersedes")
    click.echo(f"signature: {verified.signature_words}")
    if verified.index_lines is not None:
        click.echo(f"index: {verified.index_lines} lines, the last about this run tells of this report")
