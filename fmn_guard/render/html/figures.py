"""Where the marks of the page's charts lie; the template draws them.

Charts are a handful of lines, so the template writes them as SVG: text stays text, colours follow the theme and the
printer, and nothing is imported. What stands in a table is in percent of its cell's width, and stretches with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import inf
from typing import NamedTuple

from ...findings import Finding
from ...policy import DISTANCES

WIDTH, HEIGHT = 132, 36
"""Size of a `Curve`, in pixels."""
_INSET = 4  # pixels that a curve keeps from its edges, so that no dot is cut
_MARGIN = 0.15  # of the span of an interval plot, on either side


class IntervalPlot(NamedTuple):
    """An interval against its limit; all in percent of the width, which holds both and no more."""

    value: float | None
    """The value; None when nothing was counted."""
    low: float
    """Lower bound."""
    high: float
    """Upper bound."""
    limit: float
    """The limit."""
    allowed: tuple[float, float]
    """Left end and width of what the limit allows."""
    zero: float | None
    """Where zero is; None where it lies outside."""


def interval_plot(f: Finding) -> IntervalPlot | None:
    """The plot of a finding; None for one without an interval."""
    interval = f.interval or f.wilson or f.newcombe or f.normal
    if interval is None:
        return None
    greatest = inf if f.metric in DISTANCES else 1.0
    least = -greatest if f.normal else min(f.limit, 0.0 if f.newcombe is None else -1.0)
    best = 0.0 if f.direction == "at_most" else 1.0
    marks = [best, f.limit, interval.low, interval.high]
    margin = _MARGIN * (max(marks) - min(marks) or 1)
    left, right = max(least, min(marks) - margin), min(greatest, max(marks) + margin)

    def at(share: float) -> float:
        return _rounded(100 * (share - left) / (right - left))

    limit = at(f.limit)
    return IntervalPlot(
        value=None if f.value is None else at(f.value),
        low=at(interval.low),
        high=at(interval.high),
        limit=limit,
        allowed=(0.0, limit) if f.direction == "at_most" else (limit, _rounded(100 - limit)),
        zero=at(0) if left <= 0 <= right else None,
    )


class Curve(NamedTuple):
    """A line through a pass, in pixels."""

    points: tuple[tuple[float, float], ...]
    """Its points, from left to right."""

    @property
    def path(self) -> str:
        """The points as SVG writes them."""
        return " ".join(f"{x:g},{y:g}" for x, y in self.points)


def curve(values: Sequence[float], top: float) -> Curve:
    """The curve of values over their order.

    Args:
        values: Not negative; a single one lies in the middle.
        top: What the upper edge stands for; zero is the lower one.
    """
    wide, high = WIDTH - 2 * _INSET, HEIGHT - 2 * _INSET
    last = len(values) - 1
    return Curve(
        tuple(
            (
                _rounded(_INSET + wide * (i / last if last else 0.5)),
                _rounded(_INSET + high * (1 - v / top if top else 1)),
            )
            for i, v in enumerate(values)
        )
    )


LEVELS = 16
"""Shades of a heat map."""


class HeatMap(NamedTuple):
    """A map of values, as squares of one unit."""

    side: tuple[int, int]
    """Squares across and down."""
    shades: tuple[tuple[float, str], ...]
    """Opacity in (0, 1] and the squares that have it, as SVG writes a path."""


def heat_map(places: Sequence[Sequence[float]], top: float) -> HeatMap:
    """The map of values; those below half a shade are left out.

    Args:
        places: Rows from the top, not negative.
        top: What full opacity stands for.
    """
    shades: dict[int, list[str]] = {}
    for y, row in enumerate(places):
        x = 0
        for level, run in groupby(round(LEVELS * value / top) if top else 0 for value in row):
            wide = len(list(run))
            if level:
                shades.setdefault(level, []).append(f"M{x} {y}h{wide}v1h-{wide}z")
            x += wide
    drawn = tuple((level / LEVELS, "".join(squares)) for level, squares in sorted(shades.items()))
    return HeatMap((max(map(len, places)), len(places)), drawn)


def _rounded(number: float) -> float:
    return round(number, 2)
