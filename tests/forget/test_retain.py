"""The retained language: which sentences are read, and how what they say is weighed."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.forget.retain import RetainedLanguage
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.passes import RetainSpec
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
    assert any("pistol" in sentence for sentence in language.sentences)


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
