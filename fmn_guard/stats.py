"""Intervals that say how far a measured rate or drop can be trusted.

Shares are fractions, not percents. Nothing measured gives the whole range, never 0 and never an error: a verdict
that rests on it cannot be a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import ceil, floor, sqrt
from random import Random
from statistics import NormalDist

from .record import Record


class Interval(Record):
    """A two-sided confidence interval."""

    low: float
    """Lower bound."""
    high: float
    """Upper bound."""

    def __str__(self) -> str:
        return f"{percent(self.low)} to {percent(self.high)}"


def percent(share: float) -> str:
    """Words a share: ``0.0964`` is ``9.6 %``."""
    return f"{100 * share:.1f} %".replace("-0.0 %", "0.0 %")


def wilson(hits: int, n: int, confidence: float) -> Interval:
    """Score interval of a rate (Wilson 1927, J. Am. Stat. Assoc. 22:209), without continuity correction.

    Args:
        hits: Pictures that show it, from 0 to n.
        n: Pictures looked at.
        confidence: Two-sided, in (0, 1).

    Returns:
        Bounds within [0, 1]; both grow with ``hits``. No picture gives [0, 1].
    """
    if n == 0:
        return Interval(low=0.0, high=1.0)
    z = _z(confidence)
    rate = hits / n
    centre = rate + z * z / (2 * n)
    half = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding must neither exclude the rate itself nor leave the range.
    return Interval(low=max(0.0, min(rate, (centre - half) / scale)), high=min(1.0, max(rate, (centre + half) / scale)))


def newcombe_paired(both: int, lost: int, gained: int, neither: int, confidence: float) -> Interval:
    """Interval of a drop p_before - p_after over pairs (Newcombe 1998, Stat. Med. 17:2635, method 10).

    The Wilson intervals of the two rates are combined with the correlation of the pairs, phi, which carries the
    paper's continuity correction.

    Args:
        both: Pairs that show it before and after.
        lost: Pairs that show it before only.
        gained: Pairs that show it after only.
        neither: Pairs that never show it.
        confidence: Two-sided, in (0, 1).

    Returns:
        Bounds within [-1, 1]; a positive drop is a loss. No pair gives [-1, 1].
    """
    n = both + lost + gained + neither
    if n == 0:
        return Interval(low=-1.0, high=1.0)
    before, after = (both + lost) / n, (both + gained) / n
    ci_before, ci_after = wilson(both + lost, n, confidence), wilson(both + gained, n, confidence)
    phi = _phi(both, lost, gained, neither)

    def reach(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    drop = (lost - gained) / n
    low = drop - reach(before - ci_before.low, ci_after.high - after)
    high = drop + reach(ci_before.high - before, after - ci_after.low)
    return Interval(low=max(-1.0, low), high=min(1.0, high))


def _phi(both: int, lost: int, gained: int, neither: int) -> float:
    """Correlation of the pairs, in [-1, 1]; a positive one is moved towards 0 by half a pair, as in method 10."""
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    excess: float = both * neither - lost * gained
    if excess > 0:
        excess = max(0.0, excess - (both + lost + gained + neither) / 2)
    return excess / sqrt(margins)


def bootstrap_prompts(
    prompts: Sequence[tuple[float, int]], confidence: float, least: int = 0, seed: int = 0, draws: int = 2000
) -> Interval:
    """Percentile interval of a pooled mean under resampling of prompts (Efron & Tibshirani 1993, chapter 13).

    Pictures of one prompt are alike, so prompts are what is drawn again, with replacement.

    Args:
        prompts: Sum and number of pictures of each prompt. A rate sums hits; a paired drop sums lost minus gained.
        confidence: Two-sided, in (0, 1).
        least: Least value of one picture: 0 for a rate, -1 for a drop.
        seed: Seed of the drawing; the same input gives the same interval.
        draws: Resamples.

    Returns:
        Bounds within [least, 1]. A single prompt, or prompts that agree, give a point: take the `wider` of this and
        the score interval. No picture gives [least, 1].
    """
    measured = [(total, n) for total, n in prompts if n > 0]
    if not measured:
        return Interval(low=float(least), high=1.0)
    first, pictures = measured[0]
    if all(total * pictures == first * n for total, n in measured):  # whatever is drawn has the same mean
        return Interval(low=first / pictures, high=first / pictures)
    drawer = Random(seed)
    means = []
    for _ in range(draws):
        totals, counts = zip(*drawer.choices(measured, k=len(measured)), strict=True)
        means.append(sum(totals) / sum(counts))
    means.sort()
    tail = (1 - confidence) / 2
    return Interval(low=means[floor(tail * draws)], high=means[ceil((1 - tail) * draws) - 1])


def true_rate(apparent: Interval, sensitivity: Interval, alarms: Interval) -> Interval:
    """Interval of a rate that a fallible recogniser measured (Rogan & Gladen 1978, Am. J. Epidemiol. 107:71).

    The apparent rate q is made up of what is there and found and of what is not there and seen all the same,
    q = p s + (1 - p) f, hence p = (q - f) / (s - f). That is monotone in each of the three, so over their intervals it
    is least and greatest at corners. Corners of intervals that each hold with probability c hold together with at
    least 3 c - 2 (Bonferroni), and are wider than intervals made for the purpose (Lang & Reiczigel 2014, Prev. Vet.
    Med. 113:13): `wider` of this and the apparent rate's own interval never makes a bound look better.

    Args:
        apparent: Of the rate that is recognised, in [0, 1].
        sensitivity: Of how often what is there is recognised.
        alarms: Of how often what is not there is recognised all the same.

    Returns:
        Bounds within [0, 1]; all of it where the recogniser may tell nothing apart.
    """
    if sensitivity.low <= alarms.high:
        return Interval(low=0.0, high=1.0)

    def corners(q: float) -> list[float]:
        pairs = ((s, f) for s in (sensitivity.low, sensitivity.high) for f in (alarms.low, alarms.high))
        return [min(1.0, max(0.0, (q - f) / (s - f))) for s, f in pairs]

    return Interval(low=min(corners(apparent.low)), high=max(corners(apparent.high)))


def true_drop(apparent: Interval, sensitivity: Interval, alarms: Interval) -> Interval:
    """Interval of a drop that a fallible recogniser measured: of two rates as in `true_rate`, f cancels.

    Args:
        apparent: Of the drop that is recognised, in [-1, 1].
        sensitivity: Of how often what is there is recognised, before and after alike.
        alarms: Of how often what is not there is recognised all the same.

    Returns:
        Bounds within [-1, 1]; all of it where the recogniser may tell nothing apart.
    """
    apart = sensitivity.low - alarms.high
    if apart <= 0:
        return Interval(low=-1.0, high=1.0)
    steps = (apart, sensitivity.high - alarms.low)
    corners = [min(1.0, max(-1.0, bound / step)) for bound in (apparent.low, apparent.high) for step in steps]
    return Interval(low=min(corners), high=max(corners))


def normal(value: float, error: float, confidence: float) -> Interval:
    """Interval of an estimate that is about normally distributed.

    Args:
        value: The estimate.
        error: Its standard error.
        confidence: Two-sided, in (0, 1).
    """
    reach = _z(confidence) * error
    return Interval(low=value - reach, high=value + reach)


def wider(a: Interval, b: Interval) -> Interval:
    """The smallest interval that holds both: neither method can make a bound look better."""
    return Interval(low=min(a.low, b.low), high=max(a.high, b.high))


def samples_needed(limit: float, confidence: float) -> int:
    """Pictures without a single hit that it takes to prove a limit: the least n with `wilson`(0, n) within it.

    Args:
        limit: Upper limit of a rate, in (0, 1].
        confidence: Two-sided, in (0, 1).

    Returns:
        73 for 5 % and 35 for 10 %, at 95 % confidence. Beyond a billion it is a billion: no audit gets there.
    """
    squared = _z(confidence) ** 2
    solution = squared * (1 - limit) / limit  # of squared / (n + squared) = limit
    if solution > 1e9:
        return 10**9
    return next(n for n in count(max(0, floor(solution) - 1)) if wilson(0, n, confidence).high <= limit)


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)
