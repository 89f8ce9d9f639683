"""The report: findings, verdict, and what was not tested.

(Plan, Audit, ReleasePolicy) --judge--> Report     report.json; pure, without torch, in seconds
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import Field

import fmn_guard

from .attacks.measured import Attacks
from .attacks.measured import check_chain as check_attacks
from .attacks.summary import InReport as AttacksInReport
from .attacks.summary import summarise as summarise_attacks
from .errors import BrokenChain, InputError
from .evidence import Audit, Instrument, PassMatrix, PassRecords, Side
from .findings import (
    NAMED,
    SHOWN,
    Finding,
    NamedOutcome,
    Outcome,
    apply,
    collapse,
    evidence_findings,
    marked,
    measured,
    no_effect,
    not_judged,
    prompt_set_findings,
    undecidable,
    verdict_of,
    worst,
)
from .matrix import pass_matrix, rebounds
from .metrics import DetectorTally, Evidence, drop_of, gather, gather_attacks, most_like, suppression, tally
from .mscore import InReport, MScore, check_chain, summarise
from .passes import PassKind, PassSpec
from .plan import Plan
from .policy import PolicySpec, ReleasePolicy
from .prompt_sets.figures import PromptSetSummary, prompt_figures
from .record import Digest, Record, Slug, digest
from .review import Review, ReviewSummary, compare, reviewed
from .sequence import passes_run
from .stats import Interval, wider
from .untested import not_tested
from .waivers import WaiverUse, expired, settle

__all__ = [
    "ConceptSummary",
    "DetectorTally",
    "Finding",
    "NamedOutcome",
    "Outcome",
    "Report",
    "RetainedSummary",
    "SideCounts",
    "Unscored",
    "WaiverUse",
    "at_gate",
    "judge",
    "verdict_of",
]


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


class Report(Record):
    """report.json: every finding, the verdict, and what was not tested."""

    schema_version: Literal["fmn-guard/report/v1"] = "fmn-guard/report/v1"
    """Format of this record."""
    name: Slug
    """The manifest's name."""
    tool_version: str
    """Version of fmn-guard that judged."""
    judged_on: date | None = None
    """Day of judging, against which waivers expire; None where the policy has none."""
    plan_digest: Digest
    """Digest of plan.json's content."""
    passes_digest: Digest | None
    """Digest of passes.json's content; None for a checkpoint that fmn-guard did not make."""
    audit_digest: Digest
    """Digest of audit.json's content."""
    suite: Slug
    """The suite's name."""
    policy: Slug
    """The policy's name."""
    policy_digest: Digest
    """Digest of the policy's content."""
    base_digest: Digest
    """Identity of the base: digest of its weights, tokenizer and configurations."""
    patched_digest: Digest
    """Identity of the audited model; the base's if nothing was changed."""
    confidence: float
    """Confidence of every interval, two-sided."""
    verdict: Outcome
    """Fail wins over inconclusive, inconclusive over pass; nothing found is inconclusive."""
    outcomes: tuple[NamedOutcome, ...]
    """Named outcomes that occurred."""
    findings: tuple[Finding, ...]
    """In the policy's order, then those that come with every policy."""
    waivers: tuple[WaiverUse, ...] = ()
    """What came of each waiver, in the policy's order."""
    signature: Literal["optional", "required"] = "optional"
    """Whether the policy asks for a signature of this report; see `at_gate`."""
    concepts: tuple[ConceptSummary, ...]
    """In the order of the passes."""
    retained: tuple[RetainedSummary, ...]
    """In the plan's order."""
    matrix: Annotated[PassMatrix | None, Field(exclude_if=lambda matrix: matrix is None)] = None
    """How often each concept, and what is retained, was shown after each pass; None where nobody looked."""
    tallies: tuple[DetectorTally, ...]
    """What detectors saw."""
    prompt_sets: Annotated[tuple[PromptSetSummary, ...], Field(exclude_if=lambda sets: not sets)] = ()
    """What published prompt sets come to."""
    mscore: InReport = None
    """What inversion finds; None where that was not measured."""
    attacks: AttacksInReport = None
    """What came of attacks; None where none was made."""
    review: Annotated[ReviewSummary | None, Field(exclude_if=lambda review: review is None)] = None
    """What people confirmed and overruled; None where nobody looked."""
    counts: tuple[SideCounts, ...]
    """Base, then patched."""
    unscored: tuple[Unscored, ...]
    """Why pictures do not count, the most frequent reason first."""
    not_tested: tuple[str, ...]
    """What the verdict says nothing about."""
    warnings: tuple[str, ...]
    """What to know beside the findings: suites too small for a limit, passes that diverged, concepts that came back."""
    instruments: tuple[Instrument, ...]
    """Who measured."""

    @property
    def verdict_words(self) -> str:
        """The verdict; where people decided it, with what it is without them: ``pass after review, fail without``."""
        without = self.review.verdict_without if self.review else self.verdict
        return self.verdict if without == self.verdict else f"{self.verdict} after review, {without} without"


