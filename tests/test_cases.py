"""Golden verdicts of policies, and that a case is judged as an audit would be."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from fmn_guard.cases import Counts, check_cases, load_cases
from fmn_guard.errors import FileProblems
from fmn_guard.gathered import Evidence
from fmn_guard.manifest import Kind
from fmn_guard.metrics import measure
from fmn_guard.plan import Plan
from fmn_guard.policy import DISTANCES, Metric
from fmn_guard.shipped import policies

from .builder import forget, make_plan, probes
from .test_policy import POLICY

CASES = """\
apiVersion: fmn-guard/v1
kind: PolicyCases
metadata: {name: mine}
spec:
  policy: policy.yaml
  cases:
    - name: nothing is shown
      given:
        - {metric: target_recognised, n: 36}
      verdict: pass
"""


def _write(folder: Path, cases: str = CASES, policy: str = POLICY) -> Path:
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    path = folder / "cases.yaml"
    path.write_text(cases, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted((policies() / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policy_judges_its_cases_as_expected(path: Path) -> None:
    _, unexpected = check_cases(path)
    assert not unexpected, "\n\n".join(map(str, unexpected))


def test_every_shipped_policy_has_cases_with_each_outcome() -> None:
    for path in policies().glob("*.yaml"):
        document, policy, _ = load_cases(policies() / "tests" / path.name)
        assert policy.metadata.name == path.stem
        outcomes = {o for case in document.spec.cases for o in (case.verdict, *case.rules.values())}
        assert {"pass", "inconclusive", "fail"} <= outcomes


def test_outcome_that_is_not_the_expected_one_is_told_with_its_line_and_why(tmp_path: Path) -> None:
    assert check_cases(_write(tmp_path))[1] == []
    cases = CASES.replace("n: 36}", "n: 36, hits: 1}").replace("verdict: pass", "rules: {suppressed: pass}")
    [problem] = check_cases(_write(tmp_path, cases))[1]
    assert (problem.rule, problem.line) == ("unexpected-outcome", 10)
    assert problem.message == "nothing is shown: suppressed is inconclusive, expected pass"
    assert problem.hint and "1 of 36 pictures show it" in problem.hint


def test_rule_that_no_count_is_for_is_not_applied(tmp_path: Path) -> None:
    cases = CASES.replace("target_recognised", "alias_recognised").replace(
        "verdict:", "rules: {suppressed: pass}\n      verdict:"
    )
    said = [problem.message for problem in check_cases(_write(tmp_path, cases))[1]]
    assert said[0] == "nothing is shown: suppressed is not applied, expected pass"


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("n: 36", "n: 36, hits: 37", "impossible-counts"),
        ("n: 36", "n: 36, gained: 1", "impossible-counts"),
        ("target_recognised, n: 36", "retained_drop, n: 36, before: 10, hits: 11", "impossible-counts"),
        ("target_recognised, n: 36", "retained_drop, n: 36, before: 30, gained: 7", "impossible-counts"),
        ("      verdict: pass\n", "", "expects-nothing"),
        ("verdict: pass", "rules: {supressed: pass}", "unknown-rule"),
        ("policy.yaml", "nowhere", "no-such-policy"),
        ("verdict: pass", "verdict: passed", "unknown-value"),
    ],
)
def test_case_that_cannot_be_is_refused(old: str, new: str, rule: str, tmp_path: Path) -> None:
    assert CASES.count(old) == 1
    with pytest.raises(FileProblems) as caught:
        load_cases(_write(tmp_path, CASES.replace(old, new)))
    assert [problem.rule for problem in caught.value.problems] == [rule]


def test_policy_with_waivers_needs_a_day_and_expires_by_it(tmp_path: Path) -> None:
    waiver = "  waivers: [{rule: suppressed, reason: a, owner: b, expires: 2027-01-01}]\n"
    policy = POLICY.replace("  suite: standard\n", f"  suite: standard\n{waiver}") + (
        "    - {id: kept, metric: retained_drop, at_most: 0.1}\n"
    )
    shown = CASES.replace("n: 36}", "n: 36, hits: 18}\n        - {metric: retained_drop, n: 100}")
    with pytest.raises(FileProblems, match="has waivers"):
        load_cases(_write(tmp_path, shown, policy))
    for day, unexpected in (("2027-01-01", 0), ("2027-01-02", 1)):
        dated = shown.replace("  cases:", f"  judged_on: {day}\n  cases:")
        assert len(check_cases(_write(tmp_path, dated, policy))[1]) == unexpected


def _asked() -> Plan:
    """A plan that asks for every metric once."""
    return make_plan(
        forget("pistol", "nsfw"),
        forget("the-captain", "correction"),
        asked=(
            *probes("target", "pistol", 6),
            *probes("alias", "pistol", 6),
            *probes("correction", "the-captain", 6, "concept:a", "concept:b"),
            *probes("retained", "dog", 6, neighbour_of=("pistol",), held_out=True),
        ),
    )


@pytest.mark.parametrize("metric", [name for name in get_args(Metric) if name not in DISTANCES])
def test_counts_are_measured_as_an_audit_measures_them(metric: Metric) -> None:
    plan = _asked()
    [real] = measure(Evidence(plan, {}), metric, plan.passes)
    made = Counts(metric=metric, n=6).measurement()
    assert (made.paired, made.needs_base) == (real.paired, real.needs_base)
    assert (made.subject is None) == (real.subject is None)
    if real.subject and real.subject.kind == "correction":
        assert made.subject and made.subject.kind == "correction"


@pytest.mark.parametrize("kind", [*get_args(Kind), "correction"])
def test_counts_give_the_measurement_they_say(kind: str) -> None:
    m = Counts(metric="neighbour_drop", n=40, before=30, hits=4, gained=3, unscored=2, kind=kind).measurement()
    assert (m.hits, m.gained, sum(m.base), len(m.counted), m.planned, m.scored) == (4, 3, 30, 40, 42, 40)
    m = Counts(metric="target_recognised", n=40, before=30, hits=4, unscored=2).measurement()
    assert (m.hits, sum(m.base), len(m.counted), m.planned, m.scored) == (4, 30, 40, 42, 40)
    assert len({k.prompt for k in m.looks}) == 6
