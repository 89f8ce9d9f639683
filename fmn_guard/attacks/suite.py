"""How a model is attacked: the ``AttackSuite`` document (descriptions, search budget, other seeds and guidance)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..faults import RuleViolation, RuleViolations
from ..manifest import Metadata, Phrase
from ..record import Record, slugify
from ..yamlfile import load_yaml

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Sentence = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^\S(.*\S)?$")]

_LITTLE = frozenset("a an and at by for from in is it of on or the to with".split())
"""Words that many names hold and that say nothing of them."""


class PrefixSearch(Record):
    """The budget of a search for words that, put before a prompt, bring a concept back.

    Greedy coordinate gradient (Zou et al., arXiv 2307.15043) on the loss by which diffusion models are attacked (Zhang
    et al., arXiv 2310.11868): how badly the attacked model denoises pictures of the concept that the base drew.
    """

    tokens: Annotated[int, Field(ge=1, le=16)] = 5
    """Free tokens before the prompt, each a whole word of the vocabulary; none is one of the concept's names."""
    seeds: tuple[Seed, ...] = Field((0, 1), min_length=1)
    """One search each, from other words, over other noise; the one that shows the concept most is the attack."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Changes of one word that are made or declined."""
    candidates: Annotated[int, Field(ge=1, le=4096)] = 12
    """Changes that are tried at a step."""
    nearest: Annotated[int, Field(ge=1, le=4096)] = 48
    """Words for each place that the gradient holds for best, from which changes are drawn."""
    batch: Annotated[int, Field(ge=1, le=64)] = 4
    """Reference pictures by which a step judges changes, each with noise and timestep of its own."""
    references: Annotated[int, Field(ge=1, le=256)] = 8
    """Pictures of the concept that the base draws."""
    trials: Annotated[int, Field(ge=1, le=256)] = 6
    """Pictures by which the attacker chooses between seeds; none of them is counted."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads, which change the last bits."""


class AttackSuiteSpec(Record):
    """The content of an attack suite."""

    pictures: Annotated[int, Field(ge=1, le=1000)] = 6
    """Pictures of each prompt, on either model, from seeds that no audit draws from. Asked as the audit asks, they are
    the attack ``seeds``, and what the others are compared with."""
    guidance: tuple[Annotated[float, Field(ge=1, le=50)], ...] = ()
    """Guidance scales, beside the audit's own, at which the audit's sentences are asked too."""
    prefix: PrefixSearch | None = None
    """Budget of the search for words to put before those sentences; left out, none is made."""
    descriptions: dict[Phrase, tuple[Sentence, ...]] = Field(default_factory=dict)
    """Sentences that mean a concept without naming it, by its phrase. What the base does not understand proves
    nothing, and is told."""

    @model_validator(mode="after")
    def _sound(self) -> AttackSuiteSpec:
        if problems := [*self._named(), *self._doubled()]:
            raise RuleViolations(problems)
        return self

    def _named(self) -> Iterator[RuleViolation]:
        for phrase, sentences in self.descriptions.items():
            for i, sentence in enumerate(sentences):
                if word := names_it(sentence, (phrase,)):
                    yield RuleViolation(
                        "says-the-name",
                        f"a description of {phrase!r} says {word!r}",
                        hint="describe it without its name; by its name the audit asks",
                        loc=("descriptions", phrase, i),
                    )

    def _doubled(self) -> Iterator[RuleViolation]:
        slugs: dict[str, str] = {}
        for phrase, sentences in self.descriptions.items():
            slug = slugify(phrase)
            if slug in slugs or not sentences or len(set(sentences)) < len(sentences):
                yield RuleViolation(
                    "no-description" if not sentences else "doubled",
                    f"{phrase!r} has no description" if not sentences else f"{phrase!r} is described twice alike",
                    hint="list each concept once, with distinct sentences",
                    loc=("descriptions", phrase),
                )
            slugs[slug] = phrase
        if len(set(self.guidance)) < len(self.guidance):
            yield RuleViolation("doubled", "a guidance scale is listed twice", hint="list each once", loc=("guidance",))


class AttackSuite(Record):
    """An ``AttackSuite`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["AttackSuite"]
    """``AttackSuite``"""
    metadata: Metadata
    """Name and description."""
    spec: AttackSuiteSpec
    """What is tried, and at which budget."""


def load_attacks(path: Path) -> AttackSuite:
    """Reads an attack suite.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return load_yaml(path, AttackSuite)


def names_it(sentence: str, names: tuple[str, ...]) -> str | None:
    """The first word of a sentence that is one of a name's; None where it names nothing.

    Words are compared whole and in any case; plurals are other words, as they are to a tokenizer.
    """
    own = {word for name in names for word in _words(name)}
    meaningful = own - _LITTLE or own
    return next((word for word in _words(sentence) if word in meaningful), None)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
