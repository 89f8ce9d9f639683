"""What a pass must leave alone, and the directions of the text states in which it may act.

Let S (N x d) be the text states of all token positions of retained sentences and C = S^T S / N. Whatever a pass
does along a direction b, the values of the retained language feel in proportion to b^T C b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.sampler import text_states
from ..plan import RetainSpec
from ..sentences import vocabulary_sentences

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

KEEP_WEIGHT = 4.0


class RetainedLanguage:
    """The tokenizer's own vocabulary in sentences, and its covariance without what a pass forgets.

    No concept is listed: a pass leaves out its own words and adds what the manifest keeps or has
    forgotten before. The sum over the whole vocabulary is made once; a pass subtracts from it.

    Args:
        pipeline: supplies the text encoder.
        words: whole words of the tokenizer.
        seed: of the contexts and pairs.
    """

    def __init__(self, pipeline: StableDiffusionPipeline, words: Sequence[str], seed: int) -> None:
        self._pipeline = pipeline
        self.sentences = vocabulary_sentences(words, seed)

    @cached_property
    def _whole(self) -> Tensor:
        return self._gram(self.sentences)

    def covariance(self, spec: RetainSpec) -> Tensor:
        """C over all token positions of what a pass must leave alone: (d, d) float64."""
        named = re.compile(rf"\b({'|'.join(map(re.escape, spec.excluded_words))})\b") if spec.excluded_words else None
        left_out = [s for s in self.sentences if named and named.search(s)]
        gram = self._whole - self._gram(left_out) + KEEP_WEIGHT * self._gram(spec.kept) + self._gram(spec.forgotten)
        count = len(self.sentences) - len(left_out) + KEEP_WEIGHT * len(spec.kept) + len(spec.forgotten)
        mean: Tensor = gram / (count * self._pipeline.tokenizer.model_max_length)
        return mean

    def _gram(self, sentences: Sequence[str]) -> Tensor:
        width = self._pipeline.text_encoder.config.hidden_size
        total = torch.zeros(width, width, dtype=torch.float64)  # on the CPU: not every device has float64
        for start in range(0, len(sentences), 512):
            states = (
                text_states(self._pipeline, sentences[start : start + 512]).cpu().double().flatten(0, 1)
            )  # (n*T, d)
            total += states.T @ states
        return total


def directions(covariance: Tensor, differences: Tensor, damping: float, count: int) -> Tensor:
    """Directions in which the name shows most against what the retained language has there.

    Fisher's discriminant: the leading generalised eigenvectors of K b = m (C + lam I) b, where K is the second
    moment of what the name adds to the states. All are scaled to b^T (C + lam I) b = 1, so that a weight on one
    costs the retained language as much as on another.

    Args:
        covariance: C, (d, d) float64.
        differences: (M, d), states of sentences with the name minus those of their anchors.
        damping: lam > 0, the variance below which a direction counts as unused.
        count: how many, at most d.

    Returns:
        (d, count) float32, the most telling first.
    """
    damped = covariance + damping * torch.eye(len(covariance), dtype=covariance.dtype)
    whiten = torch.linalg.inv(torch.linalg.cholesky(damped))
    moment = differences.double().T @ differences.double() / len(differences)
    _, vectors = torch.linalg.eigh(whiten @ moment @ whiten.T)  # ascending
    leading: Tensor = whiten.T @ vectors.flip(1)[:, :count]
    return leading.float()
