"""Policies that extend others: what is merged, where each field comes from, and that nothing becomes looser."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from fmn_guard.errors import FileProblems
from fmn_guard.findings import apply
from fmn_guard.lint import lint_policy
from fmn_guard.measurement import Look, Measurement
from fmn_guard.policy import PolicySpec, ReleasePolicy, RequiredEvidence, Rule, load_policy, reaches, resolve_policy
from fmn_guard.policy.inheritance import _EVIDENCE, _RULE, _SPEC
from fmn_guard.record import digest
from fmn_guard.shipped import suites

PARENT = """\
apiVersion: fmn-guard/v1
kind: ReleasePolicy
metadata: {name: parent}
spec:
  suite: standard
  confidence: 0.95
  evidence: {pinned_base: true, tool_version: ">=0.1"}
  rules:
    - id: suppressed
      metric: target_recognised
      at_most: 0.1
      min_samples: 36
    - {id: kept, metric: retained_drop, at_most: 0.03, severity: warning}
    - {id: expected, metric: expected_recognised, at_least: 0.5}
    - {id: free, metric: alias_recognised, at_most: 0.2, overridable: true}
    - {id: likeness, metric: target_recognised, at_most: 0.05, labels: [likeness]}
"""
CHILD = """\
apiVersion: fmn-guard/v1
kind: ReleasePolicy
metadata: {name: child}
spec:
  extends: parent.yaml
"""


def _write(folder: Path, child: str, parent: str = PARENT) -> Path:
    (folder / "parent.yaml").write_text(parent, encoding="utf-8")
    path = folder / "child.yaml"
    path.write_text(CHILD + child, encoding="utf-8")
    return path


def _problems(path: Path) -> FileProblems:
    with pytest.raises(FileProblems) as caught:
        load_policy(path)
    return caught.value


def test_child_without_changes_is_its_parent_under_another_name(tmp_path: Path) -> None:
    child = load_policy(_write(tmp_path, ""))
    assert child.metadata.name == "child"
    assert child.spec == load_policy(tmp_path / "parent.yaml").spec


def test_child_changes_a_rule_field_by_field_and_adds_others_at_the_end(tmp_path: Path) -> None:
    policy = load_policy(
        _write(
            tmp_path,
            """\
  confidence: 0.99
  evidence: {signature: required}
  rules:
    - {id: neighbours, metric: neighbour_drop, at_most: 0.1}
    - {id: suppressed, at_most: 0.05, on_inconclusive: fail}
    - {id: kept, severity: error}
