"""The retain projector: its algebra, and what its sentences name."""

from __future__ import annotations

import numpy as np
import torch

from fmn_guard.forget.projector import projector, retained_sentences
from fmn_guard.plan import RetainSpec


def spec(**changes: tuple[str, ...]) -> RetainSpec:
    return RetainSpec(**({"excluded_words": (), "keep": (), "forgotten": ()} | changes))


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


def test_no_sentence_names_an_excluded_word():
    words = ("lion", "tiger", "pistol", "photo")
    for sentence in retained_sentences(words, spec(excluded_words=("pistol",)), seed=0):
        assert "pistol" not in sentence.split()


def test_kept_and_forgotten_names_stand_in_every_training_sentence():
    sentences = retained_sentences(("lion", "tiger"), spec(keep=("Mira Thorne",), forgotten=("ink drawing",)), seed=0)
    assert "a photo of Mira Thorne" in sentences
    assert "a photo of ink drawing" in sentences


def test_empty_prompt_and_bare_templates_are_held():
    sentences = retained_sentences(("lion",), spec(), seed=0)
    assert "" in sentences
    assert "a photo of" in sentences


def test_the_same_seed_gives_the_same_language():
    words = ("lion", "tiger", "rose", "car")
    assert retained_sentences(words, spec(), 1) == retained_sentences(words, spec(), 1)
    assert retained_sentences(words, spec(), 1) != retained_sentences(words, spec(), 2)
