"""The report: findings, verdict, and what was not tested.

(Plan, Audit, ReleasePolicy) --judge--> Report     report.json; pure, without torch, in seconds
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import Field

import fmn_guard

from .attacks.measured import Attacks
from .attacks.measured import check_chain as check_attacks
from .attacks.summary import InReport as AttacksInReport
from .attacks.summary import summarise as summarise_attacks
from .distances import DistanceSummary, distance_summary
from .errors import BrokenChain, InputError
from .evidence import Audit, Instrument, PassMatrix, PassRecords, Side
from .findings import (
    NAMED,
    Finding,
    NamedOutcome,
    Outcome,
    apply,
    measured,
    undecidable,
    verdict_of,
    worst,
)
from .gathered import Evidence, gather, gather_attacks
from .matrix import pass_matrix, rebounds
from .mscore import InReport, MScore, check_chain, summarise
from .plan import Plan
from .policy import PolicySpec, ReleasePolicy
from .prompt_sets.summary import PromptSetSummary, prompt_figures
from .record import Digest, Record, Slug, digest
from .review import Review, ReviewSummary, compare, reviewed, stricter
from .standing import collapse, evidence_findings, no_effect, not_judged, prompt_set_findings
from .summaries import (
    ConceptSummary,
    RetainedSummary,
    SideCounts,
    Unscored,
    counts,
    retained_summaries,
    summary_of,
    taken_over,
    trouble,
    unscored,
)
from .tally import DetectorTally, tally
from .untested import not_tested
from .waivers import WaiverUse, expired, settle


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
    distances: Annotated[DistanceSummary | None, Field(exclude_if=lambda found: found is None)] = None
    """How far what is retained moved; None where the suite does not ask."""
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
    ruled, found = _found(evidence, audit, spec, tool_version)
    without = _found(alone, audit, spec, tool_version)[1] if review else found
    tightens = review is not None and spec.reviews == "tighten"
    findings, waivers = settle(stricter(found, without) if tightens else found, spec.waivers, judged_on)
    told = None
    if review is not None:
        bare, eased = (settle(each, spec.waivers, judged_on)[0] for each in (without, found))
        told = compare(review, findings, bare, eased)
    held = {each.about for each in told.held} if told else set()
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
        concepts=tuple(
            summary_of(alone if subject.slug in held else evidence, subject, findings, spec.confidence)
            for subject in plan.passes
        ),
        retained=tuple(retained_summaries(evidence)),
        matrix=matrix,
        tallies=tally(evidence),
        prompt_sets=prompt_figures(alone, spec.confidence),
        distances=distance_summary(alone, spec.confidence),
        mscore=inversion,
        attacks=assaults,
        review=told,
        counts=tuple(counts(evidence, side) for side in get_args(Side)),
        unscored=tuple(unscored(evidence)),
        not_tested=tuple(not_tested(evidence, ruled, spec, inversion, assaults)),
        warnings=(
            *(told.warnings if told else ()),
            *undecidable(plan, policy),
            *trouble(plan, passes),
            *(each.words for each in rebounds(matrix)),
            *taken_over(evidence),
        ),
        instruments=audit.instruments,
    )


def _found(
    evidence: Evidence, audit: Audit, spec: PolicySpec, tool_version: str
) -> tuple[list[Finding], tuple[Finding, ...]]:
    """What the policy's rules find, then all findings, no waiver looked at."""
    plan = evidence.plan
    ruled = [apply(rule, m, spec) for rule in spec.rules for m in measured(evidence, rule)]
    findings = (
        *ruled,
        *not_judged(plan.passes, ruled),
        *no_effect(evidence, audit, spec),
        *collapse(evidence, spec),
        *evidence_findings(plan, spec.evidence, tool_version),
        *prompt_set_findings(evidence),
    )
    return ruled, findings


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
