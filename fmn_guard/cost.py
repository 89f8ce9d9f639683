"""What a plan will cost, counted before anything is done."""

from __future__ import annotations

from .plan import PassSpec, Plan
from .record import Record


class Cost(Record):
    """What a plan will cost; an estimate, outside the plan's digest."""

    passes: int
    """Forget-Me-Not passes."""
    training_steps: int
    """Optimiser steps, at most."""
    images: int
    """Pictures drawn: both sides of every probe, those that passes see, and at most so many to stop by."""
    unet_evaluations: int
    """UNet evaluations of one picture, guidance counted twice."""


def estimate(plan: Plan) -> Cost:
    """Counts what a plan will do."""
    at_work = [spec for spec in plan.passes if spec.steps]
    images = 2 * len(plan.probes) + sum(map(_pictures, at_work)) + max((s.retain.pictures for s in at_work), default=0)
    guided = 2 if plan.sampler.guidance > 1 else 1
    steps = sum(spec.steps for spec in at_work)
    trained = sum(spec.steps * spec.batch for spec in at_work)
    # pictures of the name and of its anchor, each seen by the base with either sentence
    seen = sum(2 * 2 * spec.image_count * spec.times for spec in at_work)
    return Cost(
        passes=len(plan.passes),
        training_steps=steps,
        images=images,
        unet_evaluations=images * plan.sampler.steps * guided + trained + seen,
    )


def _pictures(spec: PassSpec) -> int:
    """Those of the name where none are given, those of its anchor, and those of every look."""
    looks = len(spec.preserve) - (-spec.steps // spec.stop.every) if spec.stop else 0
    stop = len(spec.stop.prompts) * looks if spec.stop else 0
    return spec.image_count * (1 if spec.images else 2) + stop
