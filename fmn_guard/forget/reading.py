"""What a head of a cross-attention reads of a sentence: the text states, averaged by its attention.

A head delivers its values' image of what it reads and nothing else. All that a change of values does to a picture
goes through it, so what a pass must move and what it must leave alone are second moments of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.attention import cross_attentions, seen_attention

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Parameter name of a cross-attention's values -> (heads, d, d) float64.
Moments = dict[str, Tensor]

_BATCH = 32
_PIXELS = 64


@torch.no_grad()
def moments(
    pipeline: StableDiffusionPipeline, x_t: Tensor, t: Tensor, text: Tensor, also: Tensor | None = None
) -> tuple[Moments, Moments]:
    """Second moments of what is read in the given records, summed over records and averaged over some 64 pixels.

    With a the attention of a pixel over tokens, r = sum_j a_j text_j and o = sum_j a_j also_j.

    Args:
        pipeline: the model.
        x_t: (N, C, h, w), noisy latents.
        t: (N,), their timesteps.
        text: (N, T, d), states of the sentences that are read.
        also: (N, T, d), states that the same attention reads in their place; ``text`` itself by default.

    Returns:
        Sums of r r^T and of o r^T.
    """
    own: Moments = {}
    crossed: Moments = {}
    part = slice(0)

    def see(name: str, probs: Tensor) -> None:
        probs = probs[:, :, :: max(1, probs.shape[2] // _PIXELS)]  # evenly spaced, to save time
        read = _averaged(probs, text[part])
        other = read if also is None else _averaged(probs, also[part])
        key, pixels = f"{name}.to_v.weight", probs.shape[2]
        own[key] = own.get(key, 0) + (read.mT @ read).cpu().double() / pixels
        crossed[key] = crossed.get(key, 0) + (other.mT @ read).cpu().double() / pixels

    with seen_attention(pipeline.unet, see):
        for start in range(0, len(x_t), _BATCH):
            part = slice(start, start + _BATCH)
            pipeline.unet(x_t[part], t[part], text[part])
    assert own.keys() == {f"{name}.to_v.weight" for name in cross_attentions(pipeline.unet)}
    return {name: _positive(moment) for name, moment in own.items()}, crossed


def added(*weighted: tuple[float, Moments]) -> Moments:
    """The weighted sum of moments."""
    names = weighted[0][1]
    return {name: sum((w * m[name] for w, m in weighted), torch.zeros_like(names[name])) for name in names}


def noised(pipeline: StableDiffusionPipeline, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Latents (N, C, h, w) at uniform timesteps, and these timesteps (N,)."""
    alphas = pipeline.scheduler.alphas_cumprod.to(x0.device)
    t = torch.randint(0, len(alphas), (len(x0),), generator=generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    alpha = alphas[t].view(-1, 1, 1, 1)
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, t


def _positive(moment: Tensor) -> Tensor:
    """The same without the directions that single precision has rounded below zero."""
    values, vectors = torch.linalg.eigh(moment)
    positive: Tensor = (vectors * values.clamp(min=0).unsqueeze(-2)) @ vectors.mT
    return positive


def _averaged(probs: Tensor, states: Tensor) -> Tensor:
    """(B, heads, P, T) by (B, T, d) -> (heads, B*P, d)."""
    return torch.einsum("bhpt,btd->hbpd", probs, states).flatten(1, 2)
