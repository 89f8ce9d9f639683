"""The retained language: which sentences are read, and how what they say is weighed."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.forget.retain import RetainedLanguage
from fmn_guard.model.attention import edited_values
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.passes import RetainSpec
from fmn_guard.sentences import word_sentences
from fmn_guard.suite import Sampler

WORDS = ("lion", "tiger", "pistol", "dog")


def spec(**changes) -> RetainSpec:
    fixed = {"excluded_words": (), "kept": (), "forgotten": (), "kept_weight": 3.0, "sentences": 12, "pictures": 2}
    return RetainSpec(**(fixed | changes))


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


@pytest.fixture
def language(pipeline):
    return RetainedLanguage(pipeline, WORDS, Sampler(steps=2, guidance=1.0))


def test_no_excluded_word_is_ever_read(language):
    read = language.retained(spec(excluded_words=("pistol",)))
    assert len(read) == 12
    assert not any("pistol" in sentence.replace(",", " ").split() for sentence in read)
    assert any("pistol" in sentence for sentence in language.retained(spec(sentences=10_000)))


def test_the_vocabulary_is_read_in_the_checkpoints_styles(language):
    styled = language.retained(spec(sentences=10_000, styles=("woodcut",)))
    assert any("woodcut" in sentence for sentence in styled)
    assert not any("woodcut" in sentence for sentence in language.retained(spec(sentences=10_000)))


def test_what_is_kept_counts_more_and_what_was_forgotten_stands_apart(language):
    kept, first, second = ("a photo of tiger",), ("a dog",), ("lion", "a lion")
    plain = language.moments(spec()).language
    found = language.moments(spec(kept=kept, forgotten=(first, second)))
    of = {
        sentences: language._moments_of(sentences, tuple(language.retained(spec())[:2]))
        for sentences in (kept, first, second)
    }
    total = 12 + 3
    for name, moment in plain.items():
        expected = (12 * moment + 3 * of[kept][name]) / total
        torch.testing.assert_close(found.language[name], expected)
        torch.testing.assert_close(found.forgotten[name], (of[first][name] + of[second][name]) / total)
        torch.testing.assert_close(found.whole[name], found.language[name] + found.forgotten[name])


def test_the_empty_prompt_counts_as_guidance_does(pipeline):
    guided = RetainedLanguage(pipeline, WORDS, Sampler(steps=2, guidance=4.0))
    found, sentences = guided.moments(spec()).language, tuple(guided.retained(spec()))
    nothing = guided._moments_of(("",), sentences[:2], 4096)
    for name, moment in guided._moments_of(sentences, sentences[:2]).items():
        torch.testing.assert_close(found[name], moment / 12 + (3 / 4) ** 2 * nothing[name])


def test_a_resumed_run_reads_the_same_as_an_unbroken_one(pipeline, language, monkeypatch):
    of_third_pass = spec(forgotten=(("lion", "a lion"), ("a dog",)))
    language.moments(spec(forgotten=(("lion", "a lion"),)))
    unbroken = language.moments(of_third_pass)
    resumed = RetainedLanguage(pipeline, WORDS, Sampler(steps=2, guidance=1.0)).moments(of_third_pass)
    for a, b in zip(unbroken, resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_word_that_a_change_of_values_is_about_is_the_nearest(language):
    near = spec(nearest=3, excluded_words=("pistol",))
    read = {w: language._moments_of((w, f"a photo of a {w}"), tuple(language.retained(near)[:2])) for w in WORDS}
    with edited_values(language._pipeline.unet) as layers:
        before = {name: layer.edit for name, layer in layers.items()}
        for name, layer in layers.items():
            rest = read["lion"][name] + read["dog"][name] + 1e-6 * torch.eye(layer.edit.shape[1])
            root = torch.linalg.inv(torch.linalg.cholesky(rest))
            # the direction in which most is read of the tiger for what is read of the others
            directions = root.mT @ torch.linalg.eigh(root @ read["tiger"][name] @ root.mT).eigenvectors[..., -1:]
            layer.edit = directions.mT.expand(-1, len(layer.edit) // layer.heads, -1).flatten(0, 1).to(layer.edit)
        found = language.nearest(near, layers, before)
    assert found[0] == "tiger"
    assert set(found) == {"tiger", "lion", "dog"}


def test_the_nearest_words_are_held_in_sentences_of_their_own(language):
    near = spec(nearest=1, nearest_weight=2.0, excluded_words=("pistol",))
    plain, found = language.moments(near).language, language.moments(near, ("tiger",)).language
    (own,) = word_sentences(("tiger",), WORDS, ("pistol",))
    assert len(own) > 20
    assert not any("pistol" in sentence for sentence in own)
    extra = language._moments_of(tuple(own), tuple(language.retained(near)[:2]))
    for name, moment in plain.items():
        torch.testing.assert_close(found[name], (12 * moment + 2 * extra[name]) / (12 + 2 * len(own)))
