"""The retain projector: its algebra, and what its sentences name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmn_guard.forget.projector import KEEP_WEIGHT, RetainedLanguage, projector
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import RetainSpec


def spec(**changes: tuple[str, ...]) -> RetainSpec:
    return RetainSpec(**({"excluded_words": (), "kept": (), "forgotten": ()} | changes))


def test_projector_is_lambda_times_the_inverse_of_c_plus_lambda():
    states = np.random.default_rng(0).normal(size=(50, 6)) * [10, 5, 1, 0.1, 0.01, 0]
    c = states.T @ states / len(states)
    values, vectors = np.linalg.eigh(c)
    expected = vectors @ np.diag(1e-3 / (values + 1e-3)) @ vectors.T
    found = projector(torch.from_numpy(c), 1e-3).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.linalg.eigvalsh(found).max() <= 1 + 1e-6


def test_strong_directions_are_damped_and_unused_ones_pass():
    found = projector(torch.diag(torch.tensor([100.0, 0.0], dtype=torch.float64)), 1e-3)
    assert found[0, 0] < 1e-4
    assert found[1, 1] == 1


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


def reference_covariance(pipeline, weighted):
    """Sentence by sentence, in numpy, straight from the text encoder."""
    total, count = 0, 0
    for sentence, weight in weighted:
        tokens = pipeline.tokenizer(sentence, padding="max_length", truncation=True, return_tensors="pt").input_ids
        states = pipeline.text_encoder(tokens).last_hidden_state[0].double().numpy()
        total = total + weight * states.T @ states
        count += weight * len(states)
    return total / count


def test_covariance_leaves_out_excluded_words_and_adds_what_is_kept_and_forgotten(pipeline):
    language = RetainedLanguage(pipeline, ("lion", "tiger", "pistol"), seed=0)
    kept, forgotten = ("a photo of Mira Thorne", "Mira Thorne"), ("a dog, ink drawing",)
    found = language.covariance(spec(excluded_words=("pistol",), kept=kept, forgotten=forgotten))
    weighted = [(s, 1.0) for s in language.sentences if "pistol" not in s.replace(",", "").split()]
    weighted += [(s, KEEP_WEIGHT) for s in kept] + [(s, 1.0) for s in forgotten]
    np.testing.assert_allclose(found.numpy(), reference_covariance(pipeline, weighted), rtol=1e-5, atol=1e-7)
