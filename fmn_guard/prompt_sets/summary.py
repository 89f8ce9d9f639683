"""What published prompt sets come to, base beside patched: counted as each preset says, and judged by no rule.

Every figure says how many pictures it is over. Where a picture of either side is not scored, the set is incomplete, and
a verdict that rests on its suite is at best inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from ..evidence import Side
from ..gathered import Evidence
from ..plan import Plan
from ..probes import Probe
from ..record import Digest, Record
from .counting import Picture, counted_words, figures_of
from .figures import Figure
from .protocols import LeftOut, PromptSet
from .spec import PresetName


class FigureRow(Record):
    """A figure of base and patched model."""

    name: str
    """What it is."""
    better: Literal["lower", "higher", "neither"]
    """Which way is better, where something was to be forgotten."""
    rate: bool
    """Whether it is a share, rather than a mean number."""
    base: Figure
    """Of the base."""
    patched: Figure
    """Of the patched model."""


class Counted(Record):
    """How many pictures stand behind a side."""

    generated: int
    """Pictures drawn."""
    scored: int
    """Pictures that count."""


class PromptSetSummary(Record):
    """What came of a published prompt set."""

    preset: PresetName
    """Whose protocol."""
    version: int
    """Version of that protocol."""
    csv_digest: Digest
    """SHA-256 of the file."""
    rows: int
    """Rows of the file."""
    published_rows: int | None = None
    """Rows of the published file, where there is one size of it."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that were not drawn."""
    cut: int = 0
    """Prompts of which the tokenizer cut the rest off."""
    drawn: str
    """How it was drawn, in words."""
    counted: str
    """What was counted, in words."""
    planned: int
    """Pictures planned, on either side."""
    base: Counted
    """Of the base."""
    patched: Counted
    """Of the patched model."""
    figures: tuple[FigureRow, ...]
    """What it comes to."""

    @property
    def complete(self) -> bool:
        """Whether every planned picture was drawn and scored on both sides."""
        sides = (self.base, self.patched)
        return all(side.generated == side.scored == self.planned for side in sides)

    @property
    def words(self) -> str:
        """What it is over, in a line or two."""
        left = "".join(f", {each.count} left out ({each.reason})" for each in self.left_out)
        cut = f", {self.cut} cut off by the tokenizer" if self.cut else ""
        other = self.published_rows not in (None, self.rows)
        published = f"; the published file has {self.published_rows:,}: not comparable" if other else ""
        return f"{self.drawn}; {self.counted}. {self.rows:,} rows{left}{cut}{published}."

    @property
    def counts(self) -> str:
        """How many pictures were planned, drawn and scored."""
        sides = ((name, side) for name, side in (("base", self.base), ("patched", self.patched)))
        drawn = ", ".join(f"{name} {side.generated} drawn, {side.scored} scored" for name, side in sides)
        return f"{self.planned} pictures planned; {drawn}{'' if self.complete else ': inconclusive'}"


def prompt_figures(evidence: Evidence, confidence: float) -> tuple[PromptSetSummary, ...]:
    """Counts all prompt sets of a plan.

    Args:
        evidence: What was seen.
        confidence: Of every interval, two-sided.
    """
    return tuple(_summary(each, evidence, confidence) for each in evidence.plan.prompt_sets)


def probes_of_set(plan: Plan, published: PromptSet) -> list[Probe]:
    """The probes of a prompt set."""
    return [p for p in plan.probes if p.role == "prompted" and p.subject == published.preset]


def _summary(published: PromptSet, evidence: Evidence, confidence: float) -> PromptSetSummary:
    probes = probes_of_set(evidence.plan, published)
    sides = {side: list(_scored(evidence, probes, side)) for side in ("base", "patched")}
    return PromptSetSummary(
        preset=published.preset,
        version=published.version,
        csv_digest=published.csv_digest,
        rows=published.rows,
        published_rows=published.published_rows,
        left_out=published.left_out,
        cut=published.cut,
        drawn=published.words,
        counted=counted_words(published),
        planned=len(probes),
        base=_behind(evidence, probes, "base", len(sides["base"])),
        patched=_behind(evidence, probes, "patched", len(sides["patched"])),
        figures=tuple(
            FigureRow(
                name=row.name,
                better=row.better,
                rate=row.rate,
                base=row.make(sides["base"]),
                patched=row.make(sides["patched"]),
            )
            for row in figures_of(published, probes, confidence)
        ),
    )


def _behind(evidence: Evidence, probes: Sequence[Probe], side: Side, scored: int) -> Counted:
    seen = (evidence.seen.get((probe.id, side)) for probe in probes)
    return Counted(generated=sum(o is not None and o.image_digest is not None for o in seen), scored=scored)


def _scored(evidence: Evidence, probes: Iterable[Probe], side: Side) -> Iterator[Picture]:
    for probe in probes:
        if evidence.why_unscored(probe, side) is None:
            seen = evidence.seen[probe.id, side].sightings
            yield Picture(probe, {name: boxes for name, boxes in seen.items() if boxes is not None})
