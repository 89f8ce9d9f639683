"""Two finished runs side by side: what cannot be compared, what became worse, what became better.

((Plan, Report), (Plan, Report)) --compare--> Comparison    pure
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .findings import Finding, Outcome
from .plan import Plan
from .policy import RESERVED
from .record import Digest, Record, Slug
from .report import Report
from .stats import Interval

_RANK: dict[Outcome, int] = {"pass": 0, "inconclusive": 1, "fail": 2}


class Judged(NamedTuple):
    """A run that is of one piece."""

    plan: Plan
    """Its plan."""
    report: Report
    """Its report."""


class Mismatch(Record):
    """Something in which two runs must agree for their figures to mean the same."""

    what: Literal["suite", "base", "policy", "recogniser", "confidence"]
    """What it is."""
    before: str
    """Of the first run, with the digest's first digits."""
    after: str
    """Of the second run."""


class Change(Record):
    """One finding that came out otherwise; its rule, subject and alias name it in both runs."""

    rule: Slug | None
    """Id of the rule; None for the verdict."""
    subject: Slug | None
    """The concept or correction; None when it is about the whole model."""
    alias: Slug | None
    """The alias that was asked for it."""
    metric: str | None
    """What was measured; None for the verdict."""
    before: Outcome | None
    """Outcome in the first run; None where it was not judged."""
    after: Outcome | None
    """Outcome in the second run; None where it is no longer judged."""
    value_before: float | None
    """What was measured in the first run: a rate in [0, 1], a drop in [-1, 1], or a distance in its own units."""
    value_after: float | None
    """What was measured in the second run."""


class Comparison(Record):
    """What two runs differ in."""

    not_comparable: tuple[Mismatch, ...]
    """Read first: where this is not empty, a change may come from the measurement and not from the model."""
    regressions: tuple[Change, ...]
    """What became worse, or is no longer judged; the verdict first, then in the order of the findings."""
    improvements: tuple[Change, ...]
    """What became better, or is judged for the first time and passes."""
    unchanged: int
    """Findings of both runs that came out the same."""


def compare(before: Judged, after: Judged) -> Comparison:
    """Compares two runs, the older one first. Pure.

    A finding is worse when its outcome is; with the same outcome, when the interval lies wholly on the bad side of the
    earlier one. What is no longer judged is worse, since nothing says that it still holds.
    """
    old, new = ({_key(f): f for f in run.report.findings} for run in (before, after))
    verdict = Change(
        rule=None,
        subject=None,
        alias=None,
        metric=None,
        before=before.report.verdict,
        after=after.report.verdict,
        value_before=None,
        value_after=None,
    )
    pairs = [(old.get(key), new.get(key)) for key in {**old, **new}]
    ways = [_direction(*pair) for pair in pairs]
    changes = [(_RANK[after.report.verdict] - _RANK[before.report.verdict], verdict)]
    changes += zip(ways, (_change(*pair) for pair in pairs), strict=True)
    return Comparison(
        not_comparable=_mismatches(before, after),
        regressions=tuple(change for way, change in changes if way > 0),
        improvements=tuple(change for way, change in changes if way < 0),
        unchanged=ways.count(0),
    )


def _key(finding: Finding) -> tuple[str | None, ...]:
    return finding.rule, finding.metric, finding.subject, finding.asked_by


def _outcome(finding: Finding | None, other: Finding | None) -> Outcome | None:
    """Outcome of a finding; None where its rule judged in the other run only."""
    if finding is not None:
        return finding.outcome
    # The findings that come with every policy are made only where something is wrong.
    return "pass" if other and other.rule in RESERVED else None


def _direction(old: Finding | None, new: Finding | None) -> int:
    """Above 0 where it became worse, below where better."""
    before, after = _outcome(old, new), _outcome(new, old)
    if before is None or after is None:
        return -1 if after == "pass" else 1
    if before != after or not (old and new and old.interval and new.interval):
        return _RANK[after] - _RANK[before]
    higher = _beyond(new.interval, old.interval) - _beyond(old.interval, new.interval)
    return higher if new.direction == "at_most" else -higher


def _beyond(high: Interval, low: Interval) -> bool:
    return high.low > low.high


def _change(old: Finding | None, new: Finding | None) -> Change:
    named = new or old
    assert named is not None
    return Change(
        rule=named.rule,
        subject=named.subject,
        alias=named.asked_by,
        metric=named.metric,
        before=_outcome(old, new),
        after=_outcome(new, old),
        value_before=old.value if old else None,
        value_after=new.value if new else None,
    )


def _mismatches(before: Judged, after: Judged) -> tuple[Mismatch, ...]:
    one, other = _conditions(before), _conditions(after)
    return tuple(Mismatch(what=what, before=one[what], after=other[what]) for what in one if one[what] != other[what])


def _conditions(run: Judged) -> dict[Literal["suite", "base", "policy", "recogniser", "confidence"], str]:
    plan, report = run
    recogniser = next(iter(report.instruments), None)
    return {
        "suite": _with_digest(plan.suite, plan.suite_digest),
        "base": _with_digest(plan.base.reference, plan.base.identity),
        "policy": _with_digest(report.policy, report.policy_digest),
        "recogniser": _with_digest(recogniser.name, recogniser.weights_digest) if recogniser else "none",
        "confidence": f"{100 * report.confidence:g} %",
    }


def _with_digest(name: str, value: Digest | None) -> str:
    return f"{name} ({value.removeprefix('sha256:')[:12] if value else 'none'})"
