"""Whether a pass is done: pictures of its own, looked at by a recogniser that never judges."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from ..model.clip import ZeroShot
from ..model.sampler import decode, draw_latents
from ..passes import StopSpec
from ..shipped import shipped_model
from ..suite import Sampler

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@cache
def _recogniser(name: str) -> ZeroShot:
    """One for all passes, which ask for the same names."""
    return ZeroShot(shipped_model(name))


class StopWatch:
    """Draws the stop pictures of a pass with the edits so far, from other seeds at each look.

    Args:
        pipeline: the model, its values edited.
        stop: what to draw and what to look for.
        sampler: how to draw.
        first_seed: of the stop pictures.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, stop: StopSpec, sampler: Sampler, first_seed: int) -> None:
        self._pipeline, self._stop, self._sampler = pipeline, stop, sampler
        self._next_seed = first_seed
        self._recogniser = _recogniser(stop.recogniser)
        readings = {
            frame: self._recogniser.text_vectors([frame.replace("{x}", name) for name in (stop.shown, *stop.others)])
            for frame in dict.fromkeys(stop.frames)
        }
        self._readings = torch.stack([readings[frame] for frame in stop.frames])

    def still_shown(self) -> float:
        """Mean probability, in [0, 1], that a stop picture shows the concept rather than anything else."""
        seeds = range(self._next_seed, self._next_seed + len(self._stop.prompts))
        self._next_seed = seeds.stop
        latents = draw_latents(self._pipeline, self._stop.prompts, seeds, self._sampler)
        chosen = self._recogniser.choose(decode(self._pipeline, latents), self._readings)
        return chosen[:, 0].mean().item()
