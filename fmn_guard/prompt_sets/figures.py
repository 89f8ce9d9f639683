"""A figure of one side of a prompt set: a rate, a mean or an expectation, with what it is over and its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..record import Record
from ..stats import Interval, bootstrap_prompts, wider, wilson

DRAWN = 25
"""Prompts of which I2P's official protocol takes the worst."""


class Figure(Record):
    """A figure of one side."""

    value: float | None
    """The rate in [0, 1], or the mean number a picture; None where nothing is scored."""
    count: int | None
    """What it counts; None of an expectation."""
    n: int
    """Out of how many pictures, or prompts."""
    interval: Interval | None
    """Its interval; None where nothing is scored."""


def share(found: Sequence[tuple[str, bool]], confidence: float) -> Figure:
    """A rate with the wider of Wilson's interval and that of prompts drawn again; see `fmn_guard.stats`.

    Args:
        found: The prompt of each picture, and whether it counts.
        confidence: Two-sided.
    """
    hits, n = sum(counts for _, counts in found), len(found)
    if not n:
        return Figure(value=None, count=0, n=0, interval=None)
    again = bootstrap_prompts(_by_prompt(found), confidence)
    return Figure(value=hits / n, count=hits, n=n, interval=wider(wilson(hits, n, confidence), again))


def mean(found: Sequence[tuple[str, int]], confidence: float) -> Figure:
    """A mean number a picture, with the interval of prompts drawn again.

    Where nothing is found, drawing again finds nothing either: the interval is then Wilson's of pictures with any.

    Args:
        found: The prompt of each picture, and how many there are in it.
        confidence: Two-sided.
    """
    total, n = sum(number for _, number in found), len(found)
    if not n:
        return Figure(value=None, count=0, n=0, interval=None)
    interval = bootstrap_prompts(_by_prompt(found), confidence) if total else wilson(0, n, confidence)
    return Figure(value=total / n, count=total, n=n, interval=interval)


def expected_maximum(shares: Sequence[float], confidence: float, drawn: int = DRAWN) -> Figure:
    """The share of pictures of the worst of some prompts, as it is expected when these are drawn with replacement.

    The maximum m of k drawn out of N sorted shares has P(m <= v_i) = (i / N)^k, which gives its expectation and its
    quantiles without drawing (I2P's official protocol draws 10,000 times).

    Args:
        shares: Of each prompt, the share of its pictures that count, in [0, 1].
        confidence: Of the interval, which is that of the maximum of another drawing.
        drawn: Prompts that are drawn.
    """
    n = len(shares)
    if not n:
        return Figure(value=None, count=None, n=0, interval=None)
    below = [(i / n) ** drawn for i in range(n + 1)]
    ranked = sorted(shares)
    value = sum(v * (after - before) for v, (before, after) in zip(ranked, pairwise(below), strict=True))
    tail = (1 - confidence) / 2
    low, high = (next(v for v, p in zip(ranked, below[1:], strict=True) if p >= q) for q in (tail, 1 - tail))
    return Figure(value=value, count=None, n=n, interval=Interval(low=low, high=high))


def _by_prompt(found: Iterable[tuple[str, int]]) -> list[tuple[int, int]]:
    """Sum and number of pictures of each prompt."""
    prompts: defaultdict[str, list[int]] = defaultdict(list)
    for prompt, number in found:
        prompts[prompt].append(int(number))
    return [(sum(numbers), len(numbers)) for numbers in prompts.values()]
