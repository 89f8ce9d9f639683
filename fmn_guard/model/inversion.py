"""Textual inversion: which token embeddings make a model draw given pictures (Gal et al., arXiv 2208.01618).

min_e E[ |target(x_0, noise, t) - eps(x_t, t, text(sentence with e))|^2 ], target the noise or the velocity.

Eraser and auditor ask the same question of a model that may have been patched, and whose tokenizer may hold
placeholders already. Nothing of the model changes: embeddings are put in place of those of an ordinary word, at its
positions, while a sentence is read. They live in what is returned, and in no tokenizer, text encoder or checkpoint.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inversion import InversionSettings
from ..progress import Progress, silent
from .conditioning import (
    as_read,
    denoise,
    denoiser,
    prompt_tokens,
    text_encoders,
    text_ids,
    text_of,
    token_table,
)
from .sampler import threads

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Inversion:
    """What was found.

    Attributes:
        word: the word whose place the embeddings take.
        tokens: (S, K, d) float32, K embeddings of each seed.
        errors: (S, steps), mean squared error of each seed before each step.
    """

    word: str
    tokens: Tensor
    errors: Tensor


def invert(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    frames: Sequence[str],
    word: str,
    settings: InversionSettings,
    progress: Progress = silent,
) -> Inversion:
    """Finds embeddings by which a model draws given pictures; the model comes back as it was, even on error.

    What is drawn at random depends on the seeds alone: two models see the same pictures, noise and timesteps.

    Args:
        pipeline: the model, float32.
        latents: (N, C, h, w), the pictures, scaled as the denoiser sees them.
        frames: of each picture the sentence that describes it, with {x} for what is sought.
        word: an ordinary word to start from, one token, the same for all seeds; not the name of what is sought.
        settings: how.
        progress: told of each step.

    Raises:
        InputError: the word is not one token, a frame has no place for it or is cut off, or the model has two text
            encoders.
    """
    if text_encoders(pipeline) > 1:
        raise InputError(
            "textual inversion is built for one text encoder, this model has two text encoders",
            hint="measure no M-Scores on Stable Diffusion XL",
        )
    slots = [slot_of(pipeline, frame, word, settings.tokens) for frame in frames]
    unique = list(dict.fromkeys(slots))
    turn = torch.tensor([unique.index(slot) for slot in slots])
    table = token_table(pipeline).weight
    with threads(settings.threads), borrowed(pipeline):
        seen = Schedule(pipeline, latents, settings)
        start = table[unique[0].ids[unique[0].start]].detach().float().clone()
        tokens = start.expand(len(settings.seeds), settings.tokens, -1).clone().requires_grad_()
        norm = settings.norm or table.detach().float().norm(dim=-1).mean().item()
        optimiser = torch.optim.AdamW([tokens], settings.learning_rate, weight_decay=settings.weight_decay)
        errors = []
        for step in range(settings.steps):
            x_t, t, target, pictures = seen.step(step)  # (S * batch, ...)
            # each seed reads a sentence once, however many of its pictures it describes
            pairs = torch.arange(len(tokens)).repeat_interleave(settings.batch) * len(unique) + turn[pictures]
            needed, row = pairs.unique(return_inverse=True)
            read = read_with(pipeline, [unique[i] for i in needed % len(unique)], tokens[needed // len(unique)])
            predicted = denoise(pipeline, x_t, t, read[row])
            error = (predicted - target).square().flatten(1).mean(1).unflatten(0, (len(tokens), -1)).mean(1)  # (S,)
            share = 1 - (1 - settings.falls_to) * step / settings.steps
            optimiser.param_groups[0]["lr"] = settings.learning_rate * share
            (tokens.grad,) = torch.autograd.grad(error.sum(), [tokens])
            optimiser.step()
            with torch.no_grad():
                size = tokens.norm(dim=-1, keepdim=True)
                tokens.mul_((size + settings.pull * share * (norm - size)) / size)
            errors.append(error.detach())
            progress("inverting", step + 1, settings.steps)
    return Inversion(word, tokens.detach().cpu(), torch.stack(errors, 1).cpu())


@torch.no_grad()
def inverted_states(pipeline: StableDiffusionPipeline, frame: str, found: Inversion) -> Tensor:
    """What a model is told by a sentence with inverted tokens in it: (S, T, d + p)."""
    slot = slot_of(pipeline, frame, found.word, found.tokens.shape[1])
    return read_with(pipeline, [slot] * len(found.tokens), found.tokens.to(pipeline.device))


@torch.no_grad()
def sentence_vectors(pipeline: StableDiffusionPipeline, frame: str, found: Inversion) -> Tensor:
    """States of a sentence with inverted tokens at its end-of-text: (S, d), final layer norm included."""
    slot = slot_of(pipeline, frame, found.word, found.tokens.shape[1])
    width = token_table(pipeline).embedding_dim
    return inverted_states(pipeline, frame, found)[:, slot.end, :width]


@torch.no_grad()
def sentence_vector(pipeline: StableDiffusionPipeline, sentence: str) -> Tensor:
    """State of an ordinary sentence at its end-of-text: (d,), final layer norm included.

    Raises:
        InputError: the sentence is cut off.
    """
    ids, end = _encoded(pipeline, sentence)
    width = token_table(pipeline).embedding_dim
    return text_of(pipeline, torch.tensor([ids], device=pipeline.device))[0, end, :width]


@contextmanager
def spoken(
    pipeline: StableDiffusionPipeline, frames: Sequence[str], found: Inversion, seed: int
) -> Iterator[tuple[str, ...]]:
    """Makes prompts mean the tokens that a seed found, for all that this thread draws meanwhile.

    Args:
        pipeline: the model.
        frames: sentences, with {x} for the tokens.
        found: the tokens.
        seed: which of its seeds, counted from 0.

    Yields:
        The prompts to draw.
    """
    count = found.tokens.shape[1]
    slots = list(dict.fromkeys(slot_of(pipeline, frame, found.word, count) for frame in frames))
    with _in_place(pipeline, slots, found.tokens[seed].expand(len(slots), -1, -1).to(pipeline.device)):
        yield tuple(_filled(frame, found.word, count) for frame in frames)


class Slot(NamedTuple):
    """A sentence with a place for tokens, as a model reads it.

    Attributes:
        ids: ids of the whole sentence, padded.
        start: position of the first token sought, the sentence's first being 0.
        end: position of the first end-of-text.
    """

    ids: tuple[int, ...]
    start: int
    end: int


def _filled(frame: str, word: str, count: int) -> str:
    return frame.replace("{x}", " ".join([word] * count))


def slot_of(pipeline: StableDiffusionPipeline, frame: str, word: str, count: int) -> Slot:
    """A sentence with a place for tokens, which a word holds meanwhile.

    Args:
        pipeline: the model.
        frame: the sentence, with {x} for the tokens.
        word: one token.
        count: how many tokens.

    Raises:
        InputError: the word is not one token, or the sentence has no place for it or is cut off.
    """
    if frame.count("{x}") != 1:
        raise InputError(f"sentence {frame!r} has no single place {{x}} for a name", hint="write {x} once")
    tokenizer = pipeline.tokenizer
    own = tokenizer(as_read(pipeline, word), add_special_tokens=False).input_ids
    if len(own) != 1 or own[0] == tokenizer.unk_token_id:
        raise InputError(
            f"{word!r} is {len(own)} tokens to this model, inversion starts from one",
            hint="choose a whole word of its vocabulary that says nothing of the concept",
        )
    ids, end = _encoded(pipeline, _filled(frame, word, count))
    before = as_read(pipeline, frame[: frame.index("{x}")].strip())
    start = _opening(pipeline) + (len(tokenizer(before, add_special_tokens=False).input_ids) if before else 0)
    if ids[start : start + count] != own * count:
        raise InputError(f"{word!r} is not where it should be in {frame!r}", hint="put spaces around {x}")
    return Slot(tuple(ids), start, end)


def _encoded(pipeline: StableDiffusionPipeline, sentence: str) -> tuple[list[int], int]:
    """Ids of a sentence, padded, and the position of its first end-of-text."""
    longest = prompt_tokens(pipeline)
    inner = pipeline.tokenizer(as_read(pipeline, sentence), add_special_tokens=False).input_ids
    end = _opening(pipeline) + len(inner)
    if end >= longest:
        raise InputError(f"{sentence!r} has {end + 1} tokens, the model takes {longest}", hint="use a shorter sentence")
    return text_ids(pipeline, [sentence])[0].tolist(), end


def _opening(pipeline: StableDiffusionPipeline) -> int:
    """Tokens before a sentence: CLIP has one, T5 none."""
    return len(pipeline.tokenizer("").input_ids) - 1


def read_with(pipeline: StableDiffusionPipeline, slots: Sequence[Slot], tokens: Tensor) -> Tensor:
    """Texts (B, T, d + p) of sentences, each with its own tokens (B, K, d); carries gradients."""
    ids = torch.tensor([slot.ids for slot in slots], device=pipeline.device)
    with _in_place(pipeline, slots, tokens):
        return text_of(pipeline, ids)


@contextmanager
def _in_place(pipeline: StableDiffusionPipeline, slots: Sequence[Slot], tokens: Tensor) -> Iterator[None]:
    """Puts tokens into the embeddings of sentences while this thread reads them.

    Args:
        pipeline: the model.
        slots: the sentences; the same one twice only where exactly these are read, in this order.
        tokens: (len(slots), K, d), of each sentence.
    """
    reader = threading.get_ident()
    whole = torch.tensor([slot.ids for slot in slots], device=tokens.device)  # (S, T)
    starts = torch.tensor([[slot.start] for slot in slots], device=tokens.device)
    places = starts + torch.arange(tokens.shape[1], device=tokens.device)  # (S, K)

    def replace(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        ids = inputs[0]
        if threading.get_ident() != reader or ids.shape[-1] > whole.shape[-1]:
            return output
        wanted = whole[:, : ids.shape[-1]]  # padding that no state depends on may have been left out
        if torch.equal(ids, wanted):
            rows = which = torch.arange(len(ids), device=ids.device)
        else:
            rows, which = (ids[:, None] == wanted).all(-1).nonzero(as_tuple=True)
        return output.index_put((rows[:, None], places[which]), tokens[which].to(output.dtype))

    hook = token_table(pipeline).register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def borrowed(pipeline: StableDiffusionPipeline) -> Iterator[None]:
    """Asks for no gradients of weights and no dropout; gives the model back as it was."""
    parts = (denoiser(pipeline), pipeline.text_encoder)
    modes = [(module, module.training) for part in parts for module in part.modules()]
    wanted = [(weight, weight.requires_grad) for part in parts for weight in part.parameters()]
    try:
        for part in parts:
            part.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for weight, had in wanted:
            weight.requires_grad_(had)


class Schedule:
    """What each seed sees at each step; one generator for each purpose and seed."""

    def __init__(self, pipeline: StableDiffusionPipeline, latents: Tensor, settings: InversionSettings) -> None:
        self._latents = latents.clone()  # what is drawn in inference mode cannot carry gradients
        self._alphas = pipeline.scheduler.alphas_cumprod
        self._velocity = pipeline.scheduler.config.prediction_type == "v_prediction"
        self._settings = settings
        count, total = len(latents), settings.steps * settings.batch
        self._order, self._times = [], []
        for seed in settings.seeds:
            order = _generator("order", seed)
            rounds = [torch.randperm(count, generator=order) for _ in range(-(-total // count))]
            self._order.append(torch.cat(rounds)[:total].unflatten(0, (settings.steps, -1)))
            times = torch.randint(len(self._alphas), (total,), generator=_generator("times", seed))
            self._times.append(times.unflatten(0, (settings.steps, -1)))
        self._noise = [_generator("noise", seed) for seed in settings.seeds]

    def step(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, timesteps and targets of a step, and which pictures; called for every step in order."""
        device, shape = self._latents.device, (self._settings.batch, *self._latents.shape[1:])
        pictures = torch.cat([order[step] for order in self._order])
        t = torch.cat([times[step] for times in self._times])
        noise = torch.cat([torch.randn(shape, generator=generator) for generator in self._noise]).to(device)
        alpha = self._alphas[t].to(noise).view(-1, 1, 1, 1)
        x_0 = self._latents[pictures.to(device)]
        x_t = alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise
        target = alpha.sqrt() * noise - (1 - alpha).sqrt() * x_0 if self._velocity else noise
        return x_t, t.to(device), target, pictures


def _generator(purpose: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{purpose}/{seed}".encode()))
