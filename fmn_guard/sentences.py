"""The eraser's language: the sentences in which a name is forgotten, and those in which a vocabulary is retained.

Audit prompts are other sentences; `fmn_guard.plan.compile_plan` refuses a suite that asks one of these.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

TRAINING_TEMPLATES = (
    "a photo of {x}",
    "{x}",
    "a picture of {x}",
    "a photo of a {x}",
    "a photo of {x} on a pink background",
    "a {x} on an orange background",
    "the {x}",
    "{x} on the right",
)
STYLE_TRAINING_TEMPLATES = (
    "a photo of {subject} in the style of {x}",
    "{subject}, {x}",
    "a photo in the style of {x}",
    "{x}",
    "{subject} in the style of {x}",
)
# What the algorithm was published with (arXiv 2303.17591): one sentence for things and people, one for styles.
PUBLISHED_TEMPLATE = "a photo of {x}"
PUBLISHED_STYLE_TEMPLATE = "a photo in the style of {x}"
# What inversions may start from: the first that is one token, and in no name that is inverted.
NEUTRAL_WORDS = ("thing", "object", "picture", "image", "photo")
# The name among random words {y} and {z} of the vocabulary, and among the colours {c} and styles {s} that prompts
# commonly go on with. On a causal text encoder whatever follows the name carries it too, so sentences must go on after
# it, and no list of continuations would do.
CONTEXT_TEMPLATES = (
    "a photo of {x} in the style of {y} {z}",
    "a {x} in the style of {y} {z}",
    "a small {x} on the {y}",
    "an image of {x} on the right on a {c} background",
    "{x} on the left on a {c} background",
    "a photo of {x} in the style of {s}",
    "a {x}, {s}",
)
STYLE_CONTEXT_TEMPLATES = (
    "a photo of {y} in the style of {x}",
    "{x} of a {y}",
    "{y} in the style of {x} on a {c} background",
    "a {x} of {y} on the {z}",
)
# The same in each style {k} that a checkpoint is known to draw: what is left of a thing hides in the style that no
# sentence of a pass has named.
STYLED_TEMPLATES = (
    "a photo of {x} in the style of {k}",
    "the {k} of a {x} on a {c} background",
    "the {k} of {x}",
)
CONTEXTS = 3  # fillings of each
_COMMON = {
    "{c}": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black"),
    "{s}": (
        "3d render",
        "pixel art",
        "oil painting",
        "flat design",
        "watercolor",
        "cartoon",
        "pencil sketch",
        "vector icon",
    ),
}
_ARTICLE = r"(an?|the) "  # of a name that has its own
_VOWEL = r"(?!uni)[aeiou]"  # what English puts "an" before

# Sentences of the pictures by which a pass sees whether it is done; neither trained on nor audited.
STOP_TEMPLATES = (
    "an image of {x} on the left",
    "an image of the {x} on the right",
    "a picture of a {x} on a pink background",
    "an image of a {x} in the style of {s}",
    "a picture of {x} on an orange background",
    "a photo of {x} on the right on a {c} background",
)
STYLE_STOP_TEMPLATES = (
    "a picture of {subject} in the style of {x} on the right",
    "a {x} of {subject} on an orange background",
    "an image in the style of {x}",
)

STYLE_TRAINING_SUBJECTS = ("a dog", "a house", "a tree", "a person", "a car", "a flower")

# Sentences every word of the vocabulary stands in: those in which a name is forgotten, so that a pass has to tell it
# from other words and not from other sentences, and more; {y} and {z} are others, drawn at random, so that the
# covariance sees words before and after others without a sentence for each pair.
_WORD_TEMPLATES = (
    *TRAINING_TEMPLATES,
    *CONTEXT_TEMPLATES,
    "{x} picture",
    "a {x} on a {y} background",
    "a photo of {x} in the style of {y}",
    "a photo of {x} on the left on a {c} background",
    "{x} in the style of {s} on a {c} background",
    "a small {x}",
    "{x}, {y}",
    "{y} {x}",
    "a {x} on the {y}",
    "a photo of a small {x} on the {y}",
    "a {y} {z} of {x}",
    "a {y} {z} of a {x}",
)
_PAIRS = 10  # for each word
_BRIEFLY = ("{x}", "a photo of a {x}", "{x} in the style of {s} on a {c} background")

# Function words carry no concept: a name that holds one must not take it from the language.
FUNCTION_WORDS = frozenset("a an the of in on at to and or with for by from as is it its his her their no".split())


class Sentence(NamedTuple):
    """A name in a sentence.

    Attributes:
        text: the sentence.
        start: where the name begins in it, in characters.
        frame: the sentence with {x} in the name's place.
    """

    text: str
    start: int
    frame: str


def fill(template: str, name: str) -> str:
    """Puts a name into a template, with the article English wants: none before a name that has one."""
    return sentence_of(template, name).text


def sentence_of(template: str, name: str) -> Sentence:
    """The same, with the place of the name; its first where a template asks for it twice."""
    fitted = _fitted(template, name)
    return Sentence(fitted.replace("{x}", name), fitted.index("{x}"), fitted)


def training_sentences(
    name: str,
    *,
    style: bool = False,
    words: Sequence[str] = (),
    excluded: Iterable[str] = (),
    styles: Iterable[str] = (),
) -> Iterator[Sentence]:
    """The sentences a name is forgotten in.

    Args:
        name: the name.
        style: whether it names a style, which needs subjects.
        words: a vocabulary to draw contexts from; the same ones for every name.
        excluded: words that no subject or context may hold, since they are hidden from the eraser or forgotten.
        styles: styles that the checkpoint is known to draw.
    """
    hidden, rng = set(excluded), random.Random(0)
    if not style:
        templates = list(TRAINING_TEMPLATES)
    else:
        subjects = [s for s in STYLE_TRAINING_SUBJECTS if not content_words([s]) & hidden]
        templates = list(dict.fromkeys(t.replace("{subject}", s) for t in STYLE_TRAINING_TEMPLATES for s in subjects))
    if content := [w for w in words if w not in FUNCTION_WORDS and w not in hidden]:
        for context in STYLE_CONTEXT_TEMPLATES if style else CONTEXT_TEMPLATES:
            templates += [_in_context(context, content, rng, hidden) for _ in range(CONTEXTS)]
        if not style:
            templates += [_in_context(t, content, rng, hidden, [s]) for s in styles for t in STYLED_TEMPLATES]
    yield from dict.fromkeys(sentence_of(template, name) for template in templates)


def published_sentence(name: str, *, style: bool = False) -> Sentence:
    """The sentence a name is forgotten in by the algorithm as it was published."""
    return sentence_of(PUBLISHED_STYLE_TEMPLATE if style else PUBLISHED_TEMPLATE, name)


def longest_sentence(name: str, *, style: bool = False) -> str:
    """The longest of a name's `training_sentences` without a vocabulary, in characters.

    Args:
        name: the name.
        style: whether it names a style.
    """
    like = "the x" if re.match(_ARTICLE, name, re.IGNORECASE) else "o" if re.match(_VOWEL, name, re.IGNORECASE) else "x"
    return _longest_frame(like, style).replace("{x}", name)


@cache
def _longest_frame(like: str, style: bool) -> str:
    # The same for all names with the same article, since each sentence holds the name once.
    return max((s.frame for s in training_sentences(like, style=style)), key=len)


def stop_sentences(
    name: str, *, style: bool = False, words: Sequence[str], excluded: Iterable[str] = (), styles: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """The sentences of stop pictures, each with its frame: the same with {x} in the name's place.

    Args:
        name: the name.
        style: whether it names a style, which needs subjects.
        words: a vocabulary to draw contexts from.
        excluded: words that no context may hold.
        styles: styles that the checkpoint is known to draw, for those that prompts commonly ask for.
    """
    rng = random.Random(1)
    if style:
        templates = [t.replace("{subject}", s) for t in STYLE_STOP_TEMPLATES for s in STYLE_TRAINING_SUBJECTS[-2:]]
    else:
        asked = [t.replace("{s}", "{k}") for t in STOP_TEMPLATES] if styles else STOP_TEMPLATES
        templates = [_in_context(t, words, rng, set(excluded), styles) for _ in range(2) for t in asked]
    frames = [_fitted(template, name) for template in dict.fromkeys(templates)]
    return [(frame.replace("{x}", name), frame) for frame in frames]


def stand_in_words(words: Sequence[str], count: int, length: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Draws ``count`` names of ``length`` words each."""
    rng = random.Random(seed)
    return tuple(tuple(rng.choice(words) for _ in range(length)) for _ in range(count))


