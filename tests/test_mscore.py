"""The M-Score on paper: what is inverted, what a drop means, and what a report says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmn_guard.errors import BrokenChain, InputError
from fmn_guard.inversion import InversionSettings
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.mscore import (
    UNTESTED,
    MScore,
    Protocol,
    Replayed,
    Score,
    Subject,
    estimate,
    noise_floor,
    plan_mscore,
    summarise,
)
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest
from fmn_guard.render import FORMATS, render
from fmn_guard.report import judge
from fmn_guard.shipped import manifests, policies
from fmn_guard.stats import wilson

from .builder import PATCHED, forget, make_audit, make_plan, make_policy, probes
from .evidence_of_inversion import make_mscore, score
from .paper import MANIFEST

WORDS = ("cat", "photo", "picture", "the")


@pytest.fixture(scope="module")
def plan() -> Plan:
    document, checkpoint = lint_manifest(manifests() / "quickstart.yaml")
    return compile_plan(document, lint_policy(policies() / "default.yaml")[1], checkpoint)


@pytest.fixture(scope="module")
def protocol(plan: Plan) -> Protocol:
    return plan_mscore(plan, WORDS)


# ---- what is inverted


def test_targets_are_the_concepts_and_no_correction(protocol: Protocol) -> None:
    targets = [s.slug for s in protocol.subjects if s.role == "target"]
    assert targets == ["ada-thorne", "ink-drawing", "hamburger", "pistol"]


def test_controls_are_retained_concepts_of_the_targets_sort_that_nobody_declared(
    plan: Plan, protocol: Protocol
) -> None:
    controls = [s for s in protocol.subjects if s.role == "control"]
    slugs = {s.slug for s in controls}
    neighbours = {p.subject for p in plan.probes if p.neighbour_of}
    assert len(slugs) == 5
    assert not slugs & (neighbours | {spec.slug for spec in plan.passes})
    assert [s.label.split(":")[0] for s in controls] == ["concept", "style", "concept", "concept", "concept"]


def test_another_manifest_takes_the_same_controls(protocol: Protocol, tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(MANIFEST, encoding="utf-8")
    document, checkpoint = lint_manifest(tmp_path / "manifest.yaml")
    other = plan_mscore(compile_plan(document, lint_policy(policies() / "default.yaml")[1], checkpoint), WORDS)
    shared = {s.slug for s in other.subjects} & {s.slug for s in protocol.subjects if s.role == "control"}
    assert len(shared) == 4  # all that are no styles, which this manifest has none of


def test_anchors_are_asked_for_in_sentences_that_no_pass_trains_on(plan: Plan, protocol: Protocol) -> None:
    trained = {prompt.text for spec in plan.passes for prompt in spec.prompts}
    for subject in protocol.subjects:
        assert len(subject.frames) == 8
        assert not trained & {subject.sentence(frame) for frame in subject.frames}
        assert subject.template in subject.frames
        for frame in subject.frames:
            assert frame.count("{x}") == 1
            assert subject.phrase.casefold() not in frame.casefold()


def test_sentence_with_the_name_in_it_is_a_probes(plan: Plan, protocol: Protocol) -> None:
    asked = {p.prompt for p in plan.probes}
    assert {s.sentence(frame) for s in protocol.subjects for frame in s.frames} <= asked


def test_name_inside_another_word_is_left_alone() -> None:
    asked = tuple(
        p.model_copy(update={"prompt": f"a cartoon of a car number {i}"})
        for i, p in enumerate(probes("target", "car", 6, "concept:car"))
    )
    kept = [p for i in range(5) for p in probes("retained", f"thing{i}", 6)]
    made = plan_mscore(make_plan(forget("car"), asked=(*asked, *kept)), WORDS)
    assert made.subjects[0].frames[0] == "a cartoon of a {x} number 0"


def test_inversion_starts_from_a_word_that_is_no_name(plan: Plan) -> None:
    assert plan_mscore(plan, WORDS).word == "picture"
    assert plan_mscore(plan, ("object", *WORDS)).word == "object"
    with pytest.raises(InputError, match="is a word of this tokenizer"):
        plan_mscore(plan, ("cat",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"controls": 4}, "4 controls"),
        ({"controls": 500}, "retained concepts can be controls"),
        ({"settings": InversionSettings(seeds=(1, 2))}, "2 seeds"),
        ({"settings": InversionSettings(seeds=(1, 1, 2))}, "2 seeds"),
        ({"given": {"pistol": (digest("pictures"), 7)}}, "7 anchors of pistol"),
        ({"given": {"nobody": (digest("pictures"), 8)}}, "not measured"),
    ],
)
def test_too_little_is_refused(plan: Plan, options: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_mscore(plan, WORDS, **options)  # type: ignore[arg-type]


def test_plan_of_corrections_alone_has_no_mscore() -> None:
    with pytest.raises(InputError, match="forgets no concept"):
        plan_mscore(make_plan(forget("the-captain", "correction")), WORDS)


def test_given_anchors_are_described_by_the_template(plan: Plan) -> None:
    made = plan_mscore(plan, WORDS, given={"pistol": (digest("pictures"), 9)})
    [pistol] = [s for s in made.subjects if s.slug == "pistol"]
    assert pistol.frames == (pistol.template,) * 9
    assert pistol.given == digest("pictures")


def test_cost_counts_every_seed_step_and_picture_of_both_models(plan: Plan, protocol: Protocol) -> None:
    cost = estimate(protocol, plan)
    jobs = 4 * 2 + 5  # targets by one token and by four, controls by one
    settings = protocol.inversion
    assert cost.inversions == 2 * jobs * 3
    assert cost.evaluations == cost.inversions * settings.steps * settings.batch
    assert cost.pictures == 9 * 8 + 2 * jobs * 3 * 8
    cheaper = estimate(protocol, plan, cached=jobs, seconds_each=0.1)
    assert cheaper.evaluations * 2 == cost.evaluations
    drawing = cost.pictures * (2 * 2 + 2) / 2  # 4 steps, 2 of them guided, without gradients
    assert cheaper.seconds == pytest.approx((cheaper.evaluations + drawing) * 0.1)
    assert "39 of them known already" in cheaper.words


# ---- what a drop means


def _reference(scores: Sequence[Score]) -> tuple[float, float]:
    """Mean and sample deviation of the controls' drops, from the formulas."""
    drops = [sum(s.base) / len(s.base) - sum(s.patched) / len(s.patched) for s in scores if s.role == "control"]
    centre = sum(drops) / len(drops)
    return centre, (sum((d - centre) ** 2 for d in drops) / (len(drops) - 1)) ** 0.5


