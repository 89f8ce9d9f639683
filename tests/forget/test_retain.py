"""The retained language: what its sentences name, and the directions that tell a name from it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from fmn_guard.forget.retain import KEEP_WEIGHT, RetainedLanguage, directions
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import RetainSpec


def spec(**changes: tuple[str, ...]) -> RetainSpec:
    return RetainSpec(**({"excluded_words": (), "kept": (), "forgotten": ()} | changes))


def test_directions_are_the_leading_generalised_eigenvectors():
    rng = np.random.default_rng(0)
    states, differences = rng.normal(size=(50, 6)) * [10, 5, 1, 0.1, 0.01, 0], rng.normal(size=(20, 6))
    c = states.T @ states / len(states)
    _, vectors = scipy.linalg.eigh(differences.T @ differences / 20, c + 1e-3 * np.eye(6))
    found = directions(torch.from_numpy(c), torch.from_numpy(differences), 1e-3, 3).numpy()
    for i in range(3):  # eigenvectors have no sign
        expected = vectors[:, -1 - i]
        np.testing.assert_allclose(found[:, i] * np.sign(found[:, i] @ expected), expected, rtol=1e-3, atol=1e-4)


def test_what_the_retained_language_uses_as_much_as_the_name_does_is_no_direction():
    covariance = torch.diag(torch.tensor([100.0, 1.0, 1.0], dtype=torch.float64))
    differences = torch.tensor([[10.0, 0.0, 3.0], [10.0, 0.0, 3.0]])
    (direction,) = directions(covariance, differences, 1e-3, 1).T
    assert direction.abs().argmax() == 2
    assert direction[2].abs() > 20 * direction[0].abs()


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