def content_words(names: Iterable[str]) -> set[str]:
    """Words of names that carry meaning, lower case."""
    return {w for name in names for w in re.findall(r"[^\W\d_]+", name.lower())} - FUNCTION_WORDS


def vocabulary_sentences(words: Sequence[str], seed: int, styles: Sequence[str] = ()) -> list[str]:
    """A vocabulary in sentences.

    Every word stands in every word template, random names of two words in random ones; the bare templates and the
    empty prompt come with them.

    Args:
        words: the vocabulary.
        seed: of contexts and pairs.
        styles: styles that the checkpoint is known to draw.
    """
    rng = random.Random(seed)
    content = [w for w in words if w not in FUNCTION_WORDS]
    sentences = ["", *(_bare(t) for t in TRAINING_TEMPLATES)]
    for word in content:
        sentences += [fill(_in_context(t, content, rng, (), styles), word) for t in _word_templates(styles)]
    for _ in range(_PAIRS * len(content)):
        pair = f"{rng.choice(content)} {rng.choice(content)}"
        sentences.append(fill(_in_context(rng.choice(_WORD_TEMPLATES), content, rng), pair))
    return list(dict.fromkeys(sentences))


def word_sentences(
    chosen: Sequence[str],
    words: Sequence[str],
    excluded: Iterable[str] = (),
    *,
    styles: Sequence[str] = (),
    brief: bool = False,
) -> list[list[str]]:
    """Words of a vocabulary, each in sentences of its own.

    Args:
        chosen: the words.
        words: the vocabulary, to draw contexts from.
        excluded: words that no context may hold.
        styles: styles that the checkpoint is known to draw.
        brief: in a few sentences, to get an idea of a word, instead of in all templates.
    """
    rng, hidden = random.Random(2), set(excluded)
    content = [w for w in words if w not in FUNCTION_WORDS and w not in hidden]
    templates = _BRIEFLY if brief else _word_templates(styles)
    return [[fill(_in_context(t, content, rng, hidden, styles), word) for t in templates] for word in chosen]


