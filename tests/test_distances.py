"""Distances to the base in a verdict: what limits on them need, and how they are told."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import pytest
from pydantic import ValidationError

from fmn_guard.cases import Counts
from fmn_guard.distances import DistanceFigure
from fmn_guard.errors import BrokenChain
from fmn_guard.evidence import Audit, Distances, PairDistance, SeedDistance, SetDistance
from fmn_guard.explain import explain
from fmn_guard.findings import Finding
from fmn_guard.instruments import DistancesSpec, EmbedderSpec
from fmn_guard.policy import Metric, Rule, resolve_policy
from fmn_guard.record import canonical_json
from fmn_guard.render.csvfile import csvfile
from fmn_guard.render.html.page import html
from fmn_guard.render.junit import junit
from fmn_guard.render.markdown import markdown
from fmn_guard.report import Report, judge
from fmn_guard.stats import bootstrap_prompts
from fmn_guard.suite import SuiteSpec

from .builder import KEPT, SUPPRESSED, make_audit, make_plan, make_policy

CLIP = EmbedderSpec(called="clip", folder="builtin:emoji-clip")
PLAN = make_plan().model_copy(update={"distances": DistancesSpec(clip=CLIP)})
RETAINED = [probe for probe in PLAN.probes if probe.role == "retained"]
MOVED = [0.01 * (i % 5) for i in range(len(RETAINED))]


def distances(**changes: Any) -> Distances:
    """Pairs that are 0 to .04 apart, the base's seeds .2; a CMMD of .5 with an error of .1."""
    pairs = [
        PairDistance(probe=probe.id, base=25.0, patched=24.0 + moved, moved=moved)
        for probe, moved in zip(RETAINED, MOVED, strict=True)
    ]
    asked = {probe.prompt: probe.id for probe in reversed(PLAN.probes)}
    seeds = [SeedDistance(probe=probe, apart=0.1 + 0.2 * (i % 2), n=6) for i, probe in enumerate(asked.values())]
    whole: dict[str, Any] = {"pairs": tuple(pairs), "seeds": tuple(seeds)}
    whole["cmmd"] = SetDistance(value=0.5, error=0.1, n=len(pairs))
    return Distances(**whole | changes)


def audit(found: Distances | None, **changes: Any) -> Audit:
    return make_audit(PLAN, distances=found, **changes)


def limit(metric: Metric, at_most: float, **more: Any) -> Rule:
    return Rule(id="near", metric=metric, at_most=at_most, **more)


def judged(rule: Rule, found: Audit) -> tuple[Report, Finding]:
    report = judge(PLAN, found, make_policy(SUPPRESSED, KEPT, rule))
    [finding] = [f for f in report.findings if f.rule == "near"]
    return report, finding


@pytest.mark.parametrize(
    ("metric", "passes", "open_", "fails"),
    [("clip_score_drop", 1.1, 0.98, 0.5), ("paired_distance", 0.04, 0.02, 0.005), ("cmmd", 0.8, 0.5, 0.2)],
)
def test_limit_is_held_against_the_bound_on_its_far_side(
    metric: Metric, passes: float, open_: float, fails: float
) -> None:
    for at_most, outcome in ((passes, "pass"), (open_, "inconclusive"), (fails, "fail")):
        report, finding = judged(limit(metric, at_most), audit(distances()))
        assert (finding.outcome, report.verdict) == (outcome, outcome), finding.reason
        assert "%" not in finding.reason


def test_interval_of_a_mean_is_the_wider_of_the_normal_one_and_that_of_prompts_drawn_again() -> None:
    _, finding = judged(limit("paired_distance", 1), audit(distances()))
    assert finding.normal is not None
    assert finding.interval is not None
    reach = NormalDist().inv_cdf(0.975) * stdev(MOVED) / len(MOVED) ** 0.5
    assert finding.normal.low == pytest.approx(fmean(MOVED) - reach)
    assert finding.normal.high == pytest.approx(fmean(MOVED) + reach)
    prompts: dict[str, list[float]] = {}
    for probe, moved in zip(RETAINED, MOVED, strict=True):
        prompts.setdefault(probe.prompt, []).append(moved)
    again = bootstrap_prompts([(sum(each), len(each)) for each in prompts.values()], 0.95)
    assert finding.bootstrap == again
    assert finding.interval.high == max(again.high, finding.normal.high)
    assert (finding.value, finding.before) == (pytest.approx(fmean(MOVED)), pytest.approx(0.2))


def test_interval_of_cmmd_is_its_value_and_twice_its_error() -> None:
    _, finding = judged(limit("cmmd", 1), audit(distances()))
    assert finding.interval is not None
    assert finding.interval.low == pytest.approx(0.5 - 1.959964 * 0.1)
    assert finding.interval.high == pytest.approx(0.5 + 1.959964 * 0.1)


@pytest.mark.parametrize("metric", ["clip_score_drop", "paired_distance", "cmmd"])
def test_limit_on_what_nobody_measured_is_inconclusive(metric: Metric) -> None:
    plan = make_plan()
    report = judge(
        plan, make_audit(plan), make_policy(SUPPRESSED, KEPT, limit(metric, 1000 if metric == "cmmd" else 2))
    )
    [finding] = [f for f in report.findings if f.rule == "near"]
    assert (finding.outcome, finding.interval, finding.value) == ("inconclusive", None, None)
    assert "the suite asks for no distances to the base" in finding.reason


