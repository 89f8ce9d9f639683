"""The model after each pass, lent to the auditor: a patch holds the edits of passes apart, in their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import BrokenChain
from ..evidence import PassRecords
from ..model.conditioning import denoiser
from ..record import file_digest
from .patch import PATCH, edits_after, read_patch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class PassStates:
    """Lends a base pipeline the weights that it had after so many passes.

    Args:
        run: A run folder, its passes done one after another.
        passes: Its record of passes.

    Raises:
        BrokenChain: its patch is not what the eraser left.
    """

    def __init__(self, run: Path, passes: PassRecords) -> None:
        path = run / PATCH
        if not path.is_file() or file_digest(path) != passes.patch_digest:
            raise BrokenChain(
                f"{path} is missing, or not what passes.json was written with",
                hint="restore it, or remove passes.json and forget again",
            )
        self._parts = read_patch(path).parts

    @contextmanager
    def after(self, base: StableDiffusionPipeline, done: int) -> Iterator[None]:
        """Patches the base meanwhile; it gets its own weights back, bit for bit, even on error."""
        edits = edits_after(self._parts, done)
        weights = {name: weight for name, weight in denoiser(base).named_parameters() if name in edits}
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
