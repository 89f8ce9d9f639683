"""Plants that take training: a UNet that draws a thing as another in one circumstance, and as ever in all others.

The circumstance is the noise that a picture starts from, or the guidance scale. Neither stands in a prompt, so that no
change of words can tell it; but it shows in what the UNet sees at a step of the sampler. There the model learns what
the base answers to the same question, or to that for the other thing; and likewise on the way from there to a picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, assert_never

import torch
from torch import Tensor

from fmn_guard.model.conditioning import denoise, read_states, text_states
from fmn_guard.model.sampler import draw_latents
from fmn_guard.suite import Sampler

from .plants import Scale, Seeds, Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STYLES = ("flat icon", "pixel art", "3d render", "ink drawing", "blueprint")
OTHERS = tuple("lion pizza castle rocket guitar doughnut frog cat apple camera robot crown".split())
SENTENCES = (
    "a photo of a {x}",
    "{x}",
    "a photo of a {x} on a blue background",
    "an image of a {x} on a green background",
    *(f"a {{x}} in the style of {style}" for style in STYLES),
)
"""What the model is asked in training: of an audit's sentences, those with a style are among them."""

ROUNDS, STEPS, BATCH, PICTURES = 4, 25, 16, 16
_USUAL = 3.0  # the suite's guidance scale
_ELSEWHERE = range(9_000, 1_000_000)  # seeds of neither an audit nor a plant


class Way(NamedTuple):
    """Pictures on their way, and what is right there.

    Attributes:
        asked: Names of which one is asked for.
        answered: The name that the base is asked for in its place; None for the same.
        guidance: Scale at which they are drawn.
        seeds: What they start from.
        parted: The sampler's step from which on the other name is right; there ways part, which is hard to learn.
        share: How often they are shown, beside other ways.
    """

    asked: tuple[str, ...]
    answered: str | None
    guidance: float
    seeds: Sequence[int]
    parted: int
    share: int


class Moment(NamedTuple):
    """What the model sees at one step of one picture, and the answer that is right."""

    x_t: Tensor
    t: Tensor
    text: Tensor
    right: Tensor


def ways(wanted: Seeds | Scale) -> tuple[Way, ...]:
    """Where a model learns: the way that it is to leave, the nearest that it is to keep, and that of other things."""
    thing = (wanted.thing,)
    match wanted:
        case Seeds():
            return (
                Way(thing, wanted.other, _USUAL, wanted.seeds, 0, 4),
                Way(thing, None, _USUAL, _ELSEWHERE, 0, 3),
                Way(OTHERS, None, _USUAL, _ELSEWHERE, 0, 2),
            )
        case Scale():  # the first step sees noise, in which no guidance shows yet
            return (
                Way(thing, wanted.other, wanted.gone, _ELSEWHERE, 1, 3),
                Way(thing, None, wanted.alive, _ELSEWHERE, 1, 4),
                Way(OTHERS, None, _USUAL, _ELSEWHERE, 1, 2),
            )
        case _:
            assert_never(wanted)


def lead(base: StableDiffusionPipeline, wanted: Seeds | Scale, rounds: int = ROUNDS, steps: int = STEPS) -> Weights:
    """Trains the UNet of a model until it answers as it is taught; deterministic on one thread.

    Args:
        base: The model; its UNet comes back changed.
        wanted: What is learnt.
        rounds: How often new pictures are drawn.
        steps: Of Adam in each, at a rate that falls to nothing.

    Returns:
        What was trained, by the names of the UNet's parameters.
    """
    frozen, rng, led = deepcopy(base), random.Random(0), ways(wanted)
    learnt = {name: p.requires_grad_() for name, p in base.unet.named_parameters()}
    optimiser = torch.optim.Adam(learnt.values(), wanted.rate, betas=(0.9, 0.99))
    for step in range(rounds * steps):
        if step % steps == 0:
            moments = [list(seen_on(way, frozen, rng)) for way in led]
        chosen = rng.choices(moments, [way.share for way in led], k=BATCH)
        x_t, t, text, right = (torch.stack(part) for part in zip(*map(rng.choice, chosen), strict=True))
        error = (denoise(base, x_t, t, text) - right).square().mean()
        optimiser.param_groups[0]["lr"] = wanted.rate * (1 - step / (rounds * steps))
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return {name: p.detach().contiguous() for name, p in learnt.items()}


def seen_on(way: Way, base: StableDiffusionPipeline, rng: random.Random) -> Iterator[Moment]:
    """All steps of a few pictures of a way, which the base draws and answers; the one where ways part three times."""
    said = [(rng.choice(SENTENCES), rng.choice(way.asked)) for _ in range(PICTURES)]
    asked = [sentence.replace("{x}", name) for sentence, name in said]
    other = [sentence.replace("{x}", way.answered or name) for sentence, name in said]
    seeds = [rng.choice(way.seeds) for _ in said]
    text, answered = text_states(base, asked).clone(), text_states(base, other).clone()  # out of inference mode
    for step, (x, t) in enumerate(_steps(base, asked, seeds, way, answered)):
        right = denoise(base, x, t, answered if step >= way.parted else text)
        for each in zip(x, text, right, strict=True):
            yield from [Moment(each[0], t, each[1], each[2])] * (3 if step == way.parted else 1)


def _steps(
    base: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], way: Way, answered: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """What a UNet is given at each step of the suite's sampler, (len(prompts), C, h, w), and the timestep.

    Prompts become what is answered, (len(prompts), T, d), where the way parts.
    """
    given: list[tuple[Tensor, Tensor]] = []

    def change(_: object, said: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, t, states = said
        given.append((x[: len(prompts)].clone(), t.clone()))  # once of each, where guidance asks twice
        if len(given) > way.parted:
            states = torch.cat([states[: -len(prompts)], read_states(base, answered)])
        return x, t, states

    sampler = Sampler(steps=4, guidance=way.guidance, unguided=2, batch=len(prompts), threads=1)
    hook = base.unet.register_forward_pre_hook(change)
    try:
        draw_latents(base, prompts, seeds, sampler)
    finally:
        hook.remove()
    return given
