"""The retain projector: what keeps an edit away from the rest of the language.

Let S (N x d) be the text states of all token positions of retained sentences and C = S^T S / N. The
projector P = lam (C + lam I)^-1 passes directions that retained states hardly use and damps the others:
keys and values of retained sentences then hardly move, whatever the dose (method note, section 6).
"""

from __future__ import annotations

import random
import re

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ..model.sampler import text_states
from ..plan import FUNCTION_WORDS, TRAINING_TEMPLATES, RetainSpec, fill, without_name

# Sentences every retained word stands in. Contexts differ from word to word by rotation, so that
# the covariance sees names after and before other words without a sentence for each pair.
_WORD_TEMPLATES = (
    "a photo of {x}",
    "{x}",
    "a photo of a {x}",
    "a picture of a {x}",
    "a {x} on a {y} background",
    "a photo of {x} in the style of {y}",
    "a small {x}",
    "{x}, {y}",
    "{y} {x}",
)
KEEP_WEIGHT = 4.0


def retained_sentences(words: tuple[str, ...], spec: RetainSpec, seed: int) -> list[str]:
    """The language to leave alone, as sentences; no concept is named but those the manifest keeps or has forgotten.

    Args:
        words: whole words of the tokenizer.
        spec: what is left out and what is kept beside them.
        seed: of the contexts and pairs.
    """
    rng = random.Random(seed)
    excluded = set(spec.excluded_words)
    usable = [w for w in words if w not in excluded]
    content = [w for w in usable if w not in FUNCTION_WORDS]
    sentences = ["", *(without_name(t) for t in TRAINING_TEMPLATES)]
    for word in content:
        sentences += [fill(t.replace("{y}", rng.choice(content)), word) for t in _WORD_TEMPLATES]
    sentences += [f"a photo of {rng.choice(content)} {rng.choice(content)}" for _ in range(spec.pairs)]
    for name in (*spec.keep, *spec.forgotten):
        sentences += [fill(t, name) for t in TRAINING_TEMPLATES]
    return list(dict.fromkeys(sentences))


def covariance(pipeline: StableDiffusionPipeline, sentences: list[str], keep: tuple[str, ...]) -> Tensor:
    """C = S^T S / N over all token positions, in float64: (d, d). Sentences that name ``keep`` count more."""
    kept = re.compile("|".join(re.escape(k) for k in keep), re.IGNORECASE) if keep else None
    states = text_states(pipeline, sentences).double()  # (N, T, d)
    weight = torch.ones(len(sentences), dtype=torch.float64, device=states.device)
    if kept:
        weight[[i for i, s in enumerate(sentences) if kept.search(s)]] = KEEP_WEIGHT
    flat = (states * weight.sqrt()[:, None, None]).flatten(0, 1)  # (N*T, d)
    total: Tensor = flat.T @ flat
    return total / (weight.sum() * states.shape[1])


def projector(covariance: Tensor, damping: float) -> Tensor:
    """P = lam (C + lam I)^-1, (d, d) float32, symmetric; eigenvalues in (0, 1]."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return (damping * torch.linalg.inv(covariance + damping * eye)).float()
