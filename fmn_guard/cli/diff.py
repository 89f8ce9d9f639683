"""``fmn-guard diff``: what became worse since another run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import rich_click as click
from rich import box
from rich.table import Table
from rich.text import Text

from ..diff import Change, Comparison, Judged, compare
from ..gate import check_run
from ..plan import Plan
from ..policy import in_words
from ..record import read_record
from .console import emit, emit_json, shown

REGRESSED = 3
NOT_COMPARABLE = 4


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON document.")
@click.pass_context
def diff(ctx: click.Context, before: Path, after: Path, as_json: bool) -> None:
    """Compare two finished runs, the older one first: what is not comparable, regressions, improvements.

    Exits with 4 if they were not measured and judged in the same way, so that no change can be told from chance or
    rules; else with 3 if anything became worse or is no longer judged; otherwise with 0.
    """
    compared = compare(*(Judged(read_record(run / "plan.json", Plan), check_run(run)) for run in (before, after)))
    for each in compared.not_comparable:
        click.echo(f"NOT COMPARABLE: {each.what}: {each.before}, then {each.after}", err=as_json)
    if as_json:
        emit_json(compared)
    elif not (compared.regressions or compared.improvements):
        click.echo(f"nothing became worse or better: {compared.unchanged} findings are as they were")
    else:
        emit(_table(compared, f"{shown(before)}, then {shown(after)}"))
    if compared.not_comparable:
        ctx.exit(NOT_COMPARABLE)
    ctx.exit(REGRESSED if compared.regressions else 0)


def _table(compared: Comparison, title: str) -> Table:
    caption = Text(f"{compared.unchanged} findings are as they were.")
    table = Table(title=Text(title), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("Finding", overflow="fold")
    table.add_column("Before", justify="right")
    table.add_column("After", justify="right")
    _add_rows(table, Text("worse", "bold red"), compared.regressions)
    _add_rows(table, Text("better", "green"), compared.improvements)
    return table


def _add_rows(table: Table, word: Text, changes: Iterable[Change]) -> None:
    for change in changes:
        name = ", ".join(part for part in (change.rule or "verdict", change.subject, change.alias) if part)
        sides = ((change.before, change.value_before), (change.after, change.value_after))
        table.add_row(word, Text(name), *(_words(change.metric, outcome, value) for outcome, value in sides))


def _words(metric: str | None, outcome: str | None, value: float | None) -> str:
    if outcome is None:
        return "not judged"
    return outcome if value is None else f"{outcome}, {in_words(metric or '', value)}"
