"""Frameworks that a report may be evidence for: the ``ComplianceFramework`` document, data and never a verdict.

(Report, ComplianceFramework) --evidence_for--> ControlEvidence...     pure; one per control

A control is worded by us, from its text, and stays "unverified" until somebody who read the official text puts their
name to it. A report can be evidence for a control; whether an organisation complies is not for software to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

from .faults import RuleViolation, RuleViolations
from .findings import Finding
from .manifest import Kind, Metadata
from .policy import Metric
from .record import Record, Slug
from .report import Report
from .yamlfile import load_yaml

Standing = Literal["evidence for", "evidence against", "inconclusive", "waived", "no evidence"]
"""What findings say of a control, the worst first: against over inconclusive over waived over for."""


class Source(Record):
    """Where the official text is."""

    title: str = Field(min_length=1)
    """Its title."""
    url: str = Field(pattern=r"^https://\S+$")
    """Its address."""
    retrieved: date | None = None
    """Day on which the text was read for this file; left out, it was worded from notes and not from the text."""


class Control(Record):
    """One thing that a framework asks for."""

    id: str = Field(min_length=1, max_length=60)
    """Its number in the framework, such as ``MS-2.13-001``."""
    title: str = Field(min_length=1)
    """What it asks for, in our words."""
    metrics: tuple[Metric, ...] = ()
    """Findings on these metrics are evidence, whatever a policy calls its rules."""
    rules: tuple[Slug, ...] = ()
    """Findings of these ids are evidence: rules of a policy, or ids that come with every policy."""
    kinds: tuple[Kind, ...] = ("identity", "style", "object", "nsfw")
    """Of concepts only findings on these kinds are evidence; corrections are of no kind, nor is the whole model."""
    not_covered: str = Field(min_length=1)
    """What it asks for that no report of fmn-guard shows."""

    @property
    def evidence(self) -> str:
        """What is evidence for it, in words: ``target_recognised, no-effect; of concepts only identity``."""
        narrowed = set(self.kinds) < set(get_args(Kind))
        return ", ".join((*self.metrics, *self.rules)) + (f"; of concepts only {', '.join(self.kinds)}" * narrowed)

    @model_validator(mode="after")
    def _rests_on_something(self) -> Control:
        if not self.metrics and not self.rules:
            raise RuleViolation(
                "no-evidence",
                f"control {self.id!r} names neither metrics nor rules",
                hint="leave out a control that no finding is evidence for",
            )
        return self


class FrameworkSpec(Record):
    """The content of a framework."""

    title: str = Field(min_length=1)
    """The framework's name."""
    source: Source
    """The official text."""
    verified_by: str | None = None
    """Who compared the controls with the official text; left out, nobody did, and reports say "unverified"."""
    controls: tuple[Control, ...] = Field(min_length=1)
    """What it asks for that findings can be evidence for; never the whole framework."""

    @model_validator(mode="after")
    def _sound(self) -> FrameworkSpec:
        problems = list(self._problems())
        if problems:
            raise RuleViolations(problems)
        return self

    def _problems(self) -> Iterator[RuleViolation]:
        seen: set[str] = set()
        for i, control in enumerate(self.controls):
            if control.id in seen:
                yield RuleViolation(
                    "duplicate-control",
                    f"two controls are called {control.id!r}",
                    hint="one entry for each; put what gives evidence together",
                    loc=("controls", i, "id"),
                )
            seen.add(control.id)
        if self.verified_by is not None and self.source.retrieved is None:
            yield RuleViolation(
                "verified-unread",
                f"{self.verified_by!r} cannot have verified a text that was never retrieved",
                hint="give source.retrieved, the day on which it was read",
                loc=("verified_by",),
            )


class ComplianceFramework(Record):
    """A ``ComplianceFramework`` document."""

    api_version: Literal["fmn-guard/v1"] = Field(alias="apiVersion")
    """Format version, ``fmn-guard/v1``."""
    kind: Literal["ComplianceFramework"]
    """``ComplianceFramework``"""
    metadata: Metadata
    """Name and description."""
    spec: FrameworkSpec
    """Source and controls."""

    @property
    def standing(self) -> str:
        """Whether the wording of its controls was verified, in words."""
        return f"verified by {self.spec.verified_by}" if self.spec.verified_by else "unverified"


class ControlEvidence(Record):
    """What a report says of one control."""

    control: Control
    """The control."""
    standing: Standing
    """What the findings say together."""
    findings: tuple[Finding, ...]
    """The findings it rests on, in the report's order."""


def load_framework(path: Path) -> ComplianceFramework:
    """Reads a framework.

    Raises:
        FileProblems: every error of the file, each with line, column, rule and hint.
    """
    return load_yaml(path, ComplianceFramework)


def evidence_for(report: Report, framework: ComplianceFramework) -> tuple[ControlEvidence, ...]:
    """What a report is evidence for, control by control, in the framework's order. Pure.

    Warnings count here too: what was measured is evidence, whether or not it decides a verdict.
    """
    return tuple(_evidence(control, report) for control in framework.spec.controls)


def _evidence(control: Control, report: Report) -> ControlEvidence:
    of_kind = (f for f in report.findings if f.kind in (None, "correction", *control.kinds))
    findings = tuple(f for f in of_kind if f.metric in control.metrics or f.rule in control.rules)
    outcomes = {"waived" if f.waiver else f.outcome for f in findings}
    order: dict[str, Standing] = {
        "fail": "evidence against",
        "inconclusive": "inconclusive",
        "waived": "waived",
        "pass": "evidence for",
    }
    found: list[Standing] = [standing for outcome, standing in order.items() if outcome in outcomes]
    standing = found[0] if found else "no evidence"
    return ControlEvidence(control=control, standing=standing, findings=findings)
