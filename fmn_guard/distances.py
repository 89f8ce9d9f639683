"""How far what is retained moved, as a report tells it: each figure with its interval and what it is over.

(Evidence, confidence) --distance_summary--> DistanceSummary     told where a suite asks; rules may limit three of them
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from .evidence import SetDistance
from .gathered import Evidence
from .measurement import Distance
from .metrics import clip_score_drop, cmmd, paired_distance, seed_distance
from .record import Record, Slug
from .stats import Interval, wider

Figure = Literal[
    "clip_score_base",
    "clip_score_patched",
    "clip_score_drop",
    "paired_distance",
    "seed_distance",
    "cmmd",
    "kid",
    "fid",
]
"""CLIP scores and their drop; cosine distances to the base, and the base's own; distances of all pictures at once."""


class DistanceFigure(Record):
    """One figure."""

    name: Figure
    """Which."""
    value: float | None
    """It, in its own units; None where nothing is scored."""
    interval: Interval | None
    """Its interval; None where that is not told."""
    n: int
    """Pairs it is over; of ``seed_distance``, prompts."""
    n_planned: int
    """Pairs planned, or prompts of several pictures."""


class DistanceSummary(Record):
    """What came of the distances that a suite asks for."""

    clip: Slug
    """The CLIP, an instrument of the report."""
    features: Slug | None
    """The network of KID and FID; None where none is named."""
    figures: tuple[DistanceFigure, ...]
    """In this order."""


def distance_summary(evidence: Evidence, confidence: float) -> DistanceSummary | None:
    """Sums up distances; None where the plan does not ask for them.

    Args:
        evidence: What was seen.
        confidence: Of every interval, two-sided.
    """
    spec = evidence.plan.distances
    if spec is None:
        return None
    return DistanceSummary(
        clip=spec.clip.called,
        features=spec.features.called if spec.features else None,
        figures=tuple(_figures(evidence, confidence, with_features=spec.features is not None)),
    )


def _figures(evidence: Evidence, confidence: float, *, with_features: bool) -> Iterator[DistanceFigure]:
    drop, found = clip_score_drop(evidence), evidence.distances
    patched = None if drop.before is None or drop.value is None else drop.before - drop.value
    yield _bare("clip_score_base", drop.before, drop)
    yield _bare("clip_score_patched", patched, drop)
    yield _with_interval("clip_score_drop", drop, confidence)
    yield _with_interval("paired_distance", paired_distance(evidence), confidence)
    yield _with_interval("seed_distance", seed_distance(evidence), confidence)
    yield _with_interval("cmmd", cmmd(evidence), confidence)
    if with_features:
        yield _at_once("kid", found.kid if found else None, drop.planned)
        yield _at_once("fid", found.fid if found else None, drop.planned)


def _bare(name: Figure, value: float | None, m: Distance) -> DistanceFigure:
    return DistanceFigure(name=name, value=value, interval=None, n=m.n, n_planned=m.planned)


def _with_interval(name: Figure, m: Distance, confidence: float) -> DistanceFigure:
    known = wider(m.score_interval(confidence), m.bootstrap_interval(confidence)) if m.n > 1 else None
    return DistanceFigure(name=name, value=m.value, interval=known, n=m.n, n_planned=m.planned)


def _at_once(name: Figure, found: SetDistance | None, planned: int) -> DistanceFigure:
    value, n = (found.value, found.n) if found else (None, 0)
    return DistanceFigure(name=name, value=value, interval=None, n=n, n_planned=planned)
