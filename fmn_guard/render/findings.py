"""Findings as several formats tell them: the worst first, at their place in the manifest, with rules in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, get_args

from ..findings import Finding, PresenceMetric
from ..gathered import STRICT_SCORE
from ..plan import Plan
from ..policy import Waiver, in_words
from ..report import Report

# What a policy's reader may not know; the whole truth is in `fmn_guard.metrics`.
MEANING: Mapping[str, str] = {
    "target_recognised": "Share of the patched model's pictures that show a concept it was asked for by its phrase.",
    "alias_recognised": "Share of the patched model's pictures that show a concept it was asked for by an alias.",
    "inversion_recognised": "Share of the patched model's pictures that show a concept asked for by inverted tokens.",
    "attack_success_rate": "Share of the patched model's pictures that show a concept that was asked for by an attack.",
    "dominant_recognised": "Share of the pictures of a corrected prompt that still show its dominant reading.",
    "expected_recognised": "Share of the pictures of a corrected prompt that show its expected reading.",
    "retained_drop": "How much less often the patched model shows what is to stay than the base does.",
    "retained_drop_held_out": "How much less often it shows what is to stay and the eraser was not told of.",
    "neighbour_drop": "How much less often it shows what the manifest declares a neighbour of the concept.",
    "nudenet_strict_rate": "Share of the pictures of nsfw concepts in which NudeNet finds exposed parts at a score of "
    f"{STRICT_SCORE:g}.",
    "clip_score_drop": "How much less, by CLIP, pictures of what is to stay agree with their prompts than the base's.",
    "paired_distance": "How far, by CLIP, pictures of what is to stay are from the base's of the same seeds.",
    "cmmd": "How far, by CLIP, all pictures of what is to stay are, as a set, from the base's.",
    "weights_changed": "Whether the audited weights differ from the base's.",
    "target_drop": "How much less often the patched model shows a concept or dominant reading than the base.",
    "retained_ratio": "Retained concepts that are still recognised, as a share of those that the base shows.",
    "degenerate_rate": "Share of the patched model's pictures that are constant or not a number.",
    "rules_applied": "Number of error rules that limit how often a concept is shown.",
    "evidence_present": "Whether a piece of evidence that the policy asks for is there.",
    "prompts_scored": "Share of the pairs of pictures of a published prompt set that are scored on both sides.",
    "waiver_in_force": "Whether a waiver that covers what does not pass had expired on the day of judging.",
}
"""Each metric of a finding in a sentence."""


class Place(NamedTuple):
    """A line of a file."""

    path: str
    line: int


def place_of(subject: str | None, plan: Plan) -> Place | None:
    """Where a manifest asks for a concept or correction; None for a plan that does not know its manifest."""
    return Place(plan.source.path, plan.source.line_of(subject)) if plan.source else None


def open_findings(report: Report) -> list[Finding]:
    """Findings that neither pass nor are waived, the worst first: errors before warnings, fails before inconclusive."""
    left = (f for f in report.findings if f.outcome != "pass" and f.waiver is None)
    return sorted(left, key=lambda f: (f.severity == "warning", f.outcome == "inconclusive"))


def limit_words(finding: Finding) -> str:
    """What a finding's rule asks: ``target_recognised at most 10.0 %``."""
    counted = finding.metric in (*get_args(PresenceMetric), "weights_changed")
    amount = f"{finding.limit:g}" if counted else in_words(finding.metric, finding.limit)
    return f"{finding.metric} {finding.direction.replace('_', ' ')} {amount}"


def interval_words(finding: Finding) -> str:
    """The interval that judges, or that of a bare value: ``0.0 % to 9.6 %``; nothing where there is none."""
    interval = finding.interval or finding.wilson or finding.newcombe or finding.normal
    if interval is None:
        return ""
    return " to ".join(in_words(finding.metric, bound) for bound in (interval.low, interval.high))


def waived_findings(report: Report) -> list[tuple[Finding, Waiver]]:
    """Findings that do not pass and that somebody answers for, with the waiver."""
    return [(f, f.waiver) for f in report.findings if f.outcome != "pass" and f.waiver]


def waiver_words(waiver: Waiver) -> str:
    """Why, by whom and until when: ``waived by release-team until 2027-01-31: reason``."""
    return f"waived by {waiver.owner} until {waiver.expires}: {waiver.reason}"


def rules_of(findings: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings by their rule, in the order of the report."""
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.rule, []).append(finding)
    return found


def title_of(finding: Finding) -> str:
    """Rule and subject: ``alias-suppressed: pistol (gun)``."""
    return f"{finding.rule}: {finding.about or 'whole model'}"


class PublicNames:
    """What concepts are called in files that are published beside a model: people are numbered.

    Whoever asked to be forgotten did not ask for their name in a model card. The numbers follow the manifest, which
    tells its owner who is meant.
    """

    def __init__(self, report: Report) -> None:
        people = (c.slug for c in report.concepts if c.kind == "identity")
        self._people = {slug: f"identity {i}" for i, slug in enumerate(people, start=1)}
        self._phrases = {c.slug: c.phrase for c in report.concepts}
        asked = dict.fromkeys((f.subject, f.alias) for f in report.findings if f.alias and f.subject in self._people)
        numbers = Counter[str | None]()
        self._aliases: dict[tuple[str | None, str | None], str] = {}
        for subject, alias in asked:
            numbers[subject] += 1
            self._aliases[subject, alias] = f"alias {numbers[subject]}"

    def of_concept(self, slug: str) -> str:
        """The phrase of a concept or correction, or a person's number."""
        return self._people.get(slug) or self._phrases[slug]

    def of_subject(self, finding: Finding) -> str:
        """The same, with the alias that was asked: ``identity 1 (alias 2)``; ``whole model`` for what is about it."""
        if finding.subject is None:
            return "whole model"
        name = self.of_concept(finding.subject)
        asked_by = self._aliases.get((finding.subject, finding.alias), finding.asked_by)
        return f"{name} ({asked_by})" if asked_by else name
