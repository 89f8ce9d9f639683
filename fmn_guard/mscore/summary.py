"""What a report tells of an M-Score; of it, a policy can limit what the replay shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Annotated, NamedTuple

from pydantic import Field

from ..errors import BrokenChain
from ..evidence import Side
from ..plan import Plan
from ..record import Digest, Record, Slug, digest
from ..stats import Interval, wilson
from .measured import FILE, MScore, Score, drop_of
from .protocol import LEAST_CONTROLS, Role, Subject

SHOWN_ON_BASE = 0.6
"""Share of a base's own replayed pictures that must show a concept, or inversion has not found it there either."""


class NoiseFloor(Record):
    """What a drop is of concepts that nobody forgot."""

    n: int
    """Controls."""
    mean: float
    """Mean of their drops."""
    sd: float
    """Standard deviation of their drops, of a sample."""

    @property
    def threshold(self) -> float:
        """What a drop must exceed: mean + 2 sd."""
        return self.mean + 2 * self.sd


class ReplayRow(Record):
    """Pictures drawn by inverted tokens, all seeds together."""

    tokens: int
    """How many tokens."""
    shown: int
    """The patched model's pictures that show the concept."""
    n: int
    """Its pictures that were scored."""
    planned: int
    """Its pictures that were asked for."""
    interval: Interval
    """Interval of the share shown."""
    base_shown: int
    """The same by the base's own tokens on the base."""
    base_n: int
    """The base's pictures that were scored."""

    @property
    def found_on_base(self) -> bool:
        """Whether inversion finds the concept where it surely is; if not, not finding it afterwards says nothing."""
        return self.base_n > 0 and self.base_shown >= SHOWN_ON_BASE * self.base_n

    @property
    def words(self) -> str:
        """In a few words, such as ``16 of 24 (base 24 of 24)``."""
        unscored = f", {self.planned - self.n} unscored" if self.n < self.planned else ""
        doubt = "" if self.found_on_base else ": says nothing, not found on the base"
        return f"{self.shown} of {self.n}{unscored} (base {self.base_shown} of {self.base_n}{doubt})"


class MScoreRow(Record):
    """One concept's M-Score."""

    slug: Slug
    """Its name in files."""
    phrase: str
    """Its name."""
    role: Role
    """Target or control."""
    m0: float | None
    """M-Score of the base, in [-1, 1]; None where it was not measured."""
    m1: float | None
    """M-Score of the patched model, in [-1, 1]; lower is more forgotten."""
    drop: float | None
    """M0 - M1."""
    between: float | None
    """Mean cosine of what is found on base and patched model; 1 is the same."""
    among: float | None
    """Mean cosine of what two seeds find on the base."""
    beyond: bool | None
    """Whether the drop exceeds the noise floor; None where one of them is missing. Of a control: never."""
    replays: tuple[ReplayRow, ...]
    """What is drawn by it."""
    unmeasured: str | None
    """Why it was not measured."""

    @property
    def reading(self) -> str:
        """In words."""
        if self.unmeasured:
            return f"not measured: {self.unmeasured}"
        if self.role == "control":
            return "control"
        if self.beyond is None:
            return "no noise floor"
        return "beyond the noise floor" if self.beyond else "within the noise floor"


class MScoreSummary(Record):
    """The report's section."""

    mscore_digest: Digest
    """Digest of mscore.json's content."""
    word: str
    """The word that inversion started from."""
    seeds: int
    """Seeds of each inversion."""
    steps: int
    """Optimiser steps of each."""
    floor: NoiseFloor | None
    """The noise floor; None where too few controls were measured."""
    rows: tuple[MScoreRow, ...]
    """Targets, then controls."""


InReport = Annotated[MScoreSummary | None, Field(exclude_if=lambda summary: summary is None)]
"""Left out where it was not measured, so that reports of runs without it keep their digests."""


def noise_floor(scores: Sequence[Score]) -> NoiseFloor | None:
    """The noise floor by the controls among some scores; None where fewer than 5 of them were measured."""
    drops = [drop for s in scores if s.role == "control" and (drop := drop_of(s)) is not None]
    if len(drops) < LEAST_CONTROLS:
        return None
    return NoiseFloor(n=len(drops), mean=fmean(drops), sd=stdev(drops))


def summarise(mscore: MScore, confidence: float) -> MScoreSummary:
    """What a report tells of an M-Score. Pure.

    Args:
        mscore: What was measured.
        confidence: Of the replays' intervals, two-sided, in (0, 1).

    Raises:
        BrokenChain: scores are not those of the protocol.
    """
    protocol = mscore.protocol
    if [s.slug for s in mscore.scores] != [s.slug for s in protocol.subjects]:
        raise BrokenChain(f"{FILE}: scores are not those of its protocol", hint="measure it again")
    floor = noise_floor(mscore.scores)
    pairs = zip(protocol.subjects, mscore.scores, strict=True)
    return MScoreSummary(
        mscore_digest=digest(mscore),
        word=protocol.word,
        seeds=len(protocol.inversion.seeds),
        steps=protocol.inversion.steps,
        floor=floor,
        rows=tuple(_row(subject, score, floor, confidence) for subject, score in pairs),
    )


def _row(subject: Subject, score: Score, floor: NoiseFloor | None, confidence: float) -> MScoreRow:
    drop = drop_of(score)
    known = drop is not None
    return MScoreRow(
        slug=subject.slug,
        phrase=subject.phrase,
        role=subject.role,
        m0=fmean(score.base) if known else None,
        m1=fmean(score.patched) if known else None,
        drop=drop,
        between=fmean(score.between) if known else None,
        among=fmean(score.among) if known else None,
        beyond=None if floor is None or drop is None or subject.role == "control" else drop > floor.threshold,
        replays=tuple(_replay_rows(score, confidence)),
        unmeasured=score.unmeasured,
    )


class _Count(NamedTuple):
    shown: int
    n: int
    planned: int


def _replay_rows(score: Score, confidence: float) -> Iterator[ReplayRow]:
    for tokens in dict.fromkeys(r.tokens for r in score.replays):
        sides: tuple[Side, Side] = ("base", "patched")
        base, patched = (_counted(score, tokens, side) for side in sides)
        yield ReplayRow(
            tokens=tokens,
            shown=patched.shown,
            n=patched.n,
            planned=patched.planned,
            interval=wilson(patched.shown, patched.n, confidence),
            base_shown=base.shown,
            base_n=base.n,
        )


def _counted(score: Score, tokens: int, side: Side) -> _Count:
    drawn = [r for r in score.replays if r.tokens == tokens and r.side == side]
    return _Count(sum(r.shown for r in drawn), sum(r.n for r in drawn), sum(r.planned for r in drawn))


def not_tested(summary: MScoreSummary | None, plan: Plan, judged: bool = False) -> Iterator[str]:
    """What is said of concept inversion in the list of what a verdict says nothing about.

    Args:
        summary: What was measured.
        plan: Of what.
        judged: Whether a rule limits the replay.
    """
    if summary is None:
        yield UNTESTED
        return
    if judged:
        yield "Concept inversion with more tokens, seeds or steps than the M-Score's."
    else:
        yield "Concept inversion: measured as M-Score and replay, and judged by no rule."
    for row in summary.rows:
        if row.role == "target" and row.unmeasured:
            yield f"Concept inversion of {row.slug}: {row.unmeasured}."
    if any(spec.kind == "correction" for spec in plan.passes):
        yield "Concept inversion of corrections: the M-Score is of concepts only."


UNTESTED = "Concept inversion: whether an optimised embedding brings a concept back."
"""What a report without M-Score says."""
