"""CSV: a row per finding, by RFC 4180, for spreadsheets and data frames. Shares are fractions, not percents."""

from __future__ import annotations

import csv
import io

from ..findings import Finding
from ..plan import Plan
from ..report import Report
from .findings import place_of
from .text import one_line

COLUMNS = (
    *("manifest", "policy", "rule", "metric", "subject", "alias", "kind", "severity", "outcome", "before", "value"),
    *("low", "high", "limit", "direction", "hits", "gained", "n", "n_planned", "n_scored", "reason", "file", "line"),
    *("waiver_reason", "waiver_owner", "waiver_expires", "attack"),
)
# What spreadsheets take for the start of a formula; the last four are full-width forms, which some take as well.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csvfile(report: Report, plan: Plan) -> str:
    """The findings of a report as CSV, with a header.

    Numbers are numbers. Text that looks like a formula has an apostrophe before it, which spreadsheets do not show.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for finding in report.findings:
        row = _row(finding, report, plan)
        writer.writerow({name: _text(value) if isinstance(value, str) else value for name, value in row.items()})
    return text.getvalue()


def _row(finding: Finding, report: Report, plan: Plan) -> dict[str, str | float | None]:
    place, interval, waiver = place_of(finding.subject, plan), finding.interval, finding.waiver
    return {
        **finding.model_dump(include=set(COLUMNS)),
        "manifest": report.name,
        "policy": report.policy,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "file": place.path if place else None,
        "line": place.line if place else None,
        "waiver_reason": waiver.reason if waiver else None,
        "waiver_owner": waiver.owner if waiver else None,
        "waiver_expires": str(waiver.expires) if waiver else None,
    }


def _text(text: str) -> str:
    plain = one_line(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain
