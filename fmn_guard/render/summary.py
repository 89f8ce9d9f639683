"""The summary of a GitHub step: what does not pass first, then the concepts, what was lost, and what is left open."""

from __future__ import annotations

from collections.abc import Iterator

from ..plan import Plan
from ..report import Report
from .findings import open_findings, place_of, title_of, waived_findings, waiver_words
from .markdown import concepts, head, provenance, retained
from .markup import bullets, cell, sections, table

BYTES = 900_000
"""Most that is written: GitHub refuses a step's summary of more than 1 MiB, and other tools may add to it."""


def summary(report: Report, plan: Plan) -> str:
    """The summary as GitHub-flavoured Markdown. Of one that would be too long, the end is left out, and it says so."""
    lines = list(_lines(report, plan))
    left_out = "... {} more lines are left out here; the run's report.md has them."
    room = BYTES - len(left_out.format(len(lines)).encode()) - 2
    for i, line in enumerate(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            lines[i:] = ["", left_out.format(len(lines) - i)]
            break
    return "\n".join(lines) + "\n"


def _lines(report: Report, plan: Plan) -> Iterator[str]:
    yield from head(report, level=2)
    header = ("Outcome", "Rule", "Subject", "Manifest", "Why")
    rows = [
        (f.outcome_words, f.rule, f.about or "whole model", _place(f.subject, plan), f.reason)
        for f in open_findings(report)
    ]
    parts = {
        "Findings that do not pass": table(header, rows),
        "Waived": bullets(
            cell(f"{title_of(finding)}: {finding.outcome}, {waiver_words(waiver)}")
            for finding, waiver in waived_findings(report)
        ),
        "Concepts": concepts(report),
        "Retained": retained(report),
        "Warnings": bullets(map(cell, report.warnings)),
        "Not tested": bullets(map(cell, report.not_tested)),
        "Provenance": provenance(report, plan),
    }
    yield from sections(parts, level=3)


def _place(subject: str | None, plan: Plan) -> str:
    place = place_of(subject, plan)
    return f"{place.path}:{place.line}" if place else ""
