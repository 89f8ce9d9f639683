"""What a verdict says nothing about: what no policy tests yet, and what this one leaves open on this plan."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import get_args

from .attacks.summary import UNTESTED as ADVERSARIAL
from .attacks.summary import AttackSummary
from .attacks.summary import not_tested as of_attacks
from .findings import SHOWN, Finding
from .gathered import Evidence
from .metrics import measure
from .mscore import UNTESTED as INVERSION
from .mscore import MScoreSummary
from .mscore import not_tested as of_inversion
from .plan import Plan
from .policy import DISTANCES, PER_CONCEPT, Metric, PolicySpec, Rule

_ELSEWHERE = "Image-to-image, inpainting, and other samplers, guidance scales and sizes than the suite's."
_NEVER_TESTED = (
    "The safety checker: it is switched off in both models, so that the weights alone are judged.",
    INVERSION,
    ADVERSARIAL,
    "Durability: whether further fine-tuning brings a concept back.",
    _ELSEWHERE,
)


def not_tested(
    evidence: Evidence,
    ruled: Collection[Finding],
    spec: PolicySpec,
    inversion: MScoreSummary | None = None,
    attacks: AttackSummary | None = None,
) -> Iterator[str]:
    """What a verdict says nothing about, one sentence each.

    Args:
        evidence: What was asked and seen.
        ruled: What the policy's rules found.
        spec: The policy.
        inversion: What inversion found, where it was tried.
        attacks: What came of attacks, where some were made.
    """
    applied = {f.rule for f in ruled}
    limited = {rule.metric for rule in spec.rules}
    for words in _NEVER_TESTED:
        if words == INVERSION:
            yield from of_inversion(inversion, evidence.plan, "inversion_recognised" in limited)
        elif words == ADVERSARIAL:
            yield from of_attacks(attacks, evidence.plan, "attack_success_rate" in limited)
        elif words == _ELSEWHERE and "attack_success_rate" in limited and evidence.attacks:
            yield from _beyond(evidence)
        else:
            yield words
    for rule in spec.rules:
        yield from (f"Rule {rule.id}: {words}." for words in _not_met(rule, evidence.plan))
        if rule.id not in applied:
            narrowed = f" {rule.scope}" if rule.scope else ""
            yield f"Rule {rule.id}: nothing{narrowed} in this plan asks for {rule.metric}."
    metrics: tuple[Metric, ...] = get_args(Metric)
    for metric in metrics:
        if metric in ("inversion_recognised", "attack_success_rate") and metric not in limited:  # told above
            continue
        if metric in DISTANCES:
            if evidence.plan.distances and metric not in limited:
                yield f"Distances to the base: {metric} is reported and not judged."
            continue
        asked = {m.about for m in measure(evidence, metric, evidence.plan.passes)}
        if metric not in limited and metric != "nudenet_strict_rate" and asked:
            yield f"The policy has no rule for {metric}."
        elif metric in PER_CONCEPT and metric not in SHOWN:  # what is shown has a finding of its own, `not-judged`
            left = asked - {f.about for f in ruled if f.metric == metric}
            if left:
                yield f"The policy has no rule for {metric} of {', '.join(sorted(left))}."
    for published in evidence.plan.prompt_sets:
        yield f"Prompt set {published.preset}: its counts are reported and not judged."
    if not any(d.name == "nudenet" for d in evidence.plan.detectors):
        yield "Nudity: no detector looked for it."
    elif "nudenet_strict_rate" not in limited:
        yield "Nudity: NudeNet's counts are reported and not judged."
    if spec.evidence.signature == "required":
        yield "The signature that the policy asks for: it is made of this report, and only the gate can verify it."


def _beyond(evidence: Evidence) -> Iterator[str]:
    """What is said of ways to draw, where a rule limits attacks: they may have swept guidance scales."""
    made = [each.attack.guidance for each in evidence.attacks if each.failed is None]
    scales = ", ".join(f"{scale:g}" for scale in sorted({evidence.plan.sampler.guidance, *made}))
    yield f"Image-to-image, inpainting, other samplers and sizes than the suite's, other guidance scales than {scales}."


def _not_met(rule: Rule, plan: Plan) -> Iterator[str]:
    """Labels and names of a rule that nothing in the plan has: a slip of the pen would leave a concept unjudged."""
    labels = {label for subject in plan.passes for label in subject.labels}
    for label in rule.labels:
        if label not in labels:
            yield f"no concept or correction is labelled {label}"
    for name in rule.concepts:
        if name not in {subject.slug for subject in plan.passes}:
            yield f"no concept or correction is called {name}"
