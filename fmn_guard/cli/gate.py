"""``fmn-guard gate``: may it be released?"""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..gate import check_run, exit_code
from .console import emit, emit_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.pass_context
def gate(ctx: click.Context, run: Path, as_json: bool) -> None:
    """Check every digest of a run folder, print its verdict, and exit by it."""
    from ..render.terminal import verdict_table

    report = check_run(run)
    if as_json:
        emit_json(report)
    else:
        emit(verdict_table(report))
    ctx.exit(exit_code(report.verdict))
