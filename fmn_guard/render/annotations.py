"""GitHub annotations: a workflow command per line, which the runner shows beside the manifest's lines."""

from __future__ import annotations

from ..findings import Finding
from ..plan import Plan
from ..report import Report
from .findings import open_findings, place_of, title_of
from .text import one_line

MOST = 10
"""Annotations of each level that GitHub shows of a step."""


def github_annotations(report: Report, plan: Plan) -> str:
    """The worst findings that do not pass as workflow commands, then the verdict."""
    left = open_findings(report)
    lines = [_annotation(finding, plan) for finding in left[:MOST]]
    more = f"; {len(left) - MOST} more findings do not pass" if len(left) > MOST else ""
    verdict = f"{report.verdict_words.upper()}: {report.name} under policy {report.policy}{more}."
    lines.append(_command("notice", {"title": "fmn-guard"}, verdict))
    return "\n".join(lines) + "\n"


def _annotation(finding: Finding, plan: Plan) -> str:
    place = place_of(finding.subject, plan)
    where = {"file": place.path, "line": str(place.line)} if place else {}
    # An inconclusive finding of an error rule stops a release just as a fail does.
    return _command(
        finding.severity, where | {"title": title_of(finding)}, f"{finding.outcome_words}: {finding.reason}"
    )


def _command(level: str, properties: dict[str, str], message: str) -> str:
    stated = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{level} {stated}::{_escaped(message)}"


def _escaped(text: str, marks: str = "") -> str:
    """Text as the runner reads it back; percent signs first, for they escape the rest."""
    line = one_line(text)
    for mark in f"%{marks}":
        line = line.replace(mark, f"%{ord(mark):02X}")
    return line
