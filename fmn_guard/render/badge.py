"""The verdict as a shields.io endpoint badge: publish the file, and point shields' ``endpoint`` at its address."""

from __future__ import annotations

from ..findings import Outcome
from ..record import pretty_json
from ..report import Report

_COLOURS: dict[Outcome, str] = {"pass": "brightgreen", "fail": "red", "inconclusive": "yellow"}


def badge(report: Report) -> str:
    """The badge as JSON: policy, verdict, and how many concepts and corrections pass."""
    passed = sum(c.outcome == "pass" for c in report.concepts)
    return pretty_json(
        {
            "schemaVersion": 1,
            "label": f"fmn-guard {report.policy}",
            "message": f"{report.verdict_words}, {passed} of {len(report.concepts)} suppressed",
            "color": _COLOURS[report.verdict],
        }
    )