cosines = st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(tuple)


@given(st.lists(st.tuples(cosines, cosines), min_size=5, max_size=9), cosines, cosines)
def test_forgotten_is_a_drop_beyond_mean_and_two_deviations_of_the_controls(
    controls: list[tuple[tuple[float, ...], tuple[float, ...]]], base: tuple[float, ...], patched: tuple[float, ...]
) -> None:
    scores = [score(f"c{i}", "control", *pair) for i, pair in enumerate(controls)]
    found = summarise(make_mscore(score("t", "target", base, patched), *scores), 0.95)
    centre, sd = _reference(scores)
    assert found.floor is not None
    assert (found.floor.mean, found.floor.sd) == pytest.approx((centre, sd), abs=1e-9)
    row = found.rows[0]
    assert (row.m0, row.m1) == pytest.approx((mean(base), mean(patched)), abs=1e-9)
    excess = mean(base) - mean(patched) - centre - 2 * sd
    if abs(excess) > 1e-9:
        assert row.beyond == (excess > 0)


@given(st.sets(st.integers(0, 4), min_size=1), st.booleans())
def test_without_five_measured_controls_nothing_is_beyond_anything(lost: set[int], removed: bool) -> None:
    controls = [score(f"c{i}", "control", (0.9,) * 3, (0.9,) * 3) for i in range(5)]
    scores = [
        s.model_copy(update={"unmeasured": "not a number"}) if i in lost else s
        for i, s in enumerate(controls)
        if not (removed and i in lost)
    ]
    found = summarise(make_mscore(score("t", "target", (0.9,) * 3, (-0.9,) * 3), *scores), 0.95)
    assert found.floor is None
    assert found.rows[0].beyond is None
    assert found.rows[0].reading == "no noise floor"


def test_what_was_not_measured_is_not_forgotten() -> None:
    controls = [score(f"c{i}", "control", (0.9,) * 3, (0.9,) * 3) for i in range(5)]
    broken = score("t", "target", (), ()).model_copy(update={"unmeasured": "not a number"})
    row = summarise(make_mscore(broken, *controls), 0.95).rows[0]
    assert (row.m0, row.m1, row.drop, row.beyond) == (None, None, None, None)
    assert row.reading == "not measured: not a number"


def test_replays_of_all_seeds_are_counted_together_and_apart_by_tokens() -> None:
    sides = [("base", 1, 8), ("patched", 1, 2), ("base", 4, 8), ("patched", 4, 8)]
    replays = tuple(
        Replayed(side=side, tokens=tokens, seed=seed, shown=shown, n=8, planned=8)  # type: ignore[arg-type]
        for side, tokens, shown in sides
        for seed in range(3)
    )
    mscore = make_mscore(score("t", "target", (0.9,) * 3, (0.1,) * 3).model_copy(update={"replays": replays}))
    one, four = summarise(mscore, 0.95).rows[0].replays
    assert (one.words, one.interval) == ("6 of 24 (base 24 of 24)", wilson(6, 24, 0.95))
    assert (four.tokens, four.shown, four.found_on_base) == (4, 24, True)


