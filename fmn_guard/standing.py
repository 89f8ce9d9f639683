"""Findings that come with every policy: no effect, collapse, and what must be there at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, get_args

from .evidence import Audit, Side
from .findings import SHOWN, Finding, Outcome, PresenceMetric
from .gathered import Evidence
from .measurement import Measurement, Subject
from .metrics import retained_drop, suppression
from .plan import Plan
from .policy import PolicySpec, RequiredEvidence, reaches
from .record import Slug


def presence(
    rule: Slug,
    metric: Literal["weights_changed"] | PresenceMetric,
    outcome: Outcome,
    reason: str,
    subject: Subject | None = None,
) -> Finding:
    """A finding on something that must be there at least once; it is if the outcome is a pass."""
    there = int(outcome == "pass")
    return Finding(
        rule=rule,
        metric=metric,
        subject=subject.slug if subject else None,
        kind=subject.kind if subject else None,
        value=there,
        hits=there,
        n=1,
        n_planned=1,
        n_scored=1,
        limit=1,
        direction="at_least",
        outcome=outcome,
        reason=reason,
    )


def no_effect(evidence: Evidence, audit: Audit, spec: PolicySpec) -> Iterator[Finding]:
    """Fails what was not changed: the same weights, or a concept the patched model shows about as often as the base."""
    if audit.patched_digest == evidence.plan.base.identity:
        why = "The audited weights are the base's own: nothing was changed."
        yield presence("no-effect", "weights_changed", "fail", why)
    for subject in evidence.plan.passes:
        yield from unchanged(suppression(evidence, subject), spec)


def unchanged(rate: Measurement, spec: PolicySpec) -> Iterator[Finding]:
    """Fails a concept that the base shows and the patched model shows about as often, picture by picture.

    Args:
        rate: How often the concept is shown.
        spec: The policy's condition on the base, and how small a drop is none.
    """
    m = replace(rate, paired=True)
    if m.value is None or m.before is None or m.before < spec.base_shows_at_least or m.value > spec.no_effect_below:
        return
    n, shown = len(m.counted), sum(m.base)
    yield Finding(
        rule="no-effect",
        metric="target_drop",
        subject=m.subject.slug if m.subject else None,
        kind=m.subject.kind if m.subject else None,
        before=m.before,
        value=m.value,
        hits=m.hits,
        gained=m.gained,
        n=n,
        n_planned=m.planned,
        n_scored=m.scored,
        limit=spec.no_effect_below,
        direction="at_least",
        outcome="fail",
        reason=f"The base shows it in {shown} of {n} pictures, the patched model in "
        f"{shown - m.hits + m.gained}: no effect.",
    )


def not_judged(subjects: Iterable[Subject], findings: Iterable[Finding]) -> Iterator[Finding]:
    """Keeps open what no error rule judges: a policy without a limit on a concept says nothing of it."""
    judged = {f.subject for f in findings if f.severity == "error" and f.metric in SHOWN}
    for subject in subjects:
        if subject.slug not in judged:
            why = "No error rule of the policy limits how often it is shown."
            yield presence("not-judged", "rules_applied", "inconclusive", why, subject)


def evidence_findings(plan: Plan, required: RequiredEvidence, tool_version: str) -> Iterator[Finding]:
    """One finding for each piece of required evidence that can be known when judging; a signature cannot.

    Args:
        plan: What was measured.
        required: What must be on record.
        tool_version: Version of fmn-guard that judges.
    """
    if required.pinned_base is True:
        outcome: Outcome = "pass" if plan.base_pinned else "inconclusive"
        words = "pins" if plan.base_pinned else "does not pin"
        yield presence("pinned-base", "evidence_present", outcome, f"The manifest {words} the weights of its base.")
    elif required.pinned_base is not False:
        meant = required.pinned_base == plan.base.weights_digest
        why = f"The base has the weights digest {plan.base.weights_digest}, the policy asks for {required.pinned_base}."
        yield presence("pinned-base", "evidence_present", "pass" if meant else "fail", why)
    if required.least_version is not None:
        recent = reaches(tool_version, required.least_version)
        why = f"Judged by fmn-guard {tool_version}, the policy asks for {required.tool_version}."
        yield presence("tool-version", "evidence_present", "pass" if recent else "inconclusive", why)


def prompt_set_findings(evidence: Evidence) -> Iterator[Finding]:
    """One finding for each published prompt set: whether all of it is scored, which is all that is judged of it."""
    for published in evidence.plan.prompt_sets:
        probes = [p for p in evidence.plan.probes if p.role == "prompted" and p.subject == published.preset]
        scored = sum(all(evidence.why_unscored(p, side) is None for side in get_args(Side)) for p in probes)
        planned = len(probes)
        outcome: Outcome = "pass" if scored == planned else "inconclusive"
        why = f"{published.preset}: {scored} of {planned} pairs of pictures are scored."
        finding = presence("prompt-set", "prompts_scored", outcome, why)
        yield finding.model_copy(
            update={"hits": scored, "n": planned, "n_planned": planned, "n_scored": scored, "value": scored / planned}
        )


def collapse(evidence: Evidence, spec: PolicySpec) -> Iterator[Finding]:
    """Fails a model that lost everything: what was to be kept, or the ability to draw at all."""
    kept = retained_drop(evidence)
    shown = sum(kept.base)
    after = shown - kept.hits + kept.gained
    if after < spec.collapse_below * shown:
        yield Finding(
            rule="collapse",
            metric="retained_ratio",
            before=kept.before,
            value=after / shown,
            hits=after,
            n=shown,
            n_planned=kept.planned,
            n_scored=kept.scored,
            limit=spec.collapse_below,
            direction="at_least",
            outcome="fail",
            reason=f"The base shows retained concepts in {shown} of {len(kept.counted)} pictures, the patched model in "
            f"{after}: collapse.",
        )
    planned = len(evidence.plan.probes)
    broken = sum(o.degenerate for (_, side), o in evidence.seen.items() if side == "patched")
    if broken > spec.collapse_degenerate * planned:
        yield Finding(
            rule="collapse",
            metric="degenerate_rate",
            value=broken / planned,
            hits=broken,
            n=planned,
            n_planned=planned,
            n_scored=planned,
            limit=spec.collapse_degenerate,
            direction="at_most",
            outcome="fail",
            reason=f"{broken} of {planned} patched pictures are constant or not a number: collapse.",
        )
