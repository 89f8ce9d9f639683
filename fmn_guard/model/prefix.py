"""Prefix search: which whole words, put before prompts, make a model denoise given pictures best.

min_w E[ |target(x_0, noise, t) - eps(x_t, t, text(w_1 ... w_K prompt))|^2 ] over words w of the vocabulary, by greedy
coordinate gradient (Zou et al., arXiv 2307.15043). To first order, a word v at place k changes the loss by
(e_v - e_k) . g_k, where e are embeddings and g_k the gradient with regard to the one at k: that is the gradient with
regard to one-hot tokens, and proposes changes. Each proposal is then scored by the loss itself, on the same pictures,
noise and timesteps as the words held, and the best is taken if it is better.

Departures: words rather than any tokens, so that what is found is a prompt somebody can type and the tokenizer reads
back as the same tokens; and the loss of Zhang et al. (arXiv 2310.11868) in place of a language model's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import FmnGuardError, InputError
from ..inversion import InversionSettings
from ..progress import Progress, silent
from .conditioning import as_read, denoise, text_encoders, token_table
from .inversion import Schedule, Slot, borrowed, read_with, slot_of
from .sampler import threads

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@dataclass(frozen=True)
class Budget:
    """What one search may do; see `fmn_guard.attacks.PrefixSearch`.

    Attributes:
        tokens: words before the prompt.
        steps: changes made or declined.
        candidates: changes tried at a step.
        nearest: words for each place that the gradient holds for best.
        batch: pictures that a step sees.
        threads: CPU threads.
    """

    tokens: int
    steps: int
    candidates: int
    nearest: int
    batch: int
    threads: int = 1


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        text: the words, which the tokenizer reads as the tokens that were sought.
        errors: mean squared error with the words held after each step, on that step's pictures.
    """

    text: str
    errors: tuple[float, ...]


def words_of(pipeline: StableDiffusionPipeline, forbidden: Collection[str]) -> dict[int, str]:
    """Words that a prefix may hold, by token: ASCII, one token each wherever they stand, special tokens apart.

    Args:
        pipeline: the model.
        forbidden: texts of whose tokens none may be used.
    """
    tokenizer = pipeline.tokenizer
    taken = {*tokenizer.all_special_ids}
    for text in forbidden:
        taken |= set(tokenizer(as_read(pipeline, text), add_special_tokens=False).input_ids)
    found = {}
    for number in range(len(tokenizer)):
        text = tokenizer.decode([number]).strip()
        if number in taken or not text or not (text.isascii() and text.isprintable()) or " " in text:
            continue
        if tokenizer(as_read(pipeline, text), add_special_tokens=False).input_ids == [number]:
            found[number] = text
    return found


def search_prefix(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    prompts: Sequence[str],
    words: dict[int, str],
    budget: Budget,
    seed: int,
    *,
    admissible: Callable[[str], bool] = lambda _text: True,
    progress: Progress = silent,
) -> Found:
    """Searches for words; the model comes back as it was, even on error.

    What is drawn at random depends on the seed alone: the same call finds the same words.

    Args:
        pipeline: the model that is attacked, float32.
        latents: (N, C, h, w), pictures that it should denoise, scaled as the denoiser sees them.
        prompts: of each picture the sentence that the words are put before.
        words: from `words_of`.
        budget: how much is tried.
        seed: of words to begin with, of proposals, noise, timesteps and the order of pictures.
        admissible: what texts may be held.
        progress: told of each step.

    Raises:
        InputError: no word is left, a prompt is cut off, or the model has two text encoders.
        FmnGuardError: the loss or its gradient is not a number.
    """
    if text_encoders(pipeline) > 1:
        raise InputError(
            "prefix search is built for one text encoder, this model has two",
            hint="leave prefix searches out for Stable Diffusion XL",
        )
    if not words:
        raise InputError("no word of the vocabulary may be in a prefix", hint="look at the names that forbid them")
    settings = InversionSettings(
        seeds=(seed,), steps=budget.steps, batch=budget.batch, threads=budget.threads, tokens=budget.tokens
    )
    with threads(budget.threads), borrowed(pipeline):
        search = _Search(pipeline, latents, prompts, words, settings, budget, seed, admissible)
        for step in range(budget.steps):
            search.step(step)
            progress("searching", step + 1, budget.steps)
    return Found(search.text(search.held), tuple(search.errors))


