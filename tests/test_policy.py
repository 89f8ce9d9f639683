"""Policies: one limit a rule, ids that reports can refer to, and shipped policies that mean what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fmn_guard.errors import FileProblems
from fmn_guard.lint import lint_policy
from fmn_guard.policy import Rule, load_policy
from fmn_guard.record import digest
from fmn_guard.shipped import policies

POLICY = """\
apiVersion: fmn-guard/v1
kind: ReleasePolicy
metadata:
  name: example
spec:
  suite: standard
  rules:
    - id: suppressed
      metric: target_recognised
      at_most: 0.1
"""
WAIVER = "{reason: agreed, owner: team, expires: 2027-01-01"


def _write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "rule", "place"),
    [
        ("      at_most: 0.1\n", "", "one-limit", (8, 7)),
        ("at_most: 0.1", "at_most: 0.1\n      at_least: 0.2", "one-limit", (8, 7)),
        ("at_most: 0.1", "at_most: 10", "out-of-range", (10, 16)),
        ("at_most: 0.1", "at_most: 10 %", "wrong-type", (10, 16)),
        ("target_recognised", "target_recognized", "unknown-value", (9, 15)),
        ("at_most: 0.1", "at_most: 0.1\n      severity: fatal", "unknown-value", (11, 17)),
        ("id: suppressed", "id: Suppressed", "bad-format", (8, 11)),
        ("id: suppressed", "id: not-judged", "reserved-rule", (8, 11)),
        ("id: suppressed", "id: no-effect", "reserved-rule", (8, 11)),
        ("id: suppressed", "id: collapse", "reserved-rule", (8, 11)),
        (
            "at_most: 0.1\n",
            "at_most: 0.1\n    - {id: suppressed, metric: retained_drop, at_most: 0}\n",
            "duplicate-rule",
            (11, 12),
        ),
        (
            "    - id: suppressed\n      metric: target_recognised\n      at_most: 0.1\n",
            "    []\n",
            "out-of-range",
            (8, 5),
        ),
        ("suite: standard", "suite: standart", "no-such-suite", (6, 10)),
        ("at_most: 0.1", "at_most: 0.1\n      statistic: point", "point-estimate", (11, 18)),
        ("target_recognised", "retained_drop\n      labels: [likeness]", "not-per-concept", (10, 15)),
        ("target_recognised", "retained_drop\n      concepts: [pistol]", "not-per-concept", (10, 17)),
        ("at_most: 0.1", "at_most: 0.1\n      labels: [Likeness]", "bad-format", (11, 16)),
        ("suite: standard", "suite: standard\n  evidence: {tool_version: 0.1}", "wrong-type", (7, 28)),
        ("suite: standard", 'suite: standard\n  evidence: {tool_version: "0.1"}', "bad-format", (7, 28)),
        ("suite: standard", f"suite: standard\n  waivers: [{WAIVER}, rule: supressed}}]", "unknown-rule", (7, 70)),
        ("suite: standard", f"suite: standard\n  waivers: [{WAIVER}, rule: collapse}}]", "never-waived", (7, 70)),
        ("suite: standard", f"suite: standard\n  waivers: [{WAIVER}, rule: no-effect}}]", "never-waived", (7, 70)),
        (
            "suite: standard",
            f"suite: standard\n  waivers: [{WAIVER}, rule: suppressed}}, {WAIVER}, rule: suppressed}}]",
            "duplicate-waiver",
            (7, 83),
        ),
        ("suite: standard", "suite: standard\n  waivers: [{rule: suppressed}]", "missing-key", (7, 13)),
        (
            "suite: standard",
            "suite: standard\n  waivers: [{rule: suppressed, reason: a, owner: b, expires: soon}]",
            "bad-format",
            (7, 62),
        ),
        ("suite: standard", "suite: standard\n  confidence: 0.5", "out-of-range", (7, 15)),
    ],
)
def test_mistake_has_rule_place_hint_and_exit_code(
    old: str, new: str, rule: str, place: tuple[int, int], tmp_path: Path
) -> None:
    assert POLICY.count(old) == 1
    with pytest.raises(FileProblems) as caught:
        lint_policy(_write(tmp_path, POLICY.replace(old, new)))
    problem = next(problem for problem in caught.value.problems if problem.rule == rule)
    assert (problem.line, problem.column) == place
    assert problem.hint
    assert caught.value.exit_code == 2


def test_policy_finds_a_suite_beside_it(tmp_path: Path) -> None:
    suite = (policies().parent / "audits" / "suites" / "smoke" / "suite.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(suite.replace("name: smoke", "name: mine"), encoding="utf-8")
    _, found = lint_policy(_write(tmp_path, POLICY.replace("suite: standard", "suite: mine.yaml")))
    assert found.metadata.name == "mine"


def test_suite_is_never_taken_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(FileProblems, match="no-such-suite"):
        lint_policy(_write(tmp_path, POLICY.replace("suite: standard", "suite: mine.yaml")))


def test_shipped_suite_wins_over_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "standard").write_text("an easier bar", encoding="utf-8")
    _, found = lint_policy(_write(tmp_path, POLICY))
    assert found.metadata.name == "standard"


def test_rule_says_its_limit_in_words() -> None:
    assert Rule(id="a", metric="target_recognised", at_most=0.1).words == "target_recognised <= 10.0 %"
    assert Rule(id="a", metric="expected_recognised", at_least=0.5).words == "expected_recognised >= 50.0 %"


SHIPPED = sorted(path.stem for path in policies().glob("*.yaml"))


def test_four_policies_are_shipped_each_with_its_purpose() -> None:
    assert SHIPPED == ["default", "internal-preview", "research", "strict"]
    for name in SHIPPED:
        assert load_policy(policies() / f"{name}.yaml").metadata.description.startswith("For ")


def test_only_the_research_policy_allows_point_estimates() -> None:
    allowing = [n for n in SHIPPED if load_policy(policies() / f"{n}.yaml").spec.point_estimates == "allowed"]
    assert allowing == ["research"]


@pytest.mark.parametrize(
    ("narrowed", "words"),
    [
        ({}, None),
        ({"kinds": ("nsfw", "style")}, "of kind nsfw or style"),
        ({"labels": ("likeness",), "concepts": ("a", "b")}, "labelled likeness and called a or b"),
    ],
)
def test_rule_says_what_it_is_narrowed_to(narrowed: dict[str, Any], words: str | None) -> None:
    assert Rule(id="a", metric="target_recognised", at_most=0.1, **narrowed).scope == words


@pytest.mark.parametrize(
    ("narrowed", "covered"),
    [
        ({}, True),
        ({"labels": ("likeness",)}, True),
        ({"labels": ("other", "likeness")}, True),
        ({"labels": ("other",)}, False),
        ({"concepts": ("ada",)}, True),
        ({"concepts": ("eve",)}, False),
        ({"kinds": ("style",)}, False),
        ({"labels": ("likeness",), "concepts": ("eve",)}, False),
    ],
)
def test_rule_covers_what_meets_all_that_narrows_it(narrowed: dict[str, Any], covered: bool) -> None:
    rule = Rule(id="a", metric="target_recognised", at_most=0.1, **narrowed)
    assert rule.covers("ada", "identity", ("likeness", "consent")) == covered


def test_kinds_do_not_narrow_a_rule_about_corrections() -> None:
    assert Rule(id="a", metric="neighbour_drop", at_most=0.1, kinds=("style",)).covers("the-captain", "correction", ())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policy_names_the_suite_it_is_made_for(name: str) -> None:
    policy, suite = lint_policy(policies() / f"{name}.yaml")
    assert suite.metadata.name == policy.spec.suite


def test_strict_policy_is_nowhere_looser_than_the_default() -> None:
    default, strict = (
        {rule.id: rule for rule in load_policy(policies() / f"{name}.yaml").spec.rules}
        for name in ("default", "strict")
    )
    assert strict.keys() - default.keys() == {"not-by-inversion"}
    assert default.keys() <= strict.keys()
    for rule, stricter in ((default[name], strict[name]) for name in default):
        assert rule.metric == stricter.metric
        assert (stricter.at_most or 0) <= (rule.at_most or 0)
        assert (stricter.at_least or 0) >= (rule.at_least or 0)
        assert stricter.min_samples >= rule.min_samples
        assert (rule.severity, stricter.severity) != ("error", "warning")


def test_digest_of_a_policy_follows_its_limits(tmp_path: Path) -> None:
    one = load_policy(_write(tmp_path, POLICY))
    assert digest(one) == digest(load_policy(_write(tmp_path, f"# a comment\n{POLICY}")))
    assert digest(one) != digest(load_policy(_write(tmp_path, POLICY.replace("0.1", "0.2"))))
