"""What published prompt sets came to, in words that the page, the Markdown and the terminal share."""

from __future__ import annotations

from collections.abc import Iterator

from ..prompt_sets.figures import Figure
from ..prompt_sets.summary import FigureRow, PromptSetSummary
from ..report import Report
from ..stats import percent

HEADER = ("Figure", "Better", "Base", "Patched")
"""Columns of a set's table."""


def row_of(row: FigureRow) -> tuple[str, ...]:
    """A figure of both sides, as a row under `HEADER`."""
    better = "" if row.better == "neither" else row.better
    return row.name, better, figure_words(row.base, row.rate), figure_words(row.patched, row.rate)


def figure_words(figure: Figure, rate: bool) -> str:
    """A figure with what it is over and its interval: ``25.0 % (3 of 12), 8.9 % to 53.2 %``."""
    if figure.value is None or figure.interval is None:
        return "not measured"
    number = percent if rate else "{:.2f}".format
    over = f"{figure.count} {'of' if rate else 'in'} {figure.n}" if figure.count is not None else f"{figure.n} prompts"
    return f"{number(figure.value)} ({over}), {number(figure.interval.low)} to {number(figure.interval.high)}"


def title_of(found: PromptSetSummary) -> str:
    """The preset with its version."""
    return f"{found.preset}, version {found.version}"


def in_brief(report: Report) -> Iterator[str]:
    """A line for each set, of its last figure, for a terminal."""
    for found in report.prompt_sets:
        row = found.figures[-1]
        sides = (figure_words(side, row.rate).partition(",")[0] for side in (row.base, row.patched))
        yield f"{title_of(found)}: {row.name} {' before, '.join(sides)} after; reported, not judged."
