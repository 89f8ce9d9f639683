"""Where base and patched model look for a name: cross-attention, averaged while they draw one picture of each concept.

It is shown and never judged: an eraser may change where a model looks, or what it finds there.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..evidence import AttentionMap, Side
from ..model.attention import seen_attention
from ..model.conditioning import denoiser, prompt_tokens
from ..model.sampler import draw_latents, threads
from ..plan import Plan
from ..probes import Probe

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SIDE = 16
"""Places a side of a map: the resolution at which Stable Diffusion decides what goes where."""


def attention_of(
    plan: Plan, model: StableDiffusionPipeline, side: Side, probes: Sequence[Probe]
) -> list[AttentionMap | None]:
    """Draws a batch of probes, and sees where each pixel looks for the name meanwhile.

    Costs one picture a probe.

    Args:
        plan: The plan.
        model: Either model; nothing else may draw with it meanwhile.
        side: Which it is.
        probes: Probes that the plan gives positions for.

    Returns:
        A map of each probe; None for one that is not a number, as of a broken model.
    """
    with threads(plan.sampler.threads):
        masses = _masses(plan, model, probes)
    finite = masses.isfinite().flatten(1).all(1).tolist()
    return [
        _as_record(probe, side, mass) if ok else None for probe, mass, ok in zip(probes, masses, finite, strict=True)
    ]


def _masses(plan: Plan, model: StableDiffusionPipeline, probes: Sequence[Probe]) -> Tensor:
    """(B, SIDE, SIDE) float32: attention probability on the name, the mean over steps, layers and heads."""
    named = torch.zeros(len(probes), prompt_tokens(model))
    for i, probe in enumerate(probes):
        named[i, list(probe.positions)] = 1
    maps: list[Tensor] = []

    def see(_name: str, _query: Tensor, probs: Tensor) -> None:
        guided = probs[-len(probes) :].float().cpu()  # with guidance, the empty prompt's come first
        mass = torch.einsum("bhpt,bt->bp", guided, named) / guided.shape[1]
        wide = isqrt(mass.shape[1])
        maps.append(adaptive_avg_pool2d(mass.unflatten(1, (wide, wide)), SIDE))  # coarser layers are repeated

    with seen_attention(denoiser(model), see):
        draw_latents(
            model,
            [p.prompt for p in probes],
            [p.seed for p in probes],
            plan.sampler,
            batch=len(probes),
        )
    return torch.stack(maps).mean(0)


def _as_record(probe: Probe, side: Side, mass: Tensor) -> AttentionMap:
    peak = mass.max()
    levels = (255 * mass / peak.clamp(min=torch.finfo(mass.dtype).tiny)).round().to(torch.uint8)
    return AttentionMap(
        probe=probe.id,
        side=side,
        mass=round(mass.mean().item(), 6),
        peak=round(peak.item(), 6),
        rows=tuple(bytes(row.tolist()).hex() for row in levels),
    )
