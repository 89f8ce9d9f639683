"""What a pass must leave alone: a language, as the model's own cross-attentions read it.

A language's mean hides single words: one that reads like the name moves far and weighs little. So a pass looks at what
its first solution does to each word, holds the nearest in sentences of their own, and solves again.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..model.attention import EditedLinear, speaking_as_base
from ..model.conditioning import brief_states, side_by_side, text_states
from ..model.sampler import draw_latents
from ..passes import RetainSpec
from ..sentences import FUNCTION_WORDS, vocabulary_sentences, word_sentences
from ..suite import Sampler
from .reading import Moments, Queries, added, moments, moved, noised, queries

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_RECORDS = 4  # of a picture, at different times
_QUERIES = 8  # to a sentence
_UNGUIDED_QUERIES = 4096  # to the empty prompt
_LOOKED_AT = 1000  # words, at most, among which the nearest are found
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
        self._pipeline, self._sampler, self._words = pipeline, sampler, words
        self._sentences = cache(lambda styles: vocabulary_sentences(words, seed, styles))
        self._states: dict[str, Tensor] = {}
        # at the size of Stable Diffusion 1.5 states of the vocabulary take 1.2 GB, and they are read once
        self._language = cache(lambda sentences, shown: self._moments_of(sentences, shown, keep=False))
        self._named = cache(self._moments_of)
        # moments take 0.6 GB there: those of what is forgotten are kept as one sum
        self._gone: tuple[tuple[object, ...], tuple[tuple[str, ...], ...], Moments] = ((), (), {})
        self._asked = cache(self._asked_by_pictures)

    def moments(self, spec: RetainSpec, nearest: Sequence[str] = ()) -> Retained:
        """Mean moments of what a pass must leave alone.

        Args:
            spec: what that is.
            nearest: words that are held in sentences of their own, from `nearest`.
        """
        vocabulary = tuple(self.retained(spec))
        shown = vocabulary[: spec.pictures]
        close = tuple(chain(*word_sentences(nearest, self._words, spec.excluded_words, styles=spec.styles)))
        total = len(vocabulary) + spec.kept_weight * len(spec.kept)
        whole = total + spec.nearest_weight * len(close)
        scale = self._sampler.guidance
        unguided = (1 - 1 / scale) ** 2 if scale > 1 else 0.0
        language = added(
            (1 / whole, self._language(vocabulary, shown)),
            *([(spec.kept_weight / whole, self._named(spec.kept, shown))] if spec.kept else []),
            *([(spec.nearest_weight / whole, self._moments_of(close, shown))] if close else []),
            (unguided, self._named(("",), shown, _UNGUIDED_QUERIES)),
        )
        return Retained(language, self._forgotten(spec.forgotten, 1 / total, shown))

    def nearest(self, spec: RetainSpec, layers: dict[str, EditedLinear], before: dict[str, Tensor]) -> tuple[str, ...]:
        """Words of the vocabulary whose delivery a change of values moves most, the most moved first.

        Args:
            spec: how many, and which words are none of them.
            layers: the edited values.
            before: their edits before the change.
        """
        excluded = {*spec.excluded_words, *FUNCTION_WORDS}
        words = [word for word in self._words if word not in excluded]
        words = random.Random(0).sample(words, min(_LOOKED_AT, len(words)))
        sentences = word_sentences(words, self._words, spec.excluded_words, brief=True)
        values = {name: layer.by_head(layer.frozen.weight) for name, layer in layers.items()}
        change = {name: layer.by_head(layer.edit - before[name]) for name, layer in layers.items()}
        with speaking_as_base(layers):
            asked = self._asked(tuple(self.retained(spec))[: spec.pictures])
            far = moved(self._pipeline, asked, self._states_of(list(chain(*sentences))), _QUERIES, values, change)
        of_word = far.view(len(words), -1).mean(1)
        return tuple(words[i] for i in of_word.argsort(descending=True, stable=True)[: spec.nearest])

    def read_of(self, sentences: tuple[str, ...], spec: RetainSpec) -> Moments:
        """Mean moments of what heads read of some sentences, at the same pictures."""
        shown = tuple(self.retained(spec))[: spec.pictures]
        return added((1 / len(sentences), self._named(sentences, shown)))

    def retained(self, spec: RetainSpec) -> list[str]:
        """The vocabulary's sentences that are read, without any of the excluded words."""
        excluded = spec.excluded_words
        named = re.compile(rf"\b({'|'.join(map(re.escape, excluded))})\b") if excluded else None
        left = [s for s in self._sentences(spec.styles) if not (named and named.search(s))]
        return random.Random(0).sample(left, min(spec.sentences, len(left)))

    def _forgotten(self, concepts: tuple[tuple[str, ...], ...], weight: float, shown: tuple[str, ...]) -> Moments:
        """Weighted sums over the sentences of concepts; those of the pass before are added to, not read again."""
        key, known, total = self._gone
        if key != (weight, shown) or concepts[: len(known)] != known:
            known, total = (), {}
        for sentences in concepts[len(known) :]:
            more = self._moments_of(sentences, shown)
            total = added((1.0, total), (weight, more)) if total else added((weight, more))
        self._gone = (weight, shown), concepts, total
        return total

    def _moments_of(
        self, sentences: tuple[str, ...], shown: tuple[str, ...], each: int = _QUERIES, *, keep: bool = True
    ) -> Moments:
        """Sums over sentences, asked by pictures of the sentences ``shown``; states are kept for later, or are not."""
        states = self._states_of(sentences) if keep else side_by_side(brief_states(self._pipeline, sentences))
        return moments(self._pipeline, self._asked(shown), states, each)[0]

    def _states_of(self, sentences: Sequence[str]) -> Tensor:
        """Texts (N, T, d + p), kept: passes read nearly the same sentences, and the text encoder never changes.

        On the CPU, for those of thousands of sentences would fill a graphics card.
        """
        new = [sentence for sentence in sentences if sentence not in self._states]
        self._states.update(zip(new, brief_states(self._pipeline, new), strict=True))
        return side_by_side([self._states[sentence] for sentence in sentences])

    def _asked_by_pictures(self, shown: tuple[str, ...]) -> Queries:
        generator = torch.Generator().manual_seed(zlib.crc32("\n".join(shown).encode()))
        seeds = range(_SEED, _SEED + len(shown))
        latents = draw_latents(self._pipeline, shown, seeds, self._sampler, batch=8).repeat(_RECORDS, 1, 1, 1)
        x_t, t = noised(self._pipeline, latents, generator)
        return queries(self._pipeline, x_t, t, text_states(self._pipeline, shown).repeat(_RECORDS, 1, 1), generator)
