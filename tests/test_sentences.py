"""Sentences of the eraser: articles, positions of names, and the vocabulary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmn_guard.sentences import (
    STYLE_TRAINING_SUBJECTS,
    STYLED_TEMPLATES,
    TRAINING_TEMPLATES,
    content_words,
    fill,
    longest_sentence,
    stand_in_words,
    stop_sentences,
    training_sentences,
    vocabulary_sentences,
    word_sentences,
)


@pytest.mark.parametrize(
    ("name", "text"),
    [("lion", "a photo of a lion"), ("owl", "a photo of an owl"), ("unicorn", "a photo of a unicorn")],
)
def test_articles_are_english(name: str, text: str) -> None:
    assert fill("a photo of a {x}", name) == text


@pytest.mark.parametrize("name", ["lion", "owl", "background", "Ada Thorne"])
def test_the_name_is_where_the_sentence_says(name: str) -> None:
    for sentence in training_sentences(name):
        assert sentence.text[sentence.start :].startswith(name)


@given(st.from_regex(r"((an?|the|An|uni|E)? ?)\w+( \w+)?", fullmatch=True), st.booleans())
def test_longest_sentence_is_the_longest_of_all(name: str, style: bool) -> None:
    longest = longest_sentence(name, style=style)
    texts = [sentence.text for sentence in training_sentences(name, style=style)]
    assert longest in texts
    assert len(longest) == max(map(len, texts))


def test_the_frame_is_the_sentence_with_a_gap_for_the_name() -> None:
    assert {s.frame.replace("{x}", "owl") == s.text for s in training_sentences("owl")} == {True}


def test_bare_sentences_are_clean() -> None:
    assert vocabulary_sentences(("lion",), seed=0)[:4] == ["", "a photo of", "a picture of", "a photo of a"]


def test_stand_ins_are_words_of_the_vocabulary_as_long_as_asked() -> None:
    words = ("lion", "tiger", "rose", "car")
    drawn = stand_in_words(words, count=5, length=2, seed=1)
    assert [len(name) for name in drawn] == [2] * 5
    assert {word for name in drawn for word in name} <= set(words)
    assert drawn == stand_in_words(words, count=5, length=2, seed=1)


def test_style_sentences_name_no_hidden_subject() -> None:
    assert any("dog" in subject for subject in STYLE_TRAINING_SUBJECTS)
    assert not any("dog" in s.text for s in training_sentences("ink drawing", style=True, excluded={"dog"}))


def test_a_name_is_forgotten_and_looked_for_in_every_style_of_the_checkpoint() -> None:
    styles, words = ("woodcut", "fresco"), ("lion", "tiger")
    for style in styles:
        asked = [s.text for s in training_sentences("rose", words=words, styles=styles) if style in s.text]
        assert len(asked) == len(STYLED_TEMPLATES)
        assert any(style in text for text, _ in stop_sentences("rose", words=words, styles=[style]))
        assert any(style in text for text in vocabulary_sentences(words, 0, [style]))
        assert any(style in text for own in word_sentences(["lion"], words, styles=[style]) for text in own)


def test_known_styles_come_beside_the_usual_sentences_and_never_to_a_style() -> None:
    words, styles = ("lion", "tiger"), ("woodcut", "fresco")
    usual = [s.text for s in training_sentences("rose", words=words)]
    assert [s.text for s in training_sentences("rose", words=words, styles=styles)][: len(usual)] == usual
    assert not any("fresco" in s.text for s in training_sentences("ink", style=True, words=words, styles=styles))


def test_function_words_are_not_content() -> None:
    assert content_words(["The Captain of Industry"]) == {"captain", "industry"}


def test_every_word_stands_in_a_sentence_and_so_do_empty_and_bare_templates() -> None:
    assert {"lion", "tiger", "", "a photo of"} <= set(vocabulary_sentences(("lion", "tiger"), seed=0))


def test_function_words_are_no_words_of_their_own() -> None:
    assert vocabulary_sentences(("lion", "the"), seed=0) == vocabulary_sentences(("lion",), seed=0)


def test_the_same_seed_gives_the_same_language() -> None:
    words = ("lion", "tiger", "rose", "car")
    assert vocabulary_sentences(words, 1) == vocabulary_sentences(words, 1)
    assert vocabulary_sentences(words, 1) != vocabulary_sentences(words, 2)


def test_templates_are_distinct() -> None:
    assert len(set(TRAINING_TEMPLATES)) == len(TRAINING_TEMPLATES)


def test_contexts_are_the_same_for_every_name_and_hold_no_hidden_word() -> None:
    words = ("left", "castle", "winter", "pistol")
    lion, fox = (list(training_sentences(name, words=words, excluded={"pistol"})) for name in ("lion", "fox"))
    assert [s.frame for s in lion] == [s.frame for s in fox]
    assert len(lion) > len(list(training_sentences("lion")))
    assert not any("pistol" in s.text for s in lion)


def test_common_colours_and_styles_are_contexts_but_none_that_holds_a_hidden_word() -> None:
    def texts(excluded: set[str]) -> list[str]:
        trained = [s.text for s in training_sentences("lion", words=("castle",), excluded=excluded)]
        return trained + [text for text, _ in stop_sentences("lion", words=("castle",), excluded=excluded)]

    hidden = {"purple", "green", "black", "red", "pencil", "oil", "watercolor", "pixel", "vector"}
    assert content_words(texts(set())) >= hidden
    assert not content_words(texts(hidden)) & hidden


def test_words_stand_in_for_colours_where_all_of_them_are_hidden() -> None:
    colours = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black"}
    texts = [s.text for s in training_sentences("lion", words=("castle",), excluded=colours)]
    assert "lion on the left on a castle background" in texts


@pytest.mark.parametrize("name", ["lion", "the captain"])
def test_contexts_have_english_articles(name: str) -> None:
    for sentence in training_sentences(name, words=("apple", "unicorn")):
        assert " a apple" not in sentence.text and " a orange" not in sentence.text
        assert " an unicorn" not in sentence.text
