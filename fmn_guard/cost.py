"""What a plan will cost, counted before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .inversion import InversionSettings
from .passes import PassSpec
from .plan import Plan
from .record import Record


class Cost(Record):
    """What a plan will cost; an estimate, outside the plan's digest."""

    passes: int
    """Forget-Me-Not passes."""
    training_steps: int
    """Optimiser steps, at most."""
    images: int
    """Pictures drawn: both sides of every probe, some after each pass, those that passes see, and at most so many to
    stop by."""
    between: int
    """Those of them that are drawn between passes."""
    unet_evaluations: int
    """UNet evaluations of one picture, guidance counted twice."""


def estimate(plan: Plan) -> Cost:
    """Counts what a plan will do."""
    language = max((spec.retain.pictures for spec in plan.passes), default=0)  # drawn once for all passes
    between = sum(map(len, plan.between))
    images = 2 * len(plan.probes) + between + sum(map(_pictures, plan.passes)) + language
    inversions = [inversion for spec in plan.passes for inversion in _inversions(spec)]
    trained = sum(spec.steps * spec.batch for spec in plan.passes)
    inverted = sum(inversion.steps * inversion.batch * len(inversion.seeds) for inversion in inversions)
    # pictures of the name and of its anchor, each seen by the base with either sentence
    seen = sum(2 * 2 * spec.image_count * spec.times for spec in plan.passes if not spec.published)
    others = images - 2 * len(plan.probes)
    probing = sum(2 * plan.sampler_of(probe).evaluations for probe in plan.probes)
    return Cost(
        passes=len(plan.passes),
        training_steps=sum(spec.steps for spec in plan.passes) + sum(inversion.steps for inversion in inversions),
        images=images,
        between=between,
        unet_evaluations=probing + others * plan.sampler.evaluations + trained + inverted + seen,
    )


def _inversions(spec: PassSpec) -> Iterator[InversionSettings]:
    if spec.published and spec.published.inversion:
        yield spec.published.inversion
    if spec.rounds:
        yield from [spec.rounds.inversion for words in spec.rounds.words for _ in words]


def _pictures(spec: PassSpec) -> int:
    """Those of the name where none are given, those of its anchor if it has one, and those of every look."""
    own = spec.image_count * ((not spec.images) + (not spec.published))
    if spec.stop is None or not spec.steps:
        return own
    looks = math.ceil(spec.steps / spec.stop.every) + ("look" in spec.stages)
    return own + looks * len(spec.stop.prompts)
