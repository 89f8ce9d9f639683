"""What a pass must leave alone: a language, as the model's own cross-attentions read it."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..model.conditioning import text_states
from ..model.sampler import draw_latents
from ..plan import RetainSpec
from ..sentences import vocabulary_sentences
from ..suite import Sampler
from .reading import Moments, Queries, added, moments, noised, queries

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_RECORDS = 4  # of a picture, at different times
_QUERIES = 8  # to a sentence
_UNGUIDED_QUERIES = 4096  # to the empty prompt
_SEED = 400_000_000  # far from the shipped suites' seeds


class Retained(NamedTuple):
    """What a pass must leave alone, as mean moments on one scale.

    Attributes:
        language: what is to be as on the base.
        forgotten: what is to stay as earlier passes have left it; empty where there were none.
    """

    language: Moments
    forgotten: Moments

    @property
    def whole(self) -> Moments:
        """All of it: no part of this may change by a pass."""
        return added((1.0, self.language), (1.0, self.forgotten)) if self.forgotten else self.language


class RetainedLanguage:
    """The tokenizer's own vocabulary in sentences, and its moments without what a manifest forgets.

    No concept is listed: words that a pass may not know are left out, what the manifest keeps or has forgotten before
    is added. The empty prompt counts as guidance does: with scale s a picture is s times the guided prediction minus
    s - 1 times the unguided one.

    Args:
        pipeline: the base model, no edits in it.
        words: whole words of the tokenizer.
        sampler: how pictures are drawn.
        seed: of the contexts and pairs.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, words: Sequence[str], sampler: Sampler, seed: int = 0
    ) -> None:
        self._pipeline, self._sampler = pipeline, sampler
        self.sentences = vocabulary_sentences(words, seed)
        self._states: dict[str, Tensor] = {}
        # moments take 0.6 GB at the size of Stable Diffusion 1.5: what passes share is kept once, as a sum
        self._language = lru_cache(1)(self._language_of)
        self._gone: tuple[tuple[tuple[str, ...], ...], Moments] = ((), {})
        self._asked = cache(self._asked_by_pictures)

    def moments(self, spec: RetainSpec) -> Retained:
        """Mean moments of what a pass must leave alone."""
        vocabulary = tuple(self.retained(spec))
        shown = vocabulary[: spec.pictures]
        language = self._language(vocabulary, spec.kept, spec.kept_weight, shown)
        if not spec.forgotten:
            return Retained(language, {})
        total = len(vocabulary) + spec.kept_weight * len(spec.kept)
        return Retained(language, added((1 / total, self._forgotten(spec.forgotten, shown))))

    def read_of(self, sentences: tuple[str, ...], spec: RetainSpec) -> Moments:
        """Mean moments of what heads read of some sentences, at the same pictures."""
        shown = tuple(self.retained(spec))[: spec.pictures]
        return added((1 / len(sentences), self._moments_of(sentences, shown)))

    def retained(self, spec: RetainSpec) -> list[str]:
        """The vocabulary's sentences that are read, without any of the excluded words."""
        excluded = spec.excluded_words
        named = re.compile(rf"\b({'|'.join(map(re.escape, excluded))})\b") if excluded else None
        left = [s for s in self.sentences if not (named and named.search(s))]
        return random.Random(0).sample(left, min(spec.sentences, len(left)))

    def _language_of(
        self, vocabulary: tuple[str, ...], kept: tuple[str, ...], kept_weight: float, shown: tuple[str, ...]
    ) -> Moments:
        total = len(vocabulary) + kept_weight * len(kept)
        scale = self._sampler.guidance
        unguided = (1 - 1 / scale) ** 2 if scale > 1 else 0.0
        return added(
            (1 / total, self._moments_of(vocabulary, shown)),
            *([(kept_weight / total, self._moments_of(kept, shown))] if kept else []),
            (unguided, self._moments_of(("",), shown, _UNGUIDED_QUERIES)),
        )

    def _forgotten(self, concepts: tuple[tuple[str, ...], ...], shown: tuple[str, ...]) -> Moments:
        """Sums over the sentences of several concepts; those of the pass before are added to."""
        known, total = self._gone
        if concepts[: len(known)] != known:
            known, total = (), {}
        for sentences in concepts[len(known) :]:
            more = self._moments_of(sentences, shown)
            total = added((1.0, total), (1.0, more)) if total else more
        self._gone = concepts, total
        return total

    def _moments_of(self, sentences: tuple[str, ...], shown: tuple[str, ...], each: int = _QUERIES) -> Moments:
        """Sums over sentences, asked by pictures of the sentences ``shown``."""
        return moments(self._pipeline, self._asked(shown), self._states_of(sentences), each)[0]

    def _states_of(self, sentences: Sequence[str]) -> Tensor:
        """Text states (N, T, d), kept: passes read nearly the same sentences, and the text encoder never changes.

        On the CPU, for those of thousands of sentences would fill a graphics card.
        """
        new = [sentence for sentence in sentences if sentence not in self._states]
        self._states.update(zip(new, text_states(self._pipeline, new).cpu(), strict=True) if new else ())
        return torch.stack([self._states[sentence] for sentence in sentences])

    def _asked_by_pictures(self, shown: tuple[str, ...]) -> Queries:
        generator = torch.Generator().manual_seed(zlib.crc32("\n".join(shown).encode()))
        seeds = range(_SEED, _SEED + len(shown))
        latents = draw_latents(self._pipeline, shown, seeds, self._sampler, batch=8).repeat(_RECORDS, 1, 1, 1)
        x_t, t = noised(self._pipeline, latents, generator)
        return queries(self._pipeline, x_t, t, text_states(self._pipeline, shown).repeat(_RECORDS, 1, 1), generator)
