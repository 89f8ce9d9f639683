"""The model after each pass: what was changed by then, kept as patches beside the last one, and lent to the auditor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import BrokenChain
from ..evidence import PassRecords
from ..plan import Plan
from ..record import Digest, file_digest
from .patch import read_patch, write_patch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def keep_state(run: Path, plan: Plan, done: int, edits: dict[str, Tensor]) -> None:
    """Writes the patch as it is after so many passes, if the plan looks at the model there."""
    if done <= len(plan.between):
        (run / "states").mkdir(exist_ok=True)
        write_patch(
            _path(run, done),
            edits,
            base_digest=plan.base.identity,
            plan_digest=plan.digest,
            concepts=[spec.slug for spec in plan.passes[:done]],
        )


def state_digests(run: Path, plan: Plan) -> tuple[Digest, ...]:
    """Digests of all that `keep_state` wrote, in order."""
    return tuple(file_digest(_path(run, done)) for done, _ in enumerate(plan.between, start=1))


def edits_after(run: Path, passes: PassRecords, done: int) -> dict[str, Tensor]:
    """What the first passes of a run changed: differences of UNet weights, by parameter name.

    Args:
        run: The run folder.
        passes: Its record of passes.
        done: How many of them, from 1.

    Raises:
        BrokenChain: it is not what the eraser left.
    """
    path = _path(run, done)
    if not path.is_file() or file_digest(path) != passes.states[done - 1]:
        raise BrokenChain(
            f"{path} is missing, or not what passes.json was written with",
            hint="restore it, or remove passes.json and forget again",
        )
    return read_patch(path)[1]


class PassStates:
    """Lends a base pipeline the weights that it had after so many passes.

    Args:
        run: A run folder, its passes done.
        passes: Its record of passes.
    """

    def __init__(self, run: Path, passes: PassRecords) -> None:
        self._run, self._passes = run, passes

    @contextmanager
    def after(self, base: StableDiffusionPipeline, done: int) -> Iterator[None]:
        """Patches the base meanwhile; it gets its own weights back, bit for bit, even on error.

        Raises:
            BrokenChain: the state is not what the eraser left.
        """
        edits = edits_after(self._run, self._passes, done)
        weights = {name: weight for name, weight in base.unet.named_parameters() if name in edits}
        own = {name: weight.clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                weight += edits[name].to(weight)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(own[name])


def _path(run: Path, done: int) -> Path:
    return run / "states" / f"after-{done}.safetensors"
