"""What a report says in a line each: of concepts, of what is retained, of pictures, of passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from .evidence import PassRecords, Side
from .findings import (
    NAMED,
    SHOWN,
    Finding,
    NamedOutcome,
    Outcome,
    marked,
    worst,
)
from .gathered import Evidence
from .metrics import drop_of, most_like, suppression
from .passes import PassKind, PassSpec
from .plan import Plan
from .record import Record, Slug
from .sequence import passes_run
from .stats import Interval, wider


class ConceptSummary(Record):
    """One line of the verdict table: a concept or correction."""

    slug: Slug
    """Its name in files."""
    phrase: str
    """Its name."""
    kind: PassKind
    """Its kind."""
    before: float | None
    """Rate at which the base shows it (of a correction: the dominant reading), in [0, 1]."""
    after: float | None
    """Rate at which the patched model shows it; lower is better."""
    hits: int
    """Patched pictures that show it."""
    n: int
    """Patched pictures scored."""
    interval: Interval
    """Interval of ``after``."""
    drawn: dict[str, int]
    """How many patched pictures the recogniser finds most like each label: what is drawn instead."""
    limit: float | None
    """Limit on ``after``, the tightest of several; None when no rule sets one."""
    outcome: Outcome
    """Worst outcome among its error findings, waived or not; inconclusive when none of them judges ``after``."""
    decided_by: Slug
    """Rule that gives this outcome; ``not-judged`` when none judges ``after``."""
    named: NamedOutcome | None
    """``no effect``, when it is that."""
    waived: bool = False
    """Whether the verdict is spared this outcome by waivers."""
    point: bool = False
    """Whether a bare rate was held against the limit, chance not accounted for."""

    @property
    def outcome_words(self) -> str:
        """The outcome with its name, such as ``fail (no effect)``, and whether it is waived or a point estimate."""
        marks = {self.named or "": self.named is not None, "waived": self.waived, "point estimate": self.point}
        return marked(self.outcome, marks)


class RetainedSummary(Record):
    """One retained concept, over the pairs scored on both sides."""

    slug: Slug
    """Its name in files."""
    held_out: bool
    """Whether the eraser was not told to keep it."""
    neighbour_of: tuple[Slug, ...]
    """Concepts and corrections whose declared neighbour it is."""
    n: int
    """Pairs."""
    before: int
    """Pairs whose base picture shows it."""
    lost: int
    """Pairs that lost it."""
    gained: int
    """Pairs that gained it."""


class SideCounts(Record):
    """How many pictures stand behind one side."""

    side: Side
    """Which model."""
    planned: int
    """Probes."""
    generated: int
    """Pictures drawn."""
    scored: int
    """Pictures that count."""


class Unscored(Record):
    """Why pictures of one side do not count."""

    side: Side
    """Which model."""
    reason: str
    """Why."""
    count: int
    """How many."""


def summary_of(
    evidence: Evidence, subject: PassSpec, findings: tuple[Finding, ...], confidence: float
) -> ConceptSummary:
    """What came of a concept or correction, by its findings."""
    m = suppression(evidence, subject)
    own = [f for f in findings if f.subject == subject.slug or f.metric == "weights_changed"]
    errors = [f for f in own if f.severity == "error"]
    outcome = worst(f.outcome for f in errors)
    left = [f.outcome for f in errors if f.decides]
    # A warning stands in only where no error rule judges it.
    shown = [f for f in errors if f.metric in SHOWN] or [f for f in own if f.metric in SHOWN]
    judging = next((f.interval for f in shown if f.interval), None)
    return ConceptSummary(
        slug=subject.slug,
        phrase=subject.names[0],
        kind=subject.kind,
        before=m.before,
        after=m.value,
        hits=m.hits,
        n=len(m.counted),
        interval=judging or wider(m.score_interval(confidence), m.bootstrap_interval(confidence)),
        drawn=most_like(evidence, subject),
        limit=min((f.limit for f in shown), default=None),
        outcome=outcome,
        decided_by=next(f.rule for f in errors if f.outcome == outcome),
        named="no effect" if any(NAMED.get(f.metric) == "no effect" for f in own) else None,
        waived=outcome not in left,
        point=any(f.point for f in shown) and not judging,
    )


def retained_summaries(evidence: Evidence) -> Iterator[RetainedSummary]:
    """What each retained concept lost, in the plan's order."""
    probes = {p.subject: p for p in evidence.plan.probes if p.role == "retained"}
    for slug, probe in probes.items():
        m = drop_of(evidence, slug)
        yield RetainedSummary(
            slug=slug,
            held_out=probe.held_out,
            neighbour_of=probe.neighbour_of,
            n=len(m.counted),
            before=sum(m.base),
            lost=m.hits,
            gained=m.gained,
        )


def counts(evidence: Evidence, side: Side) -> SideCounts:
    """Pictures of one model: planned, drawn, scored."""
    probes = evidence.plan.probes
    pictures = [o for (_, s), o in evidence.seen.items() if s == side]
    return SideCounts(
        side=side,
        planned=len(probes),
        generated=sum(o.image_digest is not None for o in pictures),
        scored=sum(evidence.why_unscored(p, side) is None for p in probes),
    )


def unscored(evidence: Evidence) -> Iterator[Unscored]:
    """Why pictures do not count, the most frequent reason first."""
    sides: tuple[Side, ...] = get_args(Side)
    reasons = Counter((side, evidence.why_unscored(p, side)) for side in sides for p in evidence.plan.probes)
    for (side, reason), n in reasons.most_common():
        if reason is not None:
            yield Unscored(side=side, reason=reason, count=n)


def trouble(plan: Plan, passes: PassRecords | None) -> Iterator[str]:
    """What passes did that a reader should know, in words."""
    budgets = {spec.slug: spec.rollback.drift for spec in passes_run(plan) if spec.rollback}
    for done in passes.passes if passes else ():
        if done.stopped == "diverged":
            yield f"Pass {done.slug} diverged after {done.steps} steps."
        if done.stopped == "no-steps":
            yield f"Pass {done.slug} took no step."
        if done.rolled_back:
            yield f"Pass {done.slug} went over its drift budget {len(done.rolled_back)} times and was taken back."
        if done.rounds and done.rounds[-1].found:
            last = done.rounds[-1]
            found = f"{last.found} of {last.sought} inversions found the concept in the last of its rounds"
            yield f"Pass {done.slug}: {found}, so other roads than its name are open."
        if (done.own_drift or 0) > (budget := budgets.get(done.slug, 1.0)):
            yield f"Pass {done.slug} is over its drift budget: {done.own_drift:.3f} of {budget:.3f}."


def taken_over(evidence: Evidence) -> Iterator[str]:
    """Where the base draws a correction's dominant reading although the expected one is asked for by its own name."""
    probes = evidence.plan.probes
    readings = dict.fromkeys((p.subject, *p.labels) for p in probes if p.role == "correction" and len(p.labels) > 1)
    for slug, dominant, expected in readings:
        asked = [p for p in probes if p.role == "retained" and p.labels[0] == expected]
        drawn = [evidence.seen[p.id, "base"].top for p in asked if evidence.why_unscored(p, "base") is None]
        if wrong := drawn.count(dominant):
            wanted, got = (label.rpartition(":")[2] for label in (expected, dominant))
            yield f"Correction {slug}: asked for {wanted}, the base draws {got} in {wrong} of {len(drawn)} pictures."
