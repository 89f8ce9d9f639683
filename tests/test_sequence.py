"""How passes follow one another, as the plan states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fmn_guard.cost import estimate
from fmn_guard.errors import InputError
from fmn_guard.evidence import PassRecord
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.manifest import CheckpointRef, Manifest, load_manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest, parse_plain, read_record, write_record
from fmn_guard.render.markdown import markdown
from fmn_guard.report import judge
from fmn_guard.sequence import joined, passes_run
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import AuditSuite, load_suite

from .builder import forget, make_audit, make_passes, make_plan, make_policy


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), manifests())


@pytest.fixture(scope="module")
def suite() -> AuditSuite:
    return load_suite(suites() / "smoke")


@pytest.fixture(scope="module")
def quickstart() -> Manifest:
    return load_manifest(manifests() / "quickstart.yaml")


def changed(manifest: Manifest, **eraser: object) -> Manifest:
    data = manifest.model_dump(mode="json", by_alias=True)
    data["spec"]["eraser"] |= eraser
    return parse_plain(data, Manifest)


def planned(manifest: Manifest, suite: AuditSuite, base: Checkpoint, **eraser: object) -> Plan:
    return compile_plan(changed(manifest, **eraser), suite, base)


def test_passes_run_in_turn_unless_the_manifest_says_otherwise(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan = planned(quickstart, suite, base)
    assert plan.sequence == "sequential"
    assert passes_run(plan) == plan.passes
    assert [len(spec.retain.forgotten) for spec in plan.passes] == [0, 1, 2, 3, 4]
    assert planned(quickstart, suite, base, sequence="sequential").digest == plan.digest


@pytest.mark.parametrize("sequence", ["merge", "joint"])
def test_passes_apart_know_of_no_other_and_leave_no_model_between_them(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint, tmp_path: Path, sequence: str
) -> None:
    plan = planned(quickstart, suite, base, sequence=sequence)
    assert plan.sequence == sequence
    assert all(spec.retain.forgotten == () for spec in plan.passes)
    assert plan.between == ()
    assert plan.digest != planned(quickstart, suite, base).digest
    assert (plan.merge_preserve is None) == (sequence == "joint")
    assert plan.merge_looks == 0
    write_record(tmp_path / "plan.json", plan)
    assert read_record(tmp_path / "plan.json", Plan) == plan


def test_passes_that_are_mended_run_in_turn_and_one_solution_follows_them(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan, alone = planned(quickstart, suite, base, sequence="mended"), planned(quickstart, suite, base)
    assert passes_run(plan) == plan.passes
    assert [spec.retain for spec in plan.passes] == [spec.retain for spec in alone.passes]
    assert plan.between == ()
    assert plan.merge_preserve is not None and plan.merge_looks > 0
    assert all({"in-sequence", "mended"} <= set(spec.departures) for spec in plan.passes)
    assert plan.digest != alone.digest


def test_joint_pass_has_every_sentence_led_as_far_as_in_its_own_pass(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan = planned(quickstart, suite, base, sequence="joint")
    (whole,) = passes_run(plan)
    led = [(p.text, p.repulsion) for p in whole.prompts]
    assert led == [(p.text, spec.repulsion) for spec in plan.passes for p in spec.prompts]
    assert len({repulsion for _, repulsion in led}) > 1
    assert all(len(whole.anchors(prompt)) in (1, 16) for prompt in whole.prompts)
    assert all("{x}" not in anchor for prompt in whole.prompts for anchor in whole.anchors(prompt))
    assert set(whole.names) == {name for spec in plan.passes for name in spec.names}
    assert set(whole.retain.kept) == {s for spec in plan.passes for s in spec.retain.kept}


def test_joint_pass_costs_what_its_passes_do_and_looks_as_often_as_one(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan = planned(quickstart, suite, base, sequence="joint")
    (whole,) = passes_run(plan)
    assert whole.steps == sum(spec.steps for spec in plan.passes)
    assert whole.stop is not None and plan.passes[0].stop is not None
    assert whole.steps / whole.stop.every == plan.passes[0].steps / plan.passes[0].stop.every
    alone = planned(quickstart, suite, base)
    assert estimate(plan).images == estimate(alone).images - estimate(alone).between
    assert estimate(plan).training_steps == estimate(alone).training_steps


def test_joint_pass_over_alike_concepts_weighs_each_as_its_own_pass_does() -> None:
    three = [forget(slug) for slug in ("a", "b", "c")]
    # a mean over three concepts beside beta / 3 is a sum over them beside beta
    assert joined(three).preserve == pytest.approx(three[0].preserve / 3)
    assert joined(three[:1]).preserve == pytest.approx(three[0].preserve)


def test_joint_pass_may_cost_what_changes_of_its_concepts_come_to_together(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan = planned(quickstart, suite, base, sequence="joint")
    (whole,) = passes_run(plan)
    budgets = [spec.rollback.drift for spec in plan.passes if spec.rollback]
    assert whole.rollback is not None
    assert whole.rollback.drift == pytest.approx(sum(b**2 for b in budgets) ** 0.5)


def test_what_is_forgotten_together_may_take_the_bytes_of_its_passes(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    plan = planned(quickstart, suite, base, sequence="joint")
    (whole,) = passes_run(plan)
    assert whole.stored_as is not None
    assert whole.stored_as.share == pytest.approx(sum(spec.stored_as.share for spec in plan.passes if spec.stored_as))
    assert {spec.stored_as.error for spec in plan.passes if spec.stored_as} == {whole.stored_as.error}


def test_pass_that_protects_no_language_has_no_budget(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    assert all(spec.rollback for spec in planned(quickstart, suite, base).passes)
    for sequence in ("sequential", "joint"):
        plan = planned(quickstart, suite, base, projection="off", sequence=sequence)
        assert {spec.rollback for spec in passes_run(plan)} == {None}


@pytest.mark.parametrize("sequence", ["mended", "merge"])
def test_merging_without_a_retained_language_is_refused(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint, sequence: str
) -> None:
    with pytest.raises(InputError, match=f"{sequence} with projection off"):
        planned(quickstart, suite, base, sequence=sequence, projection="off")


@pytest.mark.parametrize(
    ("sequence", "words"),
    [
        ("mended", "Concepts were forgotten one after another, then mended in closed form."),
        ("merge", "Concepts were forgotten each from the base alone, then merged in closed form."),
        ("joint", "Concepts were forgotten all at once."),
    ],
)
def test_reports_say_how_concepts_were_forgotten(sequence: Any, words: str) -> None:
    plan = make_plan().model_copy(update={"sequence": sequence})
    passes = make_passes(plan)
    merger = PassRecord(
        slug="merge",
        steps=0,
        stopped="merged",
        still_shown=(),
        attention_mass=(),
        redirect_error=(),
        drift=0.01,
        images_digest=digest("images"),
    )
    passes = passes.model_copy(update={"passes": (*passes.passes, merger)})
    report = judge(plan, make_audit(plan, passes_digest=digest(passes)), make_policy(), passes)
    assert words in markdown(report, plan, passes)
    assert not any("merge" in warning for warning in report.warnings)
