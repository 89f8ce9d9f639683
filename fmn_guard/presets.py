"""Presets: the eraser's settings, by the name a manifest asks for. A plan states all of them in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Dose:
    """How forcefully a pass begins, by the kind of what it forgets."""

    preserve: float
    repulsion: float


@dataclass(frozen=True)
class Preset:
    """An algorithm's settings; what is not explained here is in `fmn_guard.plan`, under the same name."""

    pictures: int
    """Pictures to forget that the base draws for a pass."""
    stand_ins: int
    """Random names whose mean a name is moved to."""
    times: int
    noisiest: float
    steps: int
    steps_unwatched: int
    """Steps where no recogniser says when to stop."""
    batch: int
    learning_rate: float
    momentum: float
    projection: float
    doses: Mapping[str, Dose]
    """By the kind of a pass."""
    redirect_weight: float
    language_weight: float
    loosened: float
    language_sentences: int
    language_pictures: int
    kept_weight: float
    nearest: int
    nearest_weight: float
    stop_pictures: int
    look_every: int
    gone: float
    threads: int
    merge_preserve: float = 1.0
    drift_budget: float = 0.15
    """Twice what the costliest pass of the quickstart costs: it is there for the one that goes wrong."""
    retries: int = 2
    gentler: float = 2.0
    stored_error: float = 1e-3
    stored_share: float = 0.01


PRESETS = {
    "guarded": Preset(
        pictures=8,
        stand_ins=16,
        times=8,
        noisiest=0.5,
        steps=36,
        steps_unwatched=16,
        batch=16,
        learning_rate=6e-3,
        momentum=0.8,
        projection=1e-3,
        # People differ from one another in little, and go at once; a thing has many looks, and rests of it remain.
        doses={
            "identity": Dose(preserve=200.0, repulsion=0.0),
            "style": Dose(preserve=50.0, repulsion=0.1),
            "object": Dose(preserve=60.0, repulsion=0.25),
            "nsfw": Dose(preserve=60.0, repulsion=0.25),
            "correction": Dose(preserve=50.0, repulsion=0.5),
        },
        redirect_weight=30.0,
        language_weight=12.0,
        loosened=0.4,
        language_sentences=5000,
        language_pictures=24,
        kept_weight=20.0,
        nearest=24,
        nearest_weight=12.0,
        stop_pictures=24,
        look_every=12,
        gone=0.005,
        threads=2,
    ),
}
