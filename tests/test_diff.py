"""Two runs side by side: what is worse, what is better, what cannot be compared."""

from __future__ import annotations

from fmn_guard.diff import Comparison, Judged, compare
from fmn_guard.policy import ReleasePolicy, Rule
from fmn_guard.probes import Probe
from fmn_guard.record import digest
from fmn_guard.report import judge

from .builder import KEPT, SUPPRESSED, Shows, forgotten, make_audit, make_plan, make_policy, probes

PLAN, POLICY = make_plan(), make_policy()


def _shown_by_first(n: int) -> Shows:
    """The patched model still shows the first n targets."""
    return lambda probe, side, label: forgotten(probe, side, label) or (_is_target(probe) and probe.seed < n)


def _is_target(probe: Probe) -> bool:
    return probe.role == "target"


def _judged(shows: Shows = forgotten, policy: ReleasePolicy = POLICY) -> Judged:
    return Judged(PLAN, judge(PLAN, make_audit(PLAN, shows), policy))


def _named(compared: Comparison) -> tuple[list[str | None], list[str | None]]:
    return [each.rule for each in compared.regressions], [each.rule for each in compared.improvements]


def test_run_compared_with_itself_has_no_changes() -> None:
    compared = compare(_judged(), _judged())
    assert _named(compared) == ([], [])
    assert compared.not_comparable == ()
    assert compared.unchanged == len(_judged().report.findings)


def test_verdict_and_finding_that_became_worse_are_regressions_and_the_way_back_improvements() -> None:
    good, bad = _judged(), _judged(_shown_by_first(36))
    worse, better = compare(good, bad), compare(bad, good)
    assert worse.regressions[0].rule is None
    assert (worse.regressions[0].before, worse.regressions[0].after) == ("pass", "fail")
    [suppressed] = [each for each in worse.regressions if each.rule == "suppressed"]
    assert (suppressed.subject, suppressed.value_before, suppressed.value_after) == ("pistol", 0.0, 1.0)
    assert worse.improvements == ()
    assert better.regressions == ()
    assert [each.rule for each in better.improvements] == [each.rule for each in worse.regressions]


def test_inconclusive_is_worse_than_pass_and_better_than_fail() -> None:
    unsure = _judged(_shown_by_first(2))
    assert unsure.report.verdict == "inconclusive"
    assert compare(_judged(), unsure).regressions
    assert not compare(_judged(_shown_by_first(36)), unsure).regressions


def test_collapse_that_is_over_is_no_finding_that_went_missing() -> None:
    broken = _judged(lambda probe, side, label: side == "base" and forgotten(probe, side, label))
    assert "collapse" in broken.report.outcomes
    assert compare(broken, _judged()).regressions == ()
    assert "collapse" in _named(compare(_judged(), broken))[0]


def test_same_outcome_is_a_regression_only_when_the_intervals_lie_apart() -> None:
    lax = make_policy(SUPPRESSED.model_copy(update={"at_most": 1.0}), KEPT)
    before, slightly, far = (_judged(_shown_by_first(n), lax) for n in (0, 2, 30))
    assert {run.report.verdict for run in (before, slightly)} == {"pass"}
    assert "suppressed" not in _named(compare(before, slightly))[0]
    [change] = [each for each in compare(before, far).regressions if each.rule == "suppressed"]
    assert (change.before, change.after) == ("pass", "pass")
    assert "suppressed" in _named(compare(far, before))[1]


def test_higher_is_better_where_the_limit_is_a_least() -> None:
    least = make_policy(Rule(id="left", metric="target_recognised", at_least=0.0))
    few, many = (_judged(_shown_by_first(n), least) for n in (0, 30))
    assert "left" in _named(compare(few, many))[1]
    assert "left" in _named(compare(many, few))[0]


def test_what_is_no_longer_judged_is_a_regression() -> None:
    less = make_policy(SUPPRESSED)
    compared = compare(_judged(), _judged(policy=less))
    assert [(each.rule, each.after) for each in compared.regressions] == [("kept", None)]
    assert [each.what for each in compared.not_comparable] == ["policy"]


def test_what_is_judged_for_the_first_time_is_better_only_when_it_passes() -> None:
    less = make_policy(KEPT)
    assert "suppressed" in _named(compare(_judged(policy=less), _judged()))[1]
    assert "suppressed" in _named(compare(_judged(policy=less), _judged(_shown_by_first(36))))[0]


def test_other_suite_base_policy_and_recogniser_are_not_comparable() -> None:
    moved = PLAN.base.model_copy(update={"weights_digest": digest("elsewhere")})
    plan = PLAN.model_copy(update={"suite_digest": digest("other suite"), "base": moved})
    audit = make_audit(plan)
    judge_of = audit.instruments[0].model_copy(update={"weights_digest": digest("other judge")})
    audit = audit.model_copy(update={"instruments": (judge_of,)})
    other = Judged(plan, judge(plan, audit, make_policy(SUPPRESSED, KEPT, confidence=0.9)))
    named = {each.what: (each.before, each.after) for each in compare(_judged(), other).not_comparable}
    assert list(named) == ["suite", "base", "policy", "recogniser", "confidence"]
    assert all(before != after for before, after in named.values())


def test_aliases_of_one_concept_are_compared_each_with_itself() -> None:
    alias = probes("alias", "pistol", 36, name="gun")
    plan = make_plan(asked=(*PLAN.probes, *alias))
    policy = make_policy(Rule(id="aliases", metric="alias_recognised", at_most=0.1))
    good, bad = (
        Judged(plan, judge(plan, make_audit(plan, shows), policy))
        for shows in (forgotten, lambda p, s, label: forgotten(p, s, label) or p.role == "alias")
    )
    [change] = [each for each in compare(good, bad).regressions if each.rule == "aliases"]
    assert change.before == "pass"
    assert change.after == "fail"
