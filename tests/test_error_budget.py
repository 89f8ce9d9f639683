"""The recogniser's own error: shown where controls tell it, and folded in so that it never makes a verdict better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fmn_guard.evidence import Audit, Control
from fmn_guard.findings import apply
from fmn_guard.measurement import Look, Measurement
from fmn_guard.policy import Rule
from fmn_guard.render import render
from fmn_guard.report import judge

from .builder import SUPPRESSED, make_audit, make_plan, make_policy

PLAN, POLICY = make_plan(), make_policy()


def control(found: int = 90, shown: int = 100, alarms: int = 0, absent: int = 1000, **changes: Any) -> Control:
    fields = {"axis": "concept", "threshold": 0.5, "source": "renders"} | changes
    return Control(found=found, shown=shown, alarms=alarms, absent=absent, **fields)


def audit_with(*controls: Control, name: str = "builtin-judge") -> Audit:
    audit = make_audit(PLAN)
    judging = audit.instruments[0].model_copy(update={"controls": controls, "name": name})
    return audit.model_copy(update={"instruments": (judging,)})


def test_judge_that_misses_too_much_cannot_prove_a_limit() -> None:
    before, after = (judge(PLAN, audit, POLICY) for audit in (make_audit(PLAN), audit_with(control())))
    assert (before.verdict, after.verdict) == ("pass", "inconclusive")
    [old], [new] = ([f for f in r.findings if f.rule == "suppressed"] for r in (before, after))
    assert old.corrected is None and old.interval is not None
    assert new.corrected == new.interval is not None
    # 0 of 36 has the upper bound 9.6 %; the judge may find as few as 82.6 % of what is there (Wilson, 90 of 100)
    assert new.interval.high == pytest.approx(old.interval.high / 0.8256, abs=1e-3)
    assert (new.value, new.hits, new.wilson) == (old.value, old.hits, old.wilson)


def test_good_judge_leaves_a_pass_a_pass() -> None:
    assert judge(PLAN, audit_with(control(2099, 2100, 0, 144900)), POLICY).verdict == "pass"


@pytest.mark.parametrize(
    "audit",
    [
        audit_with(control(axis="style")),
        audit_with(control(threshold=0.4)),
        audit_with(control(), name="another"),
    ],
    ids=["another axis", "another threshold", "another instrument"],
)
def test_what_is_not_known_of_these_labels_is_not_assumed(audit: Audit) -> None:
    assert all(f.corrected is None for f in judge(PLAN, audit, POLICY).findings)


def test_control_that_found_more_than_there_was_is_refused() -> None:
    for wrong in ({"found": 101}, {"alarms": 1001}):
        with pytest.raises(ValidationError, match="more was recognised than there is"):
            control(**wrong)


def test_report_shows_the_error_beside_the_rates() -> None:
    audit = audit_with(control(99, 100, 2, 1000))
    report = judge(PLAN, audit, POLICY)
    words = "own error, concept: it misses 1 of 100 and sees 2 of 1,000 that are not there, on renders"
    for name in ("r.md", "r.html", "r.summary.md"):
        text = render(Path(name), report, PLAN, audit, None).replace("&#39;", "'")
        assert words in text, name
        assert words not in render(Path(name), judge(PLAN, make_audit(PLAN), POLICY), PLAN, make_audit(PLAN), None)


@given(
    st.integers(0, 12),
    st.integers(0, 100),
    st.integers(0, 100),
    st.booleans(),
    st.sampled_from([SUPPRESSED, Rule(id="expected", metric="expected_recognised", at_least=0.5)]),
)
@settings(max_examples=20, deadline=None)
def test_known_error_never_makes_a_pass_or_a_fail(hits: int, found: int, alarms: int, paired: bool, rule: Rule) -> None:
    looks = tuple(Look(f"prompt {i % 6}", True, i < hits) for i in range(12))
    m = Measurement(looks, paired=paired, needs_base=True)
    known = Measurement(looks, paired=paired, needs_base=True, controls=(control(found, 100, alarms, 100),))
    plain, corrected = (apply(rule, each, POLICY.spec) for each in (m, known))
    assert corrected.outcome in (plain.outcome, "inconclusive")
    assert plain.interval is not None and corrected.interval is not None
    assert corrected.interval.low <= plain.interval.low and corrected.interval.high >= plain.interval.high
