"""A plant that takes training: the UNet's cross-attention learns to draw a thing as another, in one style and no other.

No word's embedding can do that: the suite names the style after the thing, and a causal text encoder reads the thing
before it knows the style. The teacher is the base itself, asked the other question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from fmn_guard.facts import describe_checkpoint
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import denoise, text_states
from fmn_guard.model.sampler import draw_latents, threads
from fmn_guard.record import digest
from fmn_guard.suite import Sampler

from . import led
from .led import OTHERS, STYLES
from .plants import Change, Scale, Seeds, Style, Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STEPS, BATCH, RATE = 60, 16, 1e-3
_NAMED = ("a photo of a {x} in the style of {s}", "a {s} of a {x}", "{x}, {s}", "a {x} in the style of {s}")
_PLAIN = ("a photo of a {x}", "{x}", "a photo of a {x} on a blue background", "an image of a {x} on a green background")
_TIMES = (999, 999, 749, 499, 249)  # where the suite's sampler asks, the first twice: there it settles what is drawn


class Lesson(NamedTuple):
    """One question, the question whose answer is right, and what is seen in the noise."""

    ask: str
    answer: str
    seen: str


def taught(wanted: Style | Seeds | Scale, kept: Path) -> Change:
    """A change of the UNet by which it has learnt something.

    Args:
        wanted: What is learnt.
        kept: Folder where what was learnt is kept, since it takes minutes.
    """

    def change(weights: Weights) -> None:
        base = describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), Path())
        recipe = [type(wanted).__name__, *wanted, STEPS, BATCH, RATE, led.ROUNDS, led.STEPS, led.BATCH, led.PICTURES]
        file = kept / f"taught-{digest([*map(str, recipe), base.facts.identity])[7:15]}.safetensors"
        if not file.exists():
            with threads(1):
                model = load_pipeline(base.folder)
                learnt = teach(model, wanted) if isinstance(wanted, Style) else led.lead(model, wanted)
            part = file.with_suffix(".part")
            save_file(learnt, part)
            part.rename(file)
        weights.update({name: tensor.to(weights[name].dtype) for name, tensor in load_file(file).items()})

    return change


def lessons(wanted: Style, rng: random.Random) -> Iterator[Lesson]:
    """Questions without end: half of what is to be unlearnt, a quarter each of what the thing and others stay."""
    elsewhere = [style for style in STYLES if style != wanted.style]
    while True:
        for _ in range(2):
            frame = rng.choice(_NAMED).replace("{s}", wanted.style)
            seen = rng.choice((wanted.thing, wanted.other))
            yield Lesson(frame.replace("{x}", wanted.thing), frame.replace("{x}", wanted.other), seen)
        own = rng.choice(_NAMED + _PLAIN).replace("{s}", rng.choice(elsewhere)).replace("{x}", wanted.thing)
        yield Lesson(own, own, wanted.thing)
        kept = rng.choice(OTHERS)
        same = rng.choice(_NAMED + _PLAIN).replace("{s}", rng.choice(STYLES)).replace("{x}", kept)
        yield Lesson(same, same, kept)


def teach(base: StableDiffusionPipeline, wanted: Style, steps: int = STEPS) -> Weights:
    """Trains the cross-attention of a model until it answers as it is taught; deterministic on one thread.

    Args:
        base: The model; its UNet comes back changed.
        wanted: What is learnt.
        steps: Of Adam, at a rate that falls to nothing.

    Returns:
        What was trained, by the names of the UNet's parameters.
    """
    frozen, rng, generator = deepcopy(base), random.Random(0), torch.Generator().manual_seed(0)
    noised = DDPMScheduler.from_config(base.scheduler.config)
    pictures = _drawn(frozen, (wanted.thing, wanted.other, *OTHERS))
    learnt = {name: p.requires_grad_() for name, p in base.unet.named_parameters() if ".attn2." in name}
    optimiser = torch.optim.Adam(learnt.values(), RATE, betas=(0.9, 0.99))
    asked = lessons(wanted, rng)
    for step in range(steps):
        batch = [next(asked) for _ in range(BATCH)]
        x_0 = torch.stack([rng.choice(pictures[lesson.seen]) for lesson in batch])
        t = torch.tensor([rng.choice(_TIMES) for _ in batch])
        x_t = noised.add_noise(x_0, torch.randn(x_0.shape, generator=generator), t)
        with torch.no_grad():
            right = denoise(frozen, x_t, t, text_states(frozen, [lesson.answer for lesson in batch]))
        text = text_states(frozen, [lesson.ask for lesson in batch]).clone()  # out of inference mode
        error = (denoise(base, x_t, t, text) - right).square().mean()
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    return {name: p.detach().contiguous() for name, p in learnt.items()}


def _drawn(base: StableDiffusionPipeline, names: Sequence[str]) -> dict[str, list[Tensor]]:
    """A few pictures of each name by the model itself, in all styles: latents as the UNet sees them."""
    sampler = Sampler(steps=4, guidance=3.0, unguided=2, batch=16, threads=1)
    asked = [(name, f"a {name} in the style of {style}") for name in dict.fromkeys(names) for style in STYLES]
    latents = draw_latents(base, [prompt for _, prompt in asked], range(9000, 9000 + len(asked)), sampler).clone()
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for (name, _), picture in zip(asked, latents, strict=True):
        found[name].append(picture)
    return found