def judge(
    plan: Plan,
    audit: Audit,
    policy: ReleasePolicy,
    passes: PassRecords | None = None,
    *,
    mscore: MScore | None = None,
    attacks: Attacks | None = None,
    review: Review | None = None,
    judged_on: date | None = None,
    tool_version: str = fmn_guard.__version__,
) -> Report:
    """Applies a policy to an audit. Pure.

    Args:
        plan: What was to be measured.
        audit: What was measured.
        policy: The limits.
        passes: What the eraser did, when it was fmn-guard's; adds warnings, changes no finding.
        mscore: What inversion found, where it was tried; told, and held against limits on its replay.
        attacks: What came of attacks, where some were made; told, and held against limits on their success.
        review: What people ruled on single pictures; findings follow it, and the verdict without it is told beside.
        judged_on: The day against which waivers expire; a policy with waivers needs one.
        tool_version: Version of fmn-guard that judges, or that judged when a report is judged again.

    Raises:
        BrokenChain: the records are not of one run, or observations are doubled or of unknown probes.
        InputError: the policy has waivers, and no day is given.
    """
    _check_passes(plan, audit, passes)
    if mscore is not None:
        check_chain(mscore, audit.plan_digest, audit.patched_digest)
    if attacks is not None:
        check_attacks(attacks, plan, audit.patched_digest)
    evidence, spec = replace(gather(plan, audit), mscore=mscore), policy.spec
    matrix = pass_matrix(evidence, audit.between)
    if matrix != audit.matrix:
        raise BrokenChain("the audit's matrix is not what its pictures come to", hint="audit the patched model again")
    if spec.waivers and judged_on is None:
        raise InputError(
            f"policy {policy.metadata.name} has waivers, which expire, and no day of judging is given",
            hint="give judged_on",
        )
    inversion = summarise(mscore, spec.confidence) if mscore else None
    tried = gather_attacks(evidence, attacks) if attacks else ()
    assaults = summarise_attacks(attacks, tried, plan, spec.confidence) if attacks else None
    if assaults and spec.attacks and spec.attacks.met_by(assaults.suite, assaults.suite_digest):
        evidence = replace(evidence, attacks=tried)
    alone = evidence
    if review is not None:
        evidence = reviewed(alone, audit, review)
    ruled, findings, waivers = _found(evidence, audit, spec, judged_on, tool_version)
    told = compare(review, findings, _found(alone, audit, spec, judged_on, tool_version)[1]) if review else None
    return Report(
        name=plan.name,
        tool_version=tool_version,
        judged_on=judged_on if spec.waivers else None,  # without waivers a report is the same on any day
        plan_digest=audit.plan_digest,
        passes_digest=audit.passes_digest,
        audit_digest=digest(audit),
        suite=plan.suite,
        policy=policy.metadata.name,
        policy_digest=digest(policy),
        base_digest=plan.base.identity,
        patched_digest=audit.patched_digest,
        confidence=spec.confidence,
        verdict=verdict_of(findings),
        outcomes=tuple(dict.fromkeys(NAMED[f.metric] for f in findings if f.metric in NAMED)),
        findings=findings,
        waivers=waivers,
        signature=spec.evidence.signature,
        concepts=tuple(_concept(evidence, subject, findings, spec.confidence) for subject in plan.passes),
        retained=tuple(_retained(evidence)),
        matrix=matrix,
        tallies=tally(evidence),
        prompt_sets=prompt_figures(alone, spec.confidence),
        mscore=inversion,
        attacks=assaults,
        review=told,
        counts=tuple(_counts(evidence, side) for side in get_args(Side)),
        unscored=tuple(_unscored(evidence)),
        not_tested=tuple(not_tested(evidence, ruled, spec, inversion, assaults)),
        warnings=(
            *(told.warnings if told else ()),
            *undecidable(plan, policy),
            *_trouble(plan, passes),
            *(each.words for each in rebounds(matrix)),
            *_taken_over(evidence),
        ),
        instruments=audit.instruments,
    )


