"""What a head of a cross-attention reads of a sentence: the text states, averaged by its attention.

A head delivers its values' image of what it reads and nothing else. All that a change of values does to a picture
goes through it, so what a pass must move and what it must leave alone are second moments of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.attention import cross_attentions, seen_attention
from ..model.conditioning import denoise, denoiser, read_states, score_bias, seen_length
from ..model.placement import in_double

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Parameter name of a cross-attention's values -> (heads, d, d) float64.
Moments = dict[str, Tensor]
# Parameter name of a cross-attention's values -> (pixels, heads, channels / heads).
Queries = dict[str, Tensor]

_VALUES = ".to_v.weight"
_RECORDS = 32  # at once
_SENTENCES = 64  # at once
_PIXELS = 64  # of a layer and record


@torch.no_grad()
def queries(
    pipeline: StableDiffusionPipeline, x_t: Tensor, t: Tensor, text: Tensor, generator: torch.Generator
) -> Queries:
    """What pixels ask a sentence for, in the given records: as many in each layer, in random order.

    Args:
        pipeline: the model.
        x_t: (N, C, h, w), noisy latents.
        t: (N,), their timesteps.
        text: (N, T, d), states of the sentences they are denoised with.
        generator: of pixels and their order.
    """
    seen: dict[str, list[Tensor]] = {}

    def see(name: str, query: Tensor, _probs: Tensor) -> None:
        chosen = torch.randint(0, query.shape[2], (_PIXELS,), generator=generator).to(query.device)
        seen.setdefault(f"{name}{_VALUES}", []).append(query[:, :, chosen].transpose(1, 2).flatten(0, 1))

    with seen_attention(denoiser(pipeline), see):
        for start in range(0, len(x_t), _RECORDS):
            part = slice(start, start + _RECORDS)
            denoise(pipeline, x_t[part], t[part], text[part])
    order = torch.randperm(len(x_t) * _PIXELS, generator=generator)
    return {name: torch.cat(parts)[order.to(parts[0].device)] for name, parts in seen.items()}


@torch.no_grad()
def moments(
    pipeline: StableDiffusionPipeline, asked: Queries, text: Tensor, each: int, also: Tensor | None = None
) -> tuple[Moments, Moments]:
    """Second moments of what heads read of sentences, summed over sentences and averaged over queries.

    With a the attention of a pixel over tokens, r = sum_j a_j text_j and o = sum_j a_j also_j. Whatever picture a
    query comes from, it may ask any sentence: sentences take queries in turn.

    Args:
        pipeline: the model.
        asked: from `queries`.
        text: (N, T, d), states of the sentences that are read, on any device.
        each: queries to a sentence.
        also: (N, T, d), states that the same attention reads in their place.

    Returns:
        Sums of r r^T and of o r^T; nothing of the second without ``also``.
    """
    text = text[:, : seen_length(pipeline, text)]
    states = read_states(pipeline, text)
    others = None if also is None else read_states(pipeline, also[:, : text.shape[1]])
    width = states.shape[-1]
    own = {name: _zeros(heads, width) for name, heads in _heads(pipeline)}
    crossed = {} if others is None else {name: torch.zeros_like(moment) for name, moment in own.items()}
    for name, part, probs in _attended(pipeline, asked, text, states, each):
        read = _averaged(probs, states[part])
        own[name] += (read.mT @ read).cpu() / each
        if others is not None:
            crossed[name] += (_averaged(probs, others[part]).mT @ read).cpu() / each
    return own, crossed


@torch.no_grad()
def moved(
    pipeline: StableDiffusionPipeline,
    asked: Queries,
    text: Tensor,
    each: int,
    values: dict[str, Tensor],
    change: dict[str, Tensor],
) -> Tensor:
    """How far a change of values moves what is delivered of sentences: (N,), squared, mean over queries, sum of layers.

    Each layer counts relative to the mean square of what its values deliver of all the sentences.

    Args:
        pipeline: the model.
        asked: from `queries`.
        text: (N, T, d), states of the sentences.
        each: queries to a sentence.
        values: the checkpoint's, of each layer: (heads, out / heads, d).
        change: of these, of the same shapes.
    """
    states = read_states(pipeline, text)
    far, size = ({name: torch.zeros(len(text), dtype=torch.float64) for name in change} for _ in range(2))
    for name, part, probs in _attended(pipeline, asked, text, states, each):
        read = _averaged(probs, states[part]).unflatten(1, (-1, each))  # (heads, B, each, d)
        for total, weight in ((far, change[name]), (size, values[name])):
            delivered = read @ weight.to(read).mT[:, None]
            total[name][part] = delivered.square().sum(-1).mean(-1).sum(0).cpu()
    return torch.stack([far[name] / size[name].mean() for name in change]).sum(0)


def added(*weighted: tuple[float, Moments]) -> Moments:
    """The weighted sum of moments."""
    names = weighted[0][1]
    return {name: sum((w * m[name] for w, m in weighted), torch.zeros_like(names[name])) for name in names}


def noised(
    pipeline: StableDiffusionPipeline, x0: Tensor, generator: torch.Generator, noisiest: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Latents (N, C, h, w) at uniform timesteps of the schedule's noisiest share, and these timesteps (N,)."""
    alphas = pipeline.scheduler.alphas_cumprod.to(x0.device)
    t = torch.randint(round(len(alphas) * (1 - noisiest)), len(alphas), (len(x0),), generator=generator).to(x0.device)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    alpha = alphas[t].view(-1, 1, 1, 1)
    return alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, t


def _heads(pipeline: StableDiffusionPipeline) -> list[tuple[str, int]]:
    return [(f"{layer}{_VALUES}", module.heads) for layer, module in cross_attentions(denoiser(pipeline)).items()]


def _zeros(heads: int, width: int) -> Tensor:
    return torch.zeros(heads, width, width, dtype=torch.float64)


def _attended(
    pipeline: StableDiffusionPipeline, asked: Queries, text: Tensor, states: Tensor, each: int
) -> Iterator[tuple[str, slice, Tensor]]:
    """Of each layer and block of sentences the attention (B, heads, each, T) of its turn of queries.

    Args:
        pipeline: the model.
        asked: from `queries`.
        text: (N, T, d + p), the sentences.
        states: what is read of them.
        each: queries to a sentence.
    """
    bias = score_bias(pipeline, text)  # (N, 1, T)
    for layer, module in cross_attentions(denoiser(pipeline)).items():
        name, heads = f"{layer}{_VALUES}", module.heads
        for start in range(0, len(text), _SENTENCES):
            part = slice(start, start + _SENTENCES)
            block = states[part].to(asked[name].device)
            turn = torch.arange(start * each, (start + len(block)) * each) % len(asked[name])
            query = asked[name][turn.to(block.device)].unflatten(0, (len(block), each))  # (B, each, heads, c)
            key = module.head_to_batch_dim(module.to_k(block.to(module.to_k.weight)))
            unseen = None if bias is None else bias[part].to(key.device).repeat_interleave(heads, 0)  # (B*heads, 1, T)
            probs = module.get_attention_scores(query.transpose(1, 2).flatten(0, 1), key, unseen)
            yield name, part, probs.unflatten(0, (-1, heads))


def _averaged(probs: Tensor, states: Tensor) -> Tensor:
    """(B, heads, P, T) by (B, T, d) -> (heads, B*P, d) float64: in single precision a moment can fall below zero."""
    return in_double(torch.einsum("bhpt,btd->hbpd", probs.float(), states.to(probs.device)).flatten(1, 2))