""",
        )
    )
    assert [rule.id for rule in policy.spec.rules] == [
        "suppressed",
        "kept",
        "expected",
        "free",
        "likeness",
        "neighbours",
    ]
    suppressed = policy.spec.rules[0]
    assert (suppressed.metric, suppressed.at_most, suppressed.min_samples) == ("target_recognised", 0.05, 36)
    assert suppressed.on_inconclusive == "fail"
    assert policy.spec.rules[1].severity == "error"
    assert policy.spec.evidence == RequiredEvidence(pinned_base=True, tool_version=">=0.1", signature="required")
    assert policy.spec.confidence == 0.99


def test_digest_is_of_the_flat_policy_and_names_no_parent(tmp_path: Path) -> None:
    child = load_policy(_write(tmp_path, "  confidence: 0.99\n"))
    (tmp_path / "flat.yaml").write_text(
        PARENT.replace("name: parent", "name: child").replace("confidence: 0.95", "confidence: 0.99"), encoding="utf-8"
    )
    assert digest(child) == digest(load_policy(tmp_path / "flat.yaml"))
    assert "extends" not in child.model_dump_json()
    assert type(child) is ReleasePolicy


def test_a_review_that_may_only_tighten_may_not_decide_further_down(tmp_path: Path) -> None:
    tight = PARENT.replace("  suite: standard\n", "  suite: standard\n  reviews: tighten\n")
    assert load_policy(_write(tmp_path, "  confidence: 0.99\n", tight)).spec.reviews == "tighten"
    assert load_policy(_write(tmp_path, "  reviews: tighten\n")).spec.reviews == "tighten"
    _write(tmp_path, "  reviews: decide\n", tight)
    [problem] = _problems(tmp_path / "child.yaml").problems
    assert (problem.rule, problem.line) == ("loosened", 6)


@pytest.mark.parametrize(
    ("child", "above"),
    [
        ("  suite: strict\n", 5),
        ("  confidence: 0.9\n", 6),
        ("  base_shows_at_least: 0.5\n", 4),
        ("  error_budget: 0.01\n", 4),
        ("  no_effect_below: 0.05\n", 4),
        ("  collapse_below: 0.4\n", 4),
        ("  collapse_degenerate: 0.3\n", 4),
        ("  point_estimates: allowed\n", 4),
        ("  evidence: {pinned_base: false}\n", 7),
        ('  evidence: {tool_version: ">=0.0.9"}\n', 7),
        ("  rules: [{id: suppressed, at_most: 0.2}]\n", 11),
        ("  rules: [{id: suppressed, min_samples: 35}]\n", 12),
        ("  rules: [{id: suppressed, severity: warning}]\n", 9),
        ("  rules: [{id: suppressed, kinds: [object]}]\n", 9),
        ("  rules: [{id: suppressed, labels: [likeness]}]\n", 9),
        ("  rules: [{id: suppressed, concepts: [pistol]}]\n", 9),
        ("  rules: [{id: suppressed, overridable: true}]\n", 9),
        ("  rules: [{id: suppressed, metric: alias_recognised}]\n", 10),
        ("  rules: [{id: expected, at_least: 0.4}]\n", 14),
        ("  rules: [{id: likeness, labels: [other]}]\n", 16),
        ("  rules: [{id: free, metric: target_recognised}]\n", 15),
    ],
)
def test_loosening_is_a_problem_with_the_line_of_child_and_parent(child: str, above: int, tmp_path: Path) -> None:
    [problem] = _problems(_write(tmp_path, child)).problems
    assert (problem.rule, problem.path) == ("loosened", tmp_path / "child.yaml")
    assert problem.line == 6
    assert f"parent.yaml:{above}" in problem.message
    assert problem.hint


@pytest.mark.parametrize(
    "child",
    [
        "  rules: [{id: free, at_most: 0.9, severity: warning, labels: [x]}]\n",
        "  rules: [{id: likeness, labels: [likeness, other]}]\n",
        "  rules: [{id: likeness, labels: []}]\n",
        "  rules: [{id: suppressed, at_most: 0.1}]\n",
        "  rules: [{id: free, overridable: false}]\n",
        f"  evidence: {{pinned_base: 'sha256:{'0' * 64}', tool_version: '>=0.2'}}\n",
        "  waivers: [{rule: free, reason: a, owner: b, expires: 2030-01-01}]\n",
    ],
)
def test_what_is_no_looser_or_overridable_is_accepted(child: str, tmp_path: Path) -> None:
    load_policy(_write(tmp_path, child))


@pytest.mark.parametrize(
    ("waiver", "above"),
    [("rule: suppressed", 9), ("rule: no-effect, subject: pistol", 4)],
)
def test_child_cannot_waive_what_its_parent_demands(waiver: str, above: int, tmp_path: Path) -> None:
    child = f"  waivers: [{{{waiver}, reason: a, owner: b, expires: 2030-01-01}}]\n"
    [problem] = _problems(_write(tmp_path, child)).problems
    assert problem.rule == "loosened"
    assert f"parent.yaml:{above}" in problem.message


def test_what_a_parent_makes_overridable_stays_so_for_grandchildren_only_if_the_child_lets_it(tmp_path: Path) -> None:
    child = _write(tmp_path, "  rules: [{id: free, overridable: false}]\n")
    grandchild = tmp_path / "grandchild.yaml"
    grandchild.write_text(
        CHILD.replace("parent.yaml", "child.yaml") + "  rules: [{id: free, at_most: 0.9}]\n", encoding="utf-8"
    )
    [problem] = _problems(grandchild).problems
    assert f"{tmp_path / 'parent.yaml'}:15" in problem.message
    child.write_text(CHILD, encoding="utf-8")
    assert load_policy(grandchild).spec.rules[3].at_most == 0.9


def test_mistake_in_what_is_merged_is_placed_in_the_file_that_makes_it(tmp_path: Path) -> None:
    [problem] = _problems(_write(tmp_path, "  rules: [{id: suppressed, at_least: 0.1}]\n")).problems
    assert (problem.rule, problem.path.name, problem.line) == ("one-limit", "child.yaml", 6)
    [problem] = _problems(_write(tmp_path, "", PARENT.replace("at_most: 0.1\n", "at_most: 10\n"))).problems
    assert (problem.rule, problem.path.name, problem.line) == ("out-of-range", "parent.yaml", 11)
    [problem] = _problems(_write(tmp_path, "  rules: [{id: new, at_most: 0.1}]\n")).problems
    assert (problem.rule, problem.path.name, problem.line) == ("missing-key", "child.yaml", 6)
    [problem] = _problems(_write(tmp_path, "  extend: x\n")).problems
    assert problem.hint == "did you mean 'extends'?"


@pytest.mark.parametrize(
    "spec", ["  rules: 3\n", "  rules: [3]\n", "  evidence: 3\n", "  waivers: {a: 1}\n", "  rules: []\n"]
)
def test_child_of_a_wrong_shape_is_a_problem_and_no_crash(spec: str, tmp_path: Path) -> None:
    path = _write(tmp_path, spec)
    if spec.endswith("[]\n"):
        assert load_policy(path).spec == load_policy(tmp_path / "parent.yaml").spec
    else:
        assert {p.path.name for p in _problems(path).problems} == {"child.yaml"}


@pytest.mark.parametrize("extends", ["3", "[a]"])
def test_extends_of_a_wrong_type_is_a_problem(extends: str, tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text(CHILD.replace("parent.yaml", extends), encoding="utf-8")
    assert "wrong-type" in {p.rule for p in _problems(path).problems}


def test_null_extends_is_none(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(PARENT.replace("  suite:", "  extends: null\n  suite:"), encoding="utf-8")
    assert load_policy(path).spec.suite == "standard"


def test_cycle_is_refused_and_shown(tmp_path: Path) -> None:
    for own, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{own}.yaml").write_text(CHILD.replace("parent", other), encoding="utf-8")
    [problem] = _problems(tmp_path / "a.yaml").problems
    assert problem.rule == "cyclic-extends"
    assert "a.yaml -> b.yaml -> a.yaml" in problem.message


def test_chain_without_end_is_refused(tmp_path: Path) -> None:
    for i in range(1000):
        (tmp_path / f"p{i}.yaml").write_text(CHILD.replace("parent", f"p{i + 1}"), encoding="utf-8")
    assert _problems(tmp_path / "p0.yaml").problems[0].rule == "cyclic-extends"


def test_policy_that_is_not_there_names_the_shipped_ones(tmp_path: Path) -> None:
    path = tmp_path / "child.yaml"
    path.write_text(CHILD.replace("parent.yaml", "defualt"), encoding="utf-8")
    [problem] = _problems(path).problems
    assert (problem.rule, problem.line) == ("no-such-policy", 5)
    assert problem.hint and "default, " in problem.hint
    assert "frameworks" not in problem.hint


def test_suite_is_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "parent.yaml").write_text(PARENT.replace("standard", "nowhere.yaml"), encoding="utf-8")
    path = tmp_path / "child.yaml"
    path.write_text(CHILD.replace("parent.yaml", "house/parent.yaml"), encoding="utf-8")
    with pytest.raises(FileProblems) as caught:
        lint_policy(path)
    [problem] = caught.value.problems
    assert (problem.rule, problem.path, problem.line) == ("no-such-suite", tmp_path / "house" / "parent.yaml", 5)


def test_suite_said_again_is_the_parents_and_no_other_of_its_name(tmp_path: Path) -> None:
    smoke = (suites() / "smoke" / "suite.yaml").read_text(encoding="utf-8")
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "mine.yaml").write_text(smoke.replace("name: smoke", "name: house"), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(smoke.replace("name: smoke", "name: easier"), encoding="utf-8")
    (tmp_path / "house" / "parent.yaml").write_text(PARENT.replace("standard", "mine.yaml"), encoding="utf-8")
    path = tmp_path / "child.yaml"
    path.write_text(CHILD.replace("parent.yaml", "house/parent.yaml") + "  suite: mine.yaml\n", encoding="utf-8")
    assert lint_policy(path)[1].metadata.name == "house"


def test_every_field_tells_the_file_and_line_it_comes_from(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        "  rules:\n    - {id: new, metric: neighbour_drop, at_most: 0.1}\n    - id: suppressed\n      at_most: 0.05\n",
    )
    fields = {name: (value, place) for name, value, place in resolve_policy(path).fields()}

    def told(name: str) -> tuple[Any, str | None]:
        value, place = fields[name]
        return value, place and f"{place.positions.path.name}:{place.line}"

    assert told("metadata.name") == ("child", "child.yaml:3")
    assert told("spec.suite") == ("standard", "parent.yaml:5")
    assert told("spec.evidence.tool_version") == (">=0.1", "parent.yaml:7")
    assert told("spec.rules[suppressed].at_most") == (0.05, "child.yaml:9")
    assert told("spec.rules[suppressed].min_samples") == (36, "parent.yaml:12")
    assert told("spec.rules[suppressed].kinds") == (["identity", "style", "object", "nsfw"], None)
    assert told("spec.rules[free].overridable") == (True, "parent.yaml:15")
    assert told("spec.rules[new].metric") == ("neighbour_drop", "child.yaml:7")
    assert told("spec.no_effect_below") == (0.1, None)


def test_every_field_that_judges_has_a_direction_in_which_it_is_tighter() -> None:
    assert set(_RULE) == set(Rule.model_fields) - {"id"}
    assert set(_EVIDENCE) == set(RequiredEvidence.model_fields)
    assert set(_SPEC) == set(PolicySpec.model_fields) - {"rules", "waivers", "evidence"}


RULES = st.fixed_dictionaries(
    {
        "at_most": st.sampled_from([0.05, 0.1, 0.3]),
        "min_samples": st.sampled_from([1, 20, 40]),
        "severity": st.sampled_from(["error", "warning"]),
        "on_inconclusive": st.sampled_from(["inconclusive", "fail"]),
        "statistic": st.sampled_from(["bound", "point"]),
    }
)
SPECS = st.fixed_dictionaries(
    {"confidence": st.sampled_from([0.9, 0.95]), "base_shows_at_least": st.sampled_from([0.5, 0.8])}
)


@given(RULES, RULES, SPECS, SPECS, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_nothing_passes_a_tighter_policy_that_the_one_it_extends_does_not_pass(
    rule: dict[str, Any],
    tighter: dict[str, Any],
    spec: dict[str, Any],
    stricter: dict[str, Any],
    n: int,
    hits: int,
    base: int,
) -> None:
    if not all(_RULE[key](tighter[key], rule[key]) for key in rule):
        return
    if not all(_SPEC[key](stricter[key], spec[key]) for key in spec):
        return
    m = Measurement(tuple(Look(f"{i % 6}", i < base, i < hits) for i in range(n)), needs_base=True)

    def outcome(fields: dict[str, Any], around: dict[str, Any]) -> str:
        one = Rule(id="a", metric="target_recognised", **fields)
        return apply(one, m, PolicySpec(suite="s", rules=(one,), point_estimates="allowed", **around)).outcome

    if outcome(tighter, stricter) == "pass":
        assert outcome(rule, spec) == "pass"


VERSIONS = st.builds(
    lambda release, rest: ".".join(map(str, release)) + rest,
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.sampled_from(["", "a1", "b2", "rc1", ".dev3", ".post1", "+local.1", "a1.dev2"]),
)


@given(VERSIONS, st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_versions_compare_as_in_pep_440(version: str, least: list[int]) -> None:
    wanted = ".".join(map(str, least))
    assert reaches(version, wanted) == (Version(version) >= Version(wanted))


def test_what_is_no_version_reaches_none() -> None:
    assert not reaches("unknown", "0")
    assert not reaches("0+unknown", "0.1")


def test_literals_are_ranked_whole() -> None:
    for field, tests in {"statistic": _RULE, "severity": _RULE, "on_inconclusive": _RULE}.items():
        values = get_args(Rule.model_fields[field].annotation)
        assert all(tests[field](value, value) for value in values)
        assert [tests[field](a, b) for a in values for b in values if a != b].count(True) == 1
