"""Takes back a pass that costs the retained language more than its budget, and runs it again at a lower dose."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..evidence import PassRecord
from ..model.attention import EditedLinear
from ..passes import PassSpec
from .reading import Moments
from .resteer import drift_of


def within_budget(
    layers: dict[str, EditedLinear], spec: PassSpec, language: Moments, run: Callable[[PassSpec], PassRecord]
) -> PassRecord:
    """Runs a pass, and again from where it began while it is over its budget and retries are left.

    The last attempt stands whatever it costs; its record says so. What is measured is what the model reads of sentences
    that the eraser has anyway: no probe of the audit is seen.

    Args:
        layers: what the pass edits.
        spec: the pass, with its budget.
        language: moments of what is retained.
        run: runs the pass at a dose, on the layers as they are.
    """
    before = {name: layer.edit for name, layer in layers.items()}
    taken_back: list[float] = []
    while True:
        record = run(_gentler(spec, len(taken_back)))
        own = drift_of(layers, language, since=before)
        limit = spec.rollback
        # one that is not a number is within no budget
        if limit is None or own <= limit.drift or len(taken_back) == limit.retries:
            break
        taken_back.append(_written(own))
        for name, layer in layers.items():
            layer.edit = before[name]
    return record.model_copy(update={"own_drift": _written(own), "rolled_back": tuple(taken_back)})


def _gentler(spec: PassSpec, times: int) -> PassSpec:
    if spec.rollback is None or not times:
        return spec
    factor = spec.rollback.gentler**times
    rounds = spec.rounds and spec.rounds.model_copy(update={"preserve": spec.rounds.preserve * factor})
    lower = {"preserve": spec.preserve * factor, "learning_rate": spec.learning_rate / factor, "rounds": rounds}
    return spec.model_copy(update=lower)


def _written(drift: float) -> float:
    """As records hold it: -1 is not a number."""
    return round(drift, 6) if math.isfinite(drift) else -1.0