@pytest.mark.parametrize(("shown", "n"), [(4, 8), (0, 0)])
def test_replay_says_nothing_where_inversion_does_not_find_it_on_the_base(shown: int, n: int) -> None:
    replays = (
        Replayed(side="base", tokens=1, seed=0, shown=shown, n=n, planned=8),
        Replayed(side="patched", tokens=1, seed=0, shown=0, n=6, planned=8),
    )
    mscore = make_mscore(score("t", "target", (0.9,) * 3, (0.1,) * 3).model_copy(update={"replays": replays}))
    [row] = summarise(mscore, 0.95).rows[0].replays
    assert not row.found_on_base
    assert row.words == f"0 of 6, 2 unscored (base {shown} of {n}: says nothing, not found on the base)"


def test_scores_of_another_protocol_are_refused() -> None:
    mscore = make_mscore(score("t", "target", (0.9,) * 3, (0.1,) * 3))
    with pytest.raises(BrokenChain, match="not those of its protocol"):
        summarise(mscore.model_copy(update={"scores": ()}), 0.95)


def test_floor_ignores_targets() -> None:
    controls = [score(f"c{i}", "control", (0.9,) * 3, (0.9,) * 3) for i in range(5)]
    assert noise_floor(controls) == noise_floor([*controls, score("t", "target", (0.9,) * 3, (-0.9,) * 3)])


# ---- what a report says

PLAN = make_plan()
AUDIT = make_audit(PLAN)


def _measured(**changes: object) -> MScore:
    controls = [score(f"c{i}", "control", (0.9, 0.8, 0.9), (0.88, 0.8, 0.9)) for i in range(5)]
    return make_mscore(score("pistol", "target", (0.9, 0.8, 0.9), (0.1, 0.2, 0.3)), *controls, plan=PLAN, **changes)


def test_report_without_mscore_says_that_inversion_was_not_tested_and_holds_no_word_of_it() -> None:
    report = judge(PLAN, AUDIT, make_policy())
    assert UNTESTED in report.not_tested
    assert "mscore" not in report.model_dump()


def test_report_with_mscore_changes_no_finding_and_says_that_no_rule_judges_it() -> None:
    without, report = judge(PLAN, AUDIT, make_policy()), judge(PLAN, AUDIT, make_policy(), mscore=_measured())
    assert report.mscore is not None and report.mscore.rows[0].reading == "beyond the noise floor"
    assert (report.findings, report.verdict) == (without.findings, without.verdict)
    assert UNTESTED not in report.not_tested
    assert "Concept inversion: measured as M-Score and replay, and judged by no rule." in report.not_tested


def test_report_names_what_inversion_left_open() -> None:
    plan = make_plan(forget("pistol"), forget("the-captain", "correction"))
    broken = score("pistol", "target", (), ()).model_copy(update={"unmeasured": "not a number"})
    report = judge(plan, make_audit(plan), make_policy(), mscore=make_mscore(broken, plan=plan))
    assert "Concept inversion of pistol: not a number." in report.not_tested
    assert "Concept inversion of corrections: the M-Score is of concepts only." in report.not_tested


@pytest.mark.parametrize("ending", ["md", "html"])
def test_report_for_people_has_a_section_where_it_was_measured_and_none_elsewhere(ending: str) -> None:
    path = Path(f"report.{ending}")
    texts = [
        render(path, judge(PLAN, AUDIT, make_policy(), mscore=mscore), PLAN, AUDIT, None)
        for mscore in (_measured(), None)
    ]
    assert "M-Score" in texts[0] and "M-Score" not in texts[1]
    assert "0.867" in texts[0] and "0.200" in texts[0]
    assert "Noise floor: a drop above 0.007" in texts[0]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_takes_a_report_with_mscore(ending: str) -> None:
    report = judge(PLAN, AUDIT, make_policy(), mscore=_measured())
    assert render(Path(f"report.{ending}"), report, PLAN, AUDIT, None)


@pytest.mark.parametrize("changed", [{"patched_digest": digest("another")}, {"plan": make_plan(forget("knife"))}])
def test_mscore_of_another_run_is_refused(changed: dict[str, object]) -> None:
    mscore = _measured()
    if "plan" in changed:
        protocol = mscore.protocol.model_copy(update={"plan_digest": digest("another")})
        mscore = mscore.model_copy(update={"protocol": protocol})
    else:
        mscore = mscore.model_copy(update=changed)
    with pytest.raises(BrokenChain, match=r"mscore\.json"):
        judge(PLAN, AUDIT, make_policy(), mscore=mscore)


def test_record_holds_no_token() -> None:
    # numbers of a score: cosines of each seed and of each pair, no vectors
    assert set(Score.model_fields) == {
        *("slug", "role", "anchors_digest", "anchors_shown", "base", "patched", "between", "among", "errors"),
        *("replays", "unmeasured"),
    }
    assert Subject.model_fields.keys().isdisjoint({"tokens", "embedding"})
    assert AUDIT.patched_digest == PATCHED
