"""Inversion rounds: a closed-form solution is attacked by textual inversion, and solved again with what was found.

Only moments of what heads read of the inverted tokens are kept, and these no longer than the pass: the tokens say how
to get the concept back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..evidence import RoundRecord
from ..inversion import InversionSettings
from ..model.attention import EditedLinear, speaking_as_base
from ..model.conditioning import denoise, text_states
from ..model.inversion import Inversion, Schedule, invert, inverted_states
from ..passes import PassSpec, RoundsSpec, TrainingPrompt
from ..progress import Progress, silent
from .closed_form import HoldNearest, redirect_holding
from .reading import Moments, added
from .retain import Retained

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Read = Callable[[Tensor, Tensor], tuple[Moments, Moments]]

_FIRST_SEED = 60_000_000  # of inversions; an audit's begin at 0
_AT_THE_END = 6  # a share of the steps: whether an inversion arrived is seen in its last sixth


def close_roads(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    spec: PassSpec,
    latents: Tensor,
    named: tuple[Moments, Moments],
    read: Read,
    before: dict[str, Tensor],
    retained: Retained,
    hold_nearest: HoldNearest | None = None,
    progress: Progress = silent,
) -> tuple[tuple[str, ...], Retained, tuple[RoundRecord, ...]]:
    """Replaces a pass's closed-form solution by one that inversion does not go round, as far as its rounds find out.

    With G and X the moments of the name as `redirect` takes them, and G_r, X_r the means of those of all that rounds
    found so far, each round is solved for G + w G_r and X + w X_r, from the edits before the pass. A round that finds
    nothing changes nothing; the next begins from other words.

    Args:
        pipeline: the model.
        layers: from `fmn_guard.model.attention.edited_values`.
        spec: the pass, with its rounds.
        latents: (N, C, h, w), the pictures to forget come first.
        named: moments of the name.
        read: gives mean moments of sentences' states, and of those with others read in their place.
        before: edits before the pass.
        retained: what must be left alone.
        hold_nearest: see `redirect_holding`.
        progress: told of each step of an inversion.

    Returns:
        Words that are held in sentences of their own, what must be left alone with these, and what each round found.
    """
    rounds = spec.rounds
    assert rounds is not None
    pictures = latents[: spec.image_count].clone()  # what was drawn in inference mode cannot carry gradients
    pictured = [spec.pictured[i % len(spec.pictured)] for i in range(spec.image_count)]
    frames = {prompt.framed: prompt for prompt in pictured}
    records: list[RoundRecord] = []
    sums: tuple[Moments, Moments] | None = None
    count = 0
    words: tuple[str, ...] = ()

    def solve(wanted: tuple[Moments, Moments]) -> tuple[tuple[str, ...], Retained]:
        return redirect_holding(
            layers, wanted, before, retained, rounds.preserve, rounds.projection, hold_nearest, rounds.looks, words
        )

    words, retained = solve(named)
    for number, starts in enumerate(rounds.words):
        found = 0
        for place, word in enumerate(starts):
            settings = _of_its_own(rounds, spec.seed, number, place)
            inverted = invert(pipeline, pictures, [prompt.framed for prompt in pictured], word, settings, progress)
            with speaking_as_base(layers):
                arrived = _arrived(pipeline, spec, pictures, pictured, inverted, settings)
            found += int(arrived.sum())
            for frame, prompt in frames.items() if arrived.any() else ():
                states = inverted_states(pipeline, frame, inverted)[arrived]
                anchor = _anchor(pipeline, spec, prompt, settings.tokens)
                own = read(states, anchor + spec.repulsion * (anchor - states))
                sums = _sum(len(states), own, 1.0 if sums else 0.0, sums or own)
                count += len(states)
        records.append(RoundRecord(found=found, sought=len(starts) * len(rounds.inversion.seeds)))
        if found and sums:
            words, retained = solve(_sum(1.0, named, rounds.weight / count, sums))
    return words, retained, tuple(records)


def _sum(
    weight: float, some: tuple[Moments, Moments], other: float, more: tuple[Moments, Moments]
) -> tuple[Moments, Moments]:
    return added((weight, some[0]), (other, more[0])), added((weight, some[1]), (other, more[1]))


def _of_its_own(rounds: RoundsSpec, seed: int, number: int, place: int) -> InversionSettings:
    """Settings of a round's inversions from one word, with seeds that no other word of the plan has."""
    first = _FIRST_SEED + 100_000 * seed + 1_000 * number + 100 * place
    return rounds.inversion.model_copy(
        update={
            "tokens": rounds.tokens[place % len(rounds.tokens)],
            "seeds": tuple((first + own) % 2**32 for own in rounds.inversion.seeds),
        }
    )


@torch.no_grad()
def _arrived(
    pipeline: StableDiffusionPipeline,
    spec: PassSpec,
    pictures: Tensor,
    pictured: list[TrainingPrompt],
    inverted: Inversion,
    settings: InversionSettings,
) -> Tensor:
    """Which seeds denoise the pictures nearer to how the model does by the name than by its anchor: (S,) bool."""
    named = text_states(pipeline, [prompt.text for prompt in pictured])
    anchored = torch.stack([_anchor(pipeline, spec, prompt) for prompt in pictured])
    schedule = Schedule(pipeline, pictures, settings)
    first = settings.steps - max(1, settings.steps // _AT_THE_END)
    halfway: list[Tensor] = []
    for step in range(settings.steps):
        x_t, t, target, rows = schedule.step(step)
        if step >= first:
            predicted = torch.stack([denoise(pipeline, x_t, t, text[rows]) for text in (named, anchored)])
            halfway.append(
                (predicted - target).square().flatten(2).mean((0, 2)).unflatten(0, (len(settings.seeds), -1))
            )
    return inverted.errors[:, first:].mean(1) < torch.cat(halfway, 1).mean(1).cpu()


def _anchor(
    pipeline: StableDiffusionPipeline, spec: PassSpec, prompt: TrainingPrompt, length: int | None = None
) -> Tensor:
    """(T, d), the mean state of what a prompt should deliver."""
    return text_states(pipeline, list(spec.anchors(prompt, length))).mean(0)
