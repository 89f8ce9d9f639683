"""How the passes of a plan follow one another: in turn, in turn and then mended, each alone and merged, or at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .manifest import SequenceMode
from .passes import PassSpec
from .plan import Plan

IN_WORDS: Mapping[SequenceMode, str] = {
    "sequential": "one after another",
    "mended": "one after another, then mended in closed form",
    "merge": "each from the base alone, then merged in closed form",
    "joint": "all at once",
}
"""Each mode in a few words."""


def passes_run(plan: Plan) -> tuple[PassSpec, ...]:
    """The passes that the eraser runs: those of the plan, or one over all of them."""
    return (joined(plan.passes),) if plan.sequence == "joint" else plan.passes


def joined(passes: Sequence[PassSpec]) -> PassSpec:
    """One pass over all concepts, which costs as much as all of theirs.

    It takes as many steps as they do together, and looks as often as one of them; each sentence is led as far as in its
    own pass. In its closed form the language weighs 1 / sum(1 / beta), so that each concept's states weigh against it
    as in a pass of its own. Its drift budget is that of changes which have nothing to do with one another: sqrt(n) of
    one. What is stored of it may take the bytes of all of them.

    Args:
        passes: At least one; settings that a plan gives all passes are taken from the first.
    """
    first = passes[0]
    every = sum(spec.stop.every for spec in passes if spec.stop)
    share = sum(spec.stored_as.share for spec in passes if spec.stored_as)
    drift = first.rollback.drift * math.sqrt(len(passes)) if first.rollback else 0.0
    return first.model_copy(
        update={
            "slug": "joint",
            "labels": (),
            "names": tuple(name for spec in passes for name in spec.names),
            "prompts": tuple(
                prompt.model_copy(update={"repulsion": spec.repulsion}) for spec in passes for prompt in spec.prompts
            ),
            "stand_ins": max((spec.stand_ins for spec in passes), key=lambda words: max(map(len, words), default=0)),
            "pictured": tuple(prompt for spec in passes for prompt in spec.pictured),
            "images": None,
            "images_digest": None,
            "image_count": sum(spec.image_count for spec in passes),
            "steps": sum(spec.steps for spec in passes),
            "stop": first.stop.model_copy(update={"every": every}) if first.stop else None,
            "preserve": 1 / sum(1 / spec.preserve for spec in passes),
            "rollback": first.rollback.model_copy(update={"drift": drift}) if first.rollback else None,
            "stored_as": first.stored_as.model_copy(update={"share": share}) if first.stored_as else None,
            "retain": first.retain.model_copy(
                update={"kept": tuple(dict.fromkeys(s for spec in passes for s in spec.retain.kept)), "forgotten": ()}
            ),
        }
    )
