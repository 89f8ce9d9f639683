"""Waivers: what they spare the verdict, what they never hide, and that they end."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from fmn_guard.errors import InputError
from fmn_guard.evidence import Side
from fmn_guard.policy import RequiredEvidence, Rule, Waiver
from fmn_guard.probes import Probe
from fmn_guard.report import Report, at_gate, judge

from .builder import KEPT, SUPPRESSED, forget, forgotten, make_audit, make_plan, make_policy, probes

DAY = date(2026, 12, 1)
PLAN = make_plan(
    forget("pistol"),
    forget("ink"),
    asked=(*probes("target", "pistol", 36), *probes("target", "ink", 36), *probes("retained", "dog", 40)),
)


def waive(rule: str = "suppressed", subject: str | None = "pistol", **changes: Any) -> Waiver:
    fields: dict[str, Any] = {"reason": "agreed with the rights holder", "owner": "release team", "expires": DAY}
    return Waiver(rule=rule, subject=subject, **fields | changes)


def half_shown(probe: Probe, side: Side, label: str) -> bool:
    """The patched model still shows half of the pistols, which is a fail and yet an effect."""
    return forgotten(probe, side, label) or (probe.subject == "pistol" and probe.seed < 18)


def judged(*waivers: Waiver, shows: Any = half_shown, on: date | None = DAY, rules: tuple[Rule, ...] = ()) -> Report:
    policy = make_policy(*(rules or (SUPPRESSED, KEPT)), waivers=waivers)
    return judge(PLAN, make_audit(PLAN, shows), policy, judged_on=on)


def test_waived_finding_keeps_its_outcome_and_does_not_decide() -> None:
    assert judged().verdict == "fail"
    report = judged(waive())
    assert report.verdict == "pass"
    [finding] = [f for f in report.findings if f.waiver]
    assert (finding.outcome, finding.subject, finding.outcome_words) == ("fail", "pistol", "fail (waived)")
    assert finding.waiver == waive()
    assert [(use.state, use.findings) for use in report.waivers] == [("in force", 1)]


def test_concept_that_is_waived_is_never_called_suppressed() -> None:
    pistol, ink = judged(waive()).concepts
    assert (pistol.outcome, pistol.waived, pistol.outcome_words) == ("fail", True, "fail (waived)")
    assert (ink.outcome, ink.waived) == ("pass", False)


def test_waiver_of_a_rule_covers_all_its_subjects_and_of_another_subject_none() -> None:
    assert judged(waive(subject=None)).verdict == "pass"
    report = judged(waive(subject="ink"))
    assert report.verdict == "fail"
    assert [use.state for use in report.waivers] == ["unused"]


def test_inconclusive_finding_can_be_waived_too() -> None:
    def once(probe: Probe, side: Side, label: str) -> bool:
        return forgotten(probe, side, label) or probe.id == "target/pistol/0/0"

    assert judged(shows=once).verdict == "inconclusive"
    assert judged(waive(), shows=once).verdict == "pass"


def test_waiver_of_what_passes_is_unused_and_changes_nothing() -> None:
    report = judged(waive(), shows=forgotten)
    assert report.verdict == "pass"
    assert all(f.waiver is None for f in report.findings)
    assert [(use.state, use.findings) for use in report.waivers] == [("unused", 0)]


def test_waiver_of_a_warning_is_unused() -> None:
    warning = SUPPRESSED.model_copy(update={"severity": "warning"})
    assert judged(waive(), rules=(warning, KEPT)).waivers[0].state == "unused"


def test_waiver_holds_on_its_last_day_and_fails_on_the_next() -> None:
    assert judged(waive(), on=DAY).verdict == "pass"
    report = judged(waive(), on=date(2026, 12, 2))
    assert report.verdict == "fail"
    [failure] = [f for f in report.findings if f.rule == "waiver-expired"]
    assert (failure.subject, failure.outcome) == ("pistol", "fail")
    assert "release team expired on 2026-12-01" in failure.reason
    assert [use.state for use in report.waivers] == ["expired"]


def test_expired_waiver_turns_what_is_inconclusive_into_a_fail() -> None:
    def once(probe: Probe, side: Side, label: str) -> bool:
        return forgotten(probe, side, label) or probe.id == "target/pistol/0/0"

    assert judged(waive(), shows=once, on=date(2027, 1, 1)).verdict == "fail"


def test_expired_waiver_of_what_passes_by_now_is_named_and_harmless() -> None:
    report = judged(waive(), shows=forgotten, on=date(2027, 1, 1))
    assert report.verdict == "pass"
    assert [use.state for use in report.waivers] == ["unused"]


def test_waiver_that_holds_spares_what_an_expired_one_covered() -> None:
    report = judged(waive(subject=None, expires=date(2026, 1, 1)), waive())
    assert report.verdict == "pass"
    assert [(use.waiver.subject, use.state) for use in report.waivers] == [(None, "unused"), ("pistol", "in force")]


def test_everything_waived_is_inconclusive_and_no_pass() -> None:
    plan = make_plan(asked=probes("target", "pistol", 36))
    policy = make_policy(SUPPRESSED, waivers=(waive(),))
    assert judge(plan, make_audit(plan, half_shown), policy, judged_on=DAY).verdict == "inconclusive"


def test_no_effect_is_waived_for_one_concept_at_a_time() -> None:
    def kept(probe: Probe, side: Side, label: str) -> bool:
        return forgotten(probe, side, label) or probe.subject == "pistol"

    assert judged(waive(), shows=kept).verdict == "fail"
    report = judged(waive(), waive("no-effect"), shows=kept)
    assert report.verdict == "pass"
    assert report.outcomes == ("no effect",)
    assert report.concepts[0].outcome_words == "fail (no effect, waived)"


def test_policy_with_waivers_is_not_judged_without_a_day() -> None:
    with pytest.raises(InputError, match="no day of judging"):
        judged(waive(), on=None)
    assert judged(on=None).judged_on is None


def test_report_records_the_day_and_the_same_day_gives_the_same_report() -> None:
    assert judged(waive()).judged_on == DAY
    assert judged(waive()) == judged(waive())


# --- at the gate ---


@pytest.mark.parametrize(("today", "outcome"), [(DAY, "pass"), (date(2026, 12, 2), "fail")])
def test_gate_fails_once_a_waiver_that_the_verdict_rests_on_has_expired(today: date, outcome: str) -> None:
    found, reasons = at_gate(judged(waive()), today, signed=False)
    assert found == outcome
    assert len(reasons) == (outcome == "fail")


def test_gate_does_not_mind_that_an_unused_waiver_expires() -> None:
    assert at_gate(judged(waive(), shows=forgotten), date(2030, 1, 1), signed=False) == ("pass", ())


@pytest.mark.parametrize(("signed", "outcome"), [(True, "pass"), (False, "inconclusive")])
def test_gate_holds_back_what_should_be_signed_and_is_not(signed: bool, outcome: str) -> None:
    policy = make_policy(evidence=RequiredEvidence(signature="required"))
    plan = make_plan()
    report = judge(plan, make_audit(plan), policy)
    assert report.verdict == "pass"
    assert any("signature" in words for words in report.not_tested)
    assert at_gate(report, DAY, signed=signed)[0] == outcome
    failing = judge(plan, make_audit(plan, lambda *_: True), policy)
    assert at_gate(failing, DAY, signed=signed)[0] == "fail"