class _Search:
    """One search: the words held, and what it takes to better them."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        latents: Tensor,
        prompts: Sequence[str],
        words: dict[int, str],
        settings: InversionSettings,
        budget: Budget,
        seed: int,
        admissible: Callable[[str], bool],
    ) -> None:
        self._pipeline, self._words, self._budget, self._admissible = pipeline, words, budget, admissible
        self._table = token_table(pipeline).weight.detach().float()  # (V, d)
        self._ids = torch.tensor(list(words))  # (W,), tokens that may be used
        # any word holds the place: what it means is put in at its positions
        keeper = next(word for word in words.values() if word.isalpha())
        slots = [slot_of(pipeline, f"{{x}} {prompt}", keeper, settings.tokens) for prompt in prompts]
        self._slots = list(dict.fromkeys(slots))
        self._turn = torch.tensor([self._slots.index(slot) for slot in slots])  # (N,), sentence of each picture
        self._seen = Schedule(pipeline, latents, settings)
        self._draws = torch.Generator().manual_seed(zlib.crc32(f"prefix/{seed}".encode()))
        self.held = self._first()
        self.errors: list[float] = []

    def text(self, held: Tensor) -> str:
        """Words of tokens (K,) as a prompt has them."""
        return " ".join(self._words[int(number)] for number in held)

    def step(self, step: int) -> None:
        """Proposes changes by the gradient, scores them, and holds the best if it is better."""
        x_t, t, target, pictures = self._seen.step(step)
        turn = self._turn[pictures]
        embeddings = self._table[self.held].clone().requires_grad_()  # (K, d)
        loss = self._error(embeddings, x_t, t, target, turn)
        (gradient,) = torch.autograd.grad(loss, [embeddings])  # (K, d)
        best = loss.item()
        if not (loss.isfinite() and gradient.isfinite().all()):
            raise FmnGuardError("the loss of denoising, or its gradient, is not a number")
        with torch.no_grad():
            for candidate in self._proposed(gradient):
                error = self._error(self._table[candidate], x_t, t, target, turn).item()
                if error < best:  # of a NaN never
                    best, self.held = error, candidate
        self.errors.append(best)

    def _error(self, embeddings: Tensor, x_t: Tensor, t: Tensor, target: Tensor, turn: Tensor) -> Tensor:
        """Mean squared error of a batch, read with words of such embeddings (K, d) before each prompt."""
        needed, row = turn.unique(return_inverse=True)
        slots: list[Slot] = [self._slots[i] for i in needed]
        read = read_with(self._pipeline, slots, embeddings.expand(len(slots), -1, -1))  # (S, T, d)
        return (denoise(self._pipeline, x_t, t, read[row]) - target).square().mean()

    def _proposed(self, gradient: Tensor) -> list[Tensor]:
        """Changes of one word, (K,) each, drawn from those that lower the loss most to first order."""
        gain = -(gradient @ self._table[self._ids].T)  # (K, W), up to what is the same for all words of a place
        nearest = gain.topk(min(self._budget.nearest, len(self._ids)), dim=-1).indices.cpu()  # (K, nearest)
        proposed: dict[tuple[int, ...], Tensor] = {}
        for _ in range(4 * self._budget.candidates):  # some are held already, proposed before, or not admissible
            place, which = (int(self._draw(high)) for high in nearest.shape)
            candidate = self.held.clone()
            candidate[place] = self._ids[nearest[place, which]]
            key = tuple(candidate.tolist())
            if key not in proposed and not candidate.equal(self.held) and self._allowed(candidate):
                proposed[key] = candidate
            if len(proposed) == self._budget.candidates:
                break
        return list(proposed.values())

    def _first(self) -> Tensor:
        for _ in range(1000):
            held = self._ids[torch.randint(len(self._ids), (self._budget.tokens,), generator=self._draws)]
            if self._allowed(held):
                return held
        raise InputError("no prefix is admissible", hint="search fewer tokens")

    def _allowed(self, held: Tensor) -> bool:
        """Whether a text may be held, and is read as its tokens: some marks side by side are one token."""
        text = self.text(held)
        read = self._pipeline.tokenizer(text, add_special_tokens=False).input_ids
        return bool(read == held.tolist()) and self._admissible(text)

    def _draw(self, high: int) -> Tensor:
        return torch.randint(high, (), generator=self._draws)