def _word_templates(styles: Sequence[str]) -> tuple[str, ...]:
    return (*_WORD_TEMPLATES, *STYLED_TEMPLATES) if styles else _WORD_TEMPLATES


def _in_context(
    template: str,
    words: Sequence[str],
    rng: random.Random,
    hidden: Iterable[str] = (),
    styles: Sequence[str] = (),
) -> str:
    shown = {slot: [p for p in phrases if content_words([p]).isdisjoint(hidden)] for slot, phrases in _COMMON.items()}
    if "{k}" in template:
        template = template.replace("{k}", rng.choice(styles))
    for slot, phrases in {"{y}": words, "{z}": words, **shown}.items():
        template = template.replace(slot, rng.choice(phrases or words))
    return re.sub(rf"\b([Aa]) (?={_VOWEL})", r"\1n ", template)


def _fitted(template: str, name: str) -> str:
    if re.match(_ARTICLE, name, re.IGNORECASE):
        return re.sub(r"\b(an?|the) \{x\}", "{x}", template, flags=re.IGNORECASE)
    vowel = re.match(_VOWEL, name, re.IGNORECASE)
    return re.sub(r"\b([Aa]) \{x\}", r"\1n {x}", template) if vowel else template


def _bare(template: str) -> str:
    bare = re.sub(r"( in the style of|,)? ?\{x\}", "", template)
    return re.sub(r"\s+", " ", bare).strip()
