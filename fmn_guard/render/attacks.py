"""Attacks: a table for the terminal, and what all formats tell of them."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from ..attacks import Attacks
from ..attacks.summary import AttackRow, AttackSummary, summarise
from ..gathered import Evidence, gather_attacks
from ..plan import Plan
from ..report import Report


def summary_of(attacks: Attacks, plan: Plan, report: Report | None) -> AttackSummary:
    """A report's own summary; where nothing was judged, one without a known error of the recogniser."""
    if report is not None and report.attacks is not None:
        return report.attacks
    return summarise(attacks, gather_attacks(Evidence(plan, {}), attacks), plan, 0.95)


def attacks_table(summary: AttackSummary) -> Table:
    """A line per concept and attack, and below what searches found; it fits 80 columns."""
    table = Table(
        title=Text("Attacks: pictures that show the concept"),
        caption=Text("\n".join([*details(summary), budget_words(summary)])),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("Concept", overflow="fold")
    table.add_column("Attack", overflow="fold")
    for name in ("Base", "Without", "Attacked", "Interval"):
        table.add_column(name, justify="right")
    for row in summary.rows:
        cells = (row.base.words, row.without.words, row.patched.words, str(row.patched.interval))
        table.add_row(Text(row.phrase), Text(row.attack), *cells)
    return table


def details(summary: AttackSummary) -> Iterator[str]:
    """What a table has no room for, a line each: what searches found and at which budget, and what failed."""
    for row in summary.rows:
        if row.failed:
            yield f"{row.phrase}, {row.attack}: failed, {row.failed}"
        elif row.search:
            yield f"{row.phrase}, {row.attack}: {row.prefix!r}, {search_words(row)}"


def search_words(row: AttackRow) -> str:
    """The budget of a search in words."""
    search = row.search
    if search is None:
        return ""
    return (
        f"the strongest of {len(search.seeds)} searches of {search.steps} steps, {search.candidates} candidates each, "
        f"over {search.references} references"
    )


def budget_words(summary: AttackSummary) -> str:
    """How many pictures stand behind all rows."""
    counts = summary.budgets
    sought = sum(s.references + len(s.seeds) * s.trials for row in summary.rows if (s := row.search))
    return (
        f"{counts['planned']} pictures planned, {counts['generated']} generated, {counts['scored']} scored, on both "
        f"models{f', and {sought} to search by' if sought else ''}"
    )
