"""What a report is evidence for, control by control of the frameworks that somebody asks about; never compliance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, get_args

from ..findings import Finding
from ..frameworks import ComplianceFramework, ControlEvidence, Standing, evidence_for
from ..record import digest, pretty_json
from ..report import Report
from .findings import rules_of
from .text import one_line

Frameworks = Sequence[ComplianceFramework]
"""What somebody asks about, in their order."""


class Answer(NamedTuple):
    """What a report says of a framework."""

    framework: ComplianceFramework
    """The framework."""
    controls: tuple[ControlEvidence, ...]
    """Its controls, in its order."""

    @property
    def words(self) -> str:
        """How its controls stand: ``evidence for 3 of 4 controls, no evidence 1``."""
        counts = Counter(each.standing for each in self.controls)
        others: list[Standing] = [s for s in get_args(Standing) if s != "evidence for" and counts[s]]
        rest = "".join(f", {standing} {counts[standing]}" for standing in others)
        return f"evidence for {counts['evidence for']} of {len(self.controls)} controls{rest}"

    @property
    def source(self) -> str:
        """Where its text is, and who compared the controls with it."""
        source = self.framework.spec.source
        read = f"read on {source.retrieved}" if source.retrieved else "not read for this wording"
        return f"Source: {source.title}, {source.url}, {read}. Wording of the controls: {self.framework.standing}."


def answers(report: Report, frameworks: Frameworks) -> Iterator[Answer]:
    """What a report says of each framework."""
    for framework in frameworks:
        yield Answer(framework, evidence_for(report, framework))


def rests_on(each: ControlEvidence) -> dict[str, dict[str, list[Finding]]]:
    """The findings that a control's standing rests on, by rule and by outcome in words."""
    found: dict[str, dict[str, list[Finding]]] = {}
    for rule, findings in rules_of(each.findings).items():
        for f in findings:
            found.setdefault(rule, {}).setdefault(f.outcome_words, []).append(f)
    return found


def framework_lines(report: Report, frameworks: Frameworks) -> Iterator[str]:
    """A line for each framework, for a terminal."""
    for answer in answers(report, frameworks):
        framework = answer.framework
        yield f"{framework.metadata.name} ({framework.standing}): {answer.words}"


def controls_json(report: Report, frameworks: Frameworks) -> str:
    """Each framework with its source and its controls, and which findings of report.json each control rests on."""
    return pretty_json(
        {
            "schema_version": "fmn-guard/controls/v1",
            "report_digest": digest(report),
            "frameworks": [_plain(answer) for answer in answers(report, frameworks)],
        }
    )


def _plain(answer: Answer) -> dict[str, object]:
    framework, source = answer.framework, answer.framework.spec.source
    return {
        "name": framework.metadata.name,
        "title": one_line(framework.spec.title),
        "source": {
            "title": one_line(source.title),
            "url": source.url,
            "retrieved": source.retrieved and str(source.retrieved),
        },
        "verified_by": framework.spec.verified_by and one_line(framework.spec.verified_by),
        "controls": [
            {
                "id": one_line(each.control.id),
                "title": one_line(each.control.title),
                "not_covered": one_line(each.control.not_covered),
                "standing": each.standing,
                "findings": [
                    {
                        "rule": f.rule,
                        "subject": f.subject,
                        "alias": f.alias,
                        **({"attack": f.attack} if f.attack else {}),
                        "outcome": f.outcome_words,
                    }
                    for f in each.findings
                ],
            }
            for each in answer.controls
        ],
    }