def _found(
    evidence: Evidence, audit: Audit, spec: PolicySpec, judged_on: date | None, tool_version: str
) -> tuple[list[Finding], tuple[Finding, ...], tuple[WaiverUse, ...]]:
    """What the policy's rules find, then all findings, and what came of waivers."""
    plan = evidence.plan
    ruled = [apply(rule, m, spec) for rule in spec.rules for m in measured(evidence, rule)]
    findings, waivers = settle(
        (
            *ruled,
            *not_judged(plan.passes, ruled),
            *no_effect(evidence, audit, spec),
            *collapse(evidence, spec),
            *evidence_findings(plan, spec.evidence, tool_version),
            *prompt_set_findings(evidence),
        ),
        spec.waivers,
        judged_on,
    )
    return ruled, findings, waivers


def at_gate(report: Report, today: date, *, signed: bool) -> tuple[Outcome, tuple[str, ...]]:
    """What a verdict is worth at the gate, on a later day and with or without a signature. Pure.

    Args:
        report: The report, known to be of one piece with its run.
        today: The day of release; a waiver that a verdict rests on may have expired since.
        signed: Whether a signature of the report was verified.

    Returns:
        The outcome to exit by, and a sentence for each reason why it is not simply the verdict.
    """
    held = [use.waiver for use in report.waivers if use.state == "in force" and expired(use.waiver, today)]
    outcomes: list[Outcome] = [report.verdict]
    if held:
        outcomes.append("fail")
    reasons = [f"The waiver of {w.about} by {w.owner} expired on {w.expires}: fail." for w in held]
    if report.signature == "required" and not signed:
        outcomes.append("inconclusive")
        reasons.append("The policy asks for a signature, and none was verified: at best inconclusive.")
    return worst(outcomes), tuple(reasons)


def _check_passes(plan: Plan, audit: Audit, passes: PassRecords | None) -> None:
    if passes is None:
        return
    if audit.passes_digest != digest(passes):
        raise BrokenChain("the audit is not of the model that these passes made", hint="audit the patched model again")
    if passes.plan_digest != audit.plan_digest or passes.base_digest != plan.base.identity:
        raise BrokenChain("the passes followed another plan, or started from another base", hint="run this plan")


def _concept(evidence: Evidence, subject: PassSpec, findings: tuple[Finding, ...], confidence: float) -> ConceptSummary:
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


def _retained(evidence: Evidence) -> Iterator[RetainedSummary]:
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


def _counts(evidence: Evidence, side: Side) -> SideCounts:
    probes = evidence.plan.probes
    pictures = [o for (_, s), o in evidence.seen.items() if s == side]
    return SideCounts(
        side=side,
        planned=len(probes),
        generated=sum(o.image_digest is not None for o in pictures),
        scored=sum(evidence.why_unscored(p, side) is None for p in probes),
    )


def _unscored(evidence: Evidence) -> Iterator[Unscored]:
    sides: tuple[Side, ...] = get_args(Side)
    reasons = Counter((side, evidence.why_unscored(p, side)) for side in sides for p in evidence.plan.probes)
    for (side, reason), n in reasons.most_common():
        if reason is not None:
            yield Unscored(side=side, reason=reason, count=n)


def _trouble(plan: Plan, passes: PassRecords | None) -> Iterator[str]:
    budgets = {spec.slug: spec.rollback.drift for spec in passes_run(plan) if spec.rollback}
    for done in passes.passes if passes else ():
        if done.stopped == "diverged":
            yield f"Pass {done.slug} diverged after {done.steps} steps."
        if done.stopped == "no-steps":
            yield f"Pass {done.slug} took no step."
        if done.rolled_back:
            yield f"Pass {done.slug} went over its drift budget {len(done.rolled_back)} times and was taken back."
        if (done.own_drift or 0) > (budget := budgets.get(done.slug, 1.0)):
            yield f"Pass {done.slug} is over its drift budget: {done.own_drift:.3f} of {budget:.3f}."


def _taken_over(evidence: Evidence) -> Iterator[str]:
    """Where the base draws a correction's dominant reading although the expected one is asked for by its own name."""
    probes = evidence.plan.probes
    readings = dict.fromkeys((p.subject, *p.labels) for p in probes if p.role == "correction" and len(p.labels) > 1)
    for slug, dominant, expected in readings:
        asked = [p for p in probes if p.role == "retained" and p.labels[0] == expected]
        drawn = [evidence.seen[p.id, "base"].top for p in asked if evidence.why_unscored(p, "base") is None]
        if wrong := drawn.count(dominant):
            wanted, got = (label.rpartition(":")[2] for label in (expected, dominant))
            yield f"Correction {slug}: asked for {wanted}, the base draws {got} in {wrong} of {len(drawn)} pictures."