@pytest.mark.parametrize("metric", ["clip_score_drop", "paired_distance", "cmmd"])
def test_whatever_is_missing_of_a_distance_never_passes(metric: Metric) -> None:
    rule, whole = limit(metric, 900), distances()
    nothing = [pair.model_copy(update={"base": None, "moved": None}) for pair in whole.pairs]
    broken = {
        "no distances": audit(None),
        "a pair that is not told": audit(distances(pairs=whole.pairs[1:])),
        "a pair without vectors": audit(distances(pairs=(nothing[0], *whole.pairs[1:]))),
        "no vectors": audit(distances(pairs=tuple(nothing), cmmd=None)),
        "a picture without a score": audit(
            whole, edits={(RETAINED[0].id, "patched"): {"unscored": "picture is constant"}}
        ),
    }
    assert judged(rule, audit(whole))[1].outcome == "pass"
    for what, found in broken.items():
        assert judged(rule, found)[1].outcome == "inconclusive", what


def test_cmmd_over_other_pictures_or_without_an_error_decides_nothing() -> None:
    for cmmd in (SetDistance(value=0.0, error=0.0, n=3), SetDistance(value=0.0, error=None, n=40), None):
        assert judged(limit("cmmd", 900), audit(distances(cmmd=cmmd)))[1].outcome == "inconclusive"


def test_an_error_budget_does_not_assume_a_distance() -> None:
    found = audit(distances(pairs=distances().pairs[1:]))
    report = judge(PLAN, found, make_policy(SUPPRESSED, KEPT, limit("paired_distance", 2.0), error_budget=0.1))
    assert report.verdict == "inconclusive"


def test_distances_that_are_doubled_or_of_what_the_plan_does_not_keep_break_the_chain() -> None:
    pairs = distances().pairs
    strange = pairs[0].model_copy(update={"probe": "target/pistol/0/0"})
    plain = make_plan()
    for plan, found in (
        (PLAN, audit(distances(pairs=(*pairs, pairs[0])))),
        (PLAN, audit(distances(pairs=(*pairs, strange)))),
        (plain, make_audit(plain, distances=distances())),
    ):
        with pytest.raises(BrokenChain):
            judge(plan, found, make_policy())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"metric": "cmmd", "at_least": 0.5}, "asks a distance to be large"),
        ({"metric": "retained_drop", "at_most": 3}, "is a share, and 3 is beyond 1"),
        ({"metric": "cmmd", "at_most": 3000}, "1000"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Rule(id="near", **fields)


def test_cases_of_a_policy_count_no_distance() -> None:
    with pytest.raises(ValidationError, match="is a distance, of which nothing is counted"):
        Counts(metric="cmmd", n=3)


def test_a_folder_that_is_not_pinned_is_refused_and_so_are_namesakes() -> None:
    with pytest.raises(ValidationError, match="clip is a folder without weights"):
        EmbedderSpec(called="clip", folder="models/clip")
    spec = {"distances": {"clip": {"called": "builtin-judge", "folder": "builtin:emoji-clip"}}}
    from fmn_guard.shipped import suites
    from fmn_guard.suite import load_suite

    smoke = load_suite(suites() / "smoke").spec.model_dump(mode="json")
    with pytest.raises(ValidationError, match="another instrument is called 'builtin-judge'"):
        SuiteSpec.model_validate_json(canonical_json(smoke | spec))


def test_plans_and_audits_without_distances_are_written_as_before() -> None:
    plan = make_plan()
    for record in (plan, make_audit(plan), judge(plan, make_audit(plan), make_policy())):
        assert b'"distances"' not in canonical_json(record)
        assert b'"normal"' not in canonical_json(record)


def test_every_report_tells_distances_in_their_own_units(tmp_path: Path) -> None:
    found = audit(distances())
    report, _ = judged(limit("paired_distance", 0.04), found)
    page = html(report, PLAN, found, None, {})
    text = markdown(report, PLAN, None)
    for told in (page, text):
        assert "Distances to the base" in told
        assert "0.0200" in told
        assert "0.2000" in told
    assert "| CMMD | 0.500 | 0.304 to 0.696 | 40 of 40 |" in text
    assert "≤ 0.0400" in page
    assert ",paired_distance," in csvfile(report, PLAN)
    failed, _ = judged(limit("paired_distance", 0.001), found)
    assert "measured: 0.0200, 95 % interval" in junit(failed, PLAN)
    assert "Distances to the base: cmmd is reported and not judged." in report.not_tested


def test_report_holds_each_figure_with_what_it_is_over() -> None:
    report, _ = judged(limit("cmmd", 1), audit(distances()))
    assert report.distances is not None
    figures: dict[str, DistanceFigure] = {each.name: each for each in report.distances.figures}
    assert figures["clip_score_base"].value == 25
    assert figures["clip_score_patched"].value == pytest.approx(24 + fmean(MOVED))
    assert figures["seed_distance"].value == pytest.approx(0.2)
    seeds = figures.pop("seed_distance")
    assert (seeds.n, seeds.n_planned) == (18, 18)  # prompts: six of the target, and of each of two retained
    assert seeds.interval is not None and seeds.interval.low < 0.2 < seeds.interval.high
    assert {each.n for each in figures.values()} == {len(RETAINED)}
    assert "kid" not in figures


def test_a_limit_on_a_distance_is_explained_in_its_own_units(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "apiVersion: fmn-guard/v1\nkind: ReleasePolicy\nmetadata: {name: mine}\nspec:\n  suite: standard\n"
        "  error_budget: 0.01\n  rules:\n    - {id: near, metric: paired_distance, at_most: 0.05}\n",
        encoding="utf-8",
    )
    said = explain(resolve_policy(path), "near")
    assert said["Passes if"] == "the upper end of the 95 % interval is at most 0.0500"
    assert said["Inconclusive if"].endswith("a planned picture has no score, or fewer than 1 are scored")
    assert said["Pictures"].startswith("at least 2;")
    assert said["Metric"].startswith("Mean cosine distance of base and patched picture")
