"""The M-Score: a table for the terminal, and the numbers as all formats tell them."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from ..findings import Finding
from ..mscore import MScoreSummary


def mscore_table(summary: MScoreSummary) -> Table:
    """A line per concept, what is drawn by its tokens, and the noise floor; it fits 80 columns."""
    table = Table(
        title=Text("M-Score: what inversion finds; lower after is more forgotten"),
        caption=Text("\n".join([floor_words(summary), *replay_lines(summary)])),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("Concept", overflow="fold")
    for name in ("M0", "M1", "Drop", "Alike"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Reading", overflow="fold")
    for row in summary.rows:
        table.add_row(Text(row.phrase), *map(figure, (row.m0, row.m1, row.drop, row.between)), Text(row.reading))
    return table


def figure(value: float | None) -> str:
    """A cosine or a difference of two, to three digits; ``none`` where it was not measured."""
    return "none" if value is None else f"{value:.3f}".replace("-0.000", "0.000")


def floor_words(summary: MScoreSummary) -> str:
    """The noise floor in a sentence."""
    floor = summary.floor
    if floor is None:
        return "No noise floor: too few controls were measured, so no drop can be told from chance."
    return (
        f"Noise floor: a drop above {figure(floor.threshold)}, the mean of {floor.n} controls ({figure(floor.mean)}) "
        f"and twice their standard deviation ({figure(floor.sd)})."
    )


def judged_words(findings: Iterable[Finding]) -> str:
    """Whether a rule judges it, in a sentence."""
    if any(finding.metric == "inversion_recognised" for finding in findings):
        return "Measured; what is recognised is held against a rule."
    return "Measured, and judged by no rule."


def replay_lines(summary: MScoreSummary) -> list[str]:
    """What the patched model draws by its own tokens, a line for each concept that was to be forgotten."""
    return [
        f"{row.phrase}: recognised by {r.tokens} token{'s' if r.tokens > 1 else ''} in {r.words}"
        for row in summary.rows
        if row.role == "target"
        for r in row.replays
    ]
