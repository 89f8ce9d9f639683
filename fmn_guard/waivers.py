"""Waivers, put to the findings they are about.

A waived finding keeps its outcome and stays in the report; only the verdict is taken over the others. A waiver that has
expired is none, and if what it was given for still does not pass, that is a failure of its own: whoever answered for
it said until when.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from typing import Literal

from .findings import Finding
from .policy import Waiver
from .record import Record
from .standing import presence


class WaiverUse(Record):
    """What came of a waiver."""

    waiver: Waiver
    """The waiver."""
    state: Literal["in force", "expired", "unused"]
    """``in force``: findings are waived by it. ``expired``: they no longer are. ``unused``: it covers no error finding
    that does not pass, or another waiver does already."""
    findings: int
    """Findings that it waives, or would if it had not expired."""


def settle(
    findings: Iterable[Finding], waivers: tuple[Waiver, ...], judged_on: date | None
) -> tuple[tuple[Finding, ...], tuple[WaiverUse, ...]]:
    """Marks what is waived, and adds a failure for each waiver that expired before its finding passed.

    Args:
        findings: What was found, none of it waived.
        waivers: The policy's.
        judged_on: The day of judging; without one, no waiver holds.

    Returns:
        All findings, and what came of each waiver, both in the order given.
    """
    settled, uses, failures = list(findings), [], []
    for waiver in sorted(waivers, key=lambda w: expired(w, judged_on)):  # one that holds spares what an old one covered
        covered = [i for i, f in enumerate(settled) if _covers(waiver, f)]
        state: Literal["in force", "expired", "unused"] = "in force" if covered else "unused"
        if covered and expired(waiver, judged_on):
            state = "expired"
            failures.append(_failure(waiver, [settled[i] for i in covered]))
        elif covered:
            for i in covered:
                settled[i] = settled[i].model_copy(update={"waiver": waiver})
        uses.append(WaiverUse(waiver=waiver, state=state, findings=len(covered)))
    return (*settled, *failures), tuple(sorted(uses, key=lambda use: waivers.index(use.waiver)))


def expired(waiver: Waiver, day: date | None) -> bool:
    """Whether a waiver no longer holds on a day; on no day, none holds."""
    return day is None or day > waiver.expires


def _covers(waiver: Waiver, finding: Finding) -> bool:
    return (
        finding.decides
        and finding.outcome != "pass"
        and finding.rule == waiver.rule
        and waiver.subject in (None, finding.subject)
    )


def _failure(waiver: Waiver, covered: list[Finding]) -> Finding:
    those = f"{len(covered)} finding{'s' if len(covered) > 1 else ''} of {waiver.about}"
    why = f"The waiver of {waiver.owner} expired on {waiver.expires}, and {those} still do not pass."
    about = {"subject": waiver.subject, "kind": covered[0].kind} if waiver.subject else {}
    return presence("waiver-expired", "waiver_in_force", "fail", why).model_copy(update=about)
