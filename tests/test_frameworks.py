"""Frameworks: evidence for a control, never more; and nothing unread is called verified."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fmn_guard.errors import FileProblems
from fmn_guard.findings import Finding
from fmn_guard.frameworks import evidence_for, load_framework
from fmn_guard.policy import RESERVED, Rule, Waiver, load_policy
from fmn_guard.report import Report, judge
from fmn_guard.shipped import frameworks, policies

from .builder import KEPT, SUPPRESSED, forget, make_audit, make_plan, make_policy, probes
from .test_waivers import DAY

FRAMEWORK = """\
apiVersion: fmn-guard/v1
kind: ComplianceFramework
metadata: {name: house}
spec:
  title: House rules
  source: {title: The house rules, url: "https://example.org/rules"}
  controls:
    - id: A.1
      title: What was asked to go is gone.
      metrics: [target_recognised]
      not_covered: All else.
    - id: A.2
      title: The rest stays.
      rules: [kept]
      not_covered: All else.
    - id: A.3
      title: Other names are gone too.
      metrics: [alias_recognised]
      not_covered: All else.
"""
SHIPPED = sorted(frameworks().glob("*.yaml"))


def _write(folder: Path, text: str = FRAMEWORK) -> Path:
    path = folder / "framework.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _report(shows: int = 0, *waivers: Waiver) -> Report:
    plan = make_plan()

    def still(probe: object, side: str, label: str) -> bool:
        role, seed = probe.role, probe.seed
        return side == "base" or role == "retained" or seed < shows

    return judge(plan, make_audit(plan, still), make_policy(SUPPRESSED, KEPT, waivers=waivers), judged_on=DAY)


def _standings(report: Report, folder: Path) -> list[str]:
    return [each.standing for each in evidence_for(report, load_framework(_write(folder)))]


@pytest.mark.parametrize(("shown", "standing"), [(0, "evidence for"), (1, "inconclusive"), (18, "evidence against")])
def test_findings_are_evidence_by_their_outcome_and_absence_is_none(shown: int, standing: str, tmp_path: Path) -> None:
    assert _standings(_report(shown), tmp_path) == [standing, "evidence for", "no evidence"]


def test_waived_finding_is_no_evidence_for_a_control(tmp_path: Path) -> None:
    waiver = Waiver(rule="suppressed", reason="agreed", owner="team", expires=DAY)
    report = _report(18, waiver)
    assert report.verdict == "pass"
    assert _standings(report, tmp_path)[0] == "waived"


def test_control_about_people_leaves_findings_on_things_out(tmp_path: Path) -> None:
    narrowed = FRAMEWORK.replace(
        "metrics: [target_recognised]", "metrics: [target_recognised]\n      kinds: [identity]"
    )
    framework = load_framework(_write(tmp_path, narrowed))
    plan = make_plan(
        forget("ada-thorne", "identity"),
        forget("pistol"),
        asked=(*probes("target", "ada-thorne", 36), *probes("target", "pistol", 36)),
    )
    report = judge(plan, make_audit(plan, lambda p, side, _: side == "base" or p.subject == "pistol"), make_policy())
    people, rest, _ = evidence_for(report, framework)
    assert (people.standing, [f.subject for f in people.findings]) == ("evidence for", ["ada-thorne"])
    assert people.control.evidence == "target_recognised; of concepts only identity"
    assert rest.control.evidence == "kept"


def test_worst_finding_speaks_for_the_control(tmp_path: Path) -> None:
    text = FRAMEWORK.replace("rules: [kept]", "rules: [kept, suppressed, no-effect]")
    [_, both, _] = evidence_for(_report(36), load_framework(_write(tmp_path, text)))
    assert both.standing == "evidence against"
    assert [f.rule for f in both.findings] == ["suppressed", "kept", "no-effect"]
    assert all(isinstance(f, Finding) for f in both.findings)


@pytest.mark.parametrize(
    ("old", "new", "rule", "line"),
    [
        ("id: A.2", "id: A.1", "duplicate-control", 12),
        ("      rules: [kept]\n", "", "no-evidence", 12),
        ("title: House rules", "title: House rules\n  verified_by: A. Reader", "verified-unread", 6),
        ("[target_recognised]", "[target]", "unknown-value", 10),
        ("https:", "http:", "bad-format", 6),
        ("      not_covered: All else.\n    - id: A.2", "    - id: A.2", "missing-key", 8),
    ],
)
def test_mistake_has_rule_and_line(old: str, new: str, rule: str, line: int, tmp_path: Path) -> None:
    assert FRAMEWORK.count(old) == 1
    with pytest.raises(FileProblems) as caught:
        load_framework(_write(tmp_path, FRAMEWORK.replace(old, new)))
    assert [(problem.rule, problem.line) for problem in caught.value.problems] == [(rule, line)]


def test_who_verified_a_text_that_was_read_is_told(tmp_path: Path) -> None:
    text = FRAMEWORK.replace("title: House rules", "title: House rules\n  verified_by: A. Reader")
    text = text.replace('rules"}', 'rules", retrieved: 2026-11-30}')
    assert load_framework(_write(tmp_path, text)).standing == "verified by A. Reader"
    assert load_framework(_write(tmp_path)).standing == "unverified"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_framework_is_unverified_and_rests_on_rules_that_exist(path: Path) -> None:
    framework = load_framework(path)
    assert framework.metadata.name == path.stem
    assert (framework.standing, framework.spec.source.retrieved) == ("unverified", None)
    known = {rule.id for each in policies().glob("*.yaml") for rule in load_policy(each).spec.rules} | set(RESERVED)
    assert {rule for control in framework.spec.controls for rule in control.rules} <= known


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_no_framework_speaks_of_compliance_as_a_result(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert not re.search(r"compliant|complies|certif", text)


def test_gdpr_says_that_suppressing_is_not_deleting() -> None:
    gdpr = load_framework(frameworks() / "gdpr.yaml")
    [erasure] = [control for control in gdpr.spec.controls if control.id == "Art. 17"]
    assert "deletes neither training data" in erasure.not_covered


def test_warning_is_evidence_all_the_same(tmp_path: Path) -> None:
    plan = make_plan()
    warned = Rule(id="kept", metric="retained_drop", at_most=0.0001, severity="warning")
    report = judge(plan, make_audit(plan), make_policy(SUPPRESSED, warned))
    assert report.verdict == "pass"
    assert _standings(report, tmp_path)[1] == "inconclusive"
