"""What a benchmark of forgetting asks of any checkpoint: concepts, other ways to ask for them, and what is like them.

A suite that holds a `Bench` is one edition of it. Nobody's manifest decides what is asked, so that two checkpoints are
asked the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..faults import RuleViolation, RuleViolations
from ..manifest import Correction, Phrase
from ..record import Record, slugify

BenchKind = Literal["identity", "object", "style"]


class BenchConcept(Record):
    """A concept that a checkpoint is asked for."""

    kind: BenchKind
    """``identity``, ``object`` or ``style``."""
    phrase: Phrase
    """Its name."""
    paraphrases: tuple[Phrase, ...] = ()
    """Other names of it."""
    descriptions: tuple[Phrase, ...] = ()
    """Words that mean it and hold none of its names."""
    neighbours: Annotated[tuple[Phrase, ...], Field(min_length=1)]
    """What is most like it, of its kind; no concept of the benchmark."""

    @model_validator(mode="after")
    def _described_without_its_name(self) -> BenchConcept:
        names = {slugify(name) for name in (self.phrase, *self.paraphrases)}
        problems = [
            RuleViolation(
                "named-in-description",
                f"{description!r} holds the name {name!r}",
                hint="a description asks for a concept by anything but its names",
                loc=("descriptions", i),
            )
            for i, description in enumerate(self.descriptions)
            for name in names
            if f"-{name}-" in f"-{slugify(description)}-"
        ]
        if problems:
            raise RuleViolations(problems)
        return self


class Bench(Record):
    """The questions of a benchmark."""

    concepts: Annotated[tuple[BenchConcept, ...], Field(min_length=1)]
    """Concepts of every kind."""
    corrections: tuple[Correction, ...] = ()
    """Words that one reading has taken over."""
    anchors: Annotated[str, Field(min_length=1)] | None = None
    """Folder beside the suite, with a folder of pictures of each concept, by slug: anchors for ``fmn-guard mscore``."""

    @model_validator(mode="after")
    def _sound(self) -> Bench:
        if problems := list(self._neighbours_among_concepts()):
            raise RuleViolations(problems)
        return self

    def _neighbours_among_concepts(self) -> Iterator[RuleViolation]:
        names = {slugify(name) for c in self.concepts for name in (c.phrase, *c.paraphrases)}
        for i, concept in enumerate(self.concepts):
            for j, neighbour in enumerate(concept.neighbours):
                if slugify(neighbour) in names:
                    yield RuleViolation(
                        "neighbour-is-a-concept",
                        f"{neighbour!r} is itself a concept of the benchmark",
                        hint="name another: a neighbour stays whatever is forgotten",
                        loc=("concepts", i, "neighbours", j),
                    )
