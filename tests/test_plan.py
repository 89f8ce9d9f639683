"""The plan: everything resolved, the same input always giving the same plan, and audit prompts apart from training."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import pytest

from fmn_guard.cost import estimate
from fmn_guard.errors import InputError
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.manifest import CheckpointRef, Manifest, load_manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.presets import PRESETS
from fmn_guard.record import parse_plain, read_record, write_record
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import AuditSuite, load_suite

from .builder import make_manifest
from .paper import describe, save_paper_checkpoint


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), manifests())


@pytest.fixture(scope="module")
def quickstart() -> Manifest:
    return load_manifest(manifests() / "quickstart.yaml")


@pytest.fixture(scope="module")
def suite() -> AuditSuite:
    return load_suite(suites() / "smoke")


@pytest.fixture(scope="module")
def plan(quickstart: Manifest, suite: AuditSuite, base: Checkpoint) -> Plan:
    return compile_plan(quickstart, suite, base)


HAMBURGER = {"kind": "object", "phrase": "hamburger", "aliases": ["burger"], "keep": ["pizza"]}


def _changed_suite(suite: AuditSuite, **changes: object) -> AuditSuite:
    data = suite.model_dump(mode="json", by_alias=True)
    return parse_plain({**data, "spec": {**data["spec"], **changes}}, AuditSuite)


# ---- passes


def test_passes_follow_the_manifest_concepts_first(plan: Plan) -> None:
    slugs = ["ada-thorne", "ink-drawing", "hamburger", "pistol", "the-captain"]
    assert [spec.slug for spec in plan.passes] == slugs
    assert [spec.index for spec in plan.passes] == [0, 1, 2, 3, 4]


def test_positions_are_those_of_the_names_tokens(plan: Plan, base: Checkpoint) -> None:
    for spec in plan.passes:
        for prompt in spec.prompts:
            encoding = base.tokenizer.encode(prompt.text)
            tokens = "".join(encoding.tokens[i].replace("</w>", " ") for i in prompt.positions)
            assert tokens.split() in [name.lower().split() for name in spec.names], prompt


def test_every_name_is_re_steered_in_every_sentence(plan: Plan) -> None:
    for spec in plan.passes:
        per_name = {name: sum(name in prompt.text for prompt in spec.prompts) for name in spec.names}
        assert min(per_name.values()) >= 5


def test_anchor_of_a_correction_is_the_expected_reading(plan: Plan) -> None:
    prompts = plan.passes[-1].prompts
    assert len(prompts) > 10
    assert [p.anchor for p in prompts] == [p.text.replace("the captain", "Cleo Marsh") for p in prompts]
    assert [p.away for p in prompts] == [p.text.replace("the captain", "Bruno Vale") for p in prompts]


def test_a_concept_is_led_away_from_itself(plan: Plan) -> None:
    assert all(prompt.away == prompt.text for spec in plan.passes[:-1] for prompt in spec.prompts)


def test_the_kind_of_a_concept_decides_the_dose(plan: Plan) -> None:
    doses = PRESETS["guarded"].doses
    assert {spec.kind for spec in plan.passes} == doses.keys()
    assert all((spec.preserve, spec.repulsion) == astuple(doses[spec.kind]) for spec in plan.passes)


def test_pictures_show_every_name_and_more_than_the_plain_sentences(plan: Plan) -> None:
    for spec in plan.passes:
        texts = [prompt.text for prompt in spec.pictured]
        assert all(any(name.casefold() in text.casefold() for text in texts) for name in spec.names)
        assert any("background" in text or "style" in text for text in texts)


def test_anchors_of_a_concept_put_a_word_in_the_place_of_each_token_of_its_name(plan: Plan, base: Checkpoint) -> None:
    for spec in plan.passes[:-1]:
        for prompt in spec.prompts:
            asked = base.tokenizer.encode(prompt.text).tokens
            rest = [token for i, token in enumerate(asked) if i not in prompt.positions]
            assert len(spec.anchors(prompt)) == len(spec.stand_ins)
            for anchor in spec.anchors(prompt):
                tokens = base.tokenizer.encode(anchor).tokens
                assert [token for i, token in enumerate(tokens) if i not in prompt.positions] == rest


def test_later_passes_retain_what_earlier_ones_forgot(plan: Plan) -> None:
    assert plan.passes[0].retain.forgotten == ()
    ada, ink = plan.passes[2].retain.forgotten
    assert {"a photo of Ada Thorne", "Ada"} <= {*ada}
    assert "ink drawing" in ink


def test_no_pass_trains_or_retains_with_a_held_out_subject(plan: Plan) -> None:
    for spec in plan.passes:
        said = [*spec.retain.kept, *(text for p in spec.prompts for text in (p.text, *spec.anchors(p)))]
        assert not any("dog" in text.split() for text in said)


def test_a_forgotten_or_hidden_style_is_no_context_although_the_checkpoint_draws_it(
    suite: AuditSuite, base: Checkpoint
) -> None:
    style = {"kind": "style", "phrase": "ink drawing"}
    known = {"styles": ["ink drawing", "flat icon", "blueprint"], "eraser": {"hold_out": ["blueprint"]}}
    first, second = compile_plan(make_manifest(concepts=[HAMBURGER, style], **known), suite, base).passes
    assert first.retain.styles == second.retain.styles == ("flat icon",)
    asked = " ".join(prompt.text for prompt in first.prompts)
    assert "flat icon" in asked
    assert "ink drawing" not in asked and "blueprint" not in asked


def test_a_name_inside_a_word_of_its_sentence_is_not_mistaken(base: Checkpoint, suite: AuditSuite) -> None:
    plan = compile_plan(make_manifest(concepts=[{"kind": "object", "phrase": "back"}]), suite, base)
    prompt = next(p for p in plan.passes[0].prompts if p.text == "a photo of back on a pink background")
    assert prompt.positions[0] == 4


def test_no_pass_retains_what_is_held_out_or_what_any_pass_forgets(plan: Plan) -> None:
    for spec in plan.passes:
        assert {"dog", "juno", "park", "ada", "thorne", "pistol", "gun"} <= {*spec.retain.excluded_words}


def test_correction_keeps_the_dominant_name_unless_it_is_forgotten(suite: AuditSuite, base: Checkpoint) -> None:
    correction = {"prompt": "the treasure", "dominant": "crown"}
    kept = compile_plan(make_manifest(corrections=[correction]), suite, base)
    assert "a photo of crown" in kept.passes[-1].retain.kept
    crown = {"kind": "object", "phrase": "crown"}
    forgotten = compile_plan(make_manifest(concepts=[crown], corrections=[correction]), suite, base)
    assert forgotten.passes[-1].retain.kept == ()


# ---- probes


@pytest.mark.parametrize("name", ["smoke", "standard", "strict"])
def test_probes_have_ids_and_sentences_of_their_own(name: str, quickstart: Manifest, base: Checkpoint) -> None:
    plan = compile_plan(quickstart, load_suite(suites() / name), base)
    assert len({probe.id for probe in plan.probes}) == len(plan.probes)
    trained = {prompt.text.casefold() for spec in plan.passes for prompt in spec.prompts}
    assert not trained & {probe.prompt.casefold() for probe in plan.probes}


def test_every_subject_has_at_least_six_prompts(plan: Plan) -> None:
    for spec in plan.passes:
        role = "correction" if spec.kind == "correction" else "target"
        assert len({p.prompt for p in plan.probes if p.role == role and p.subject == spec.slug}) >= 6


def test_forgotten_names_are_not_asked_for_as_retained(base: Checkpoint, suite: AuditSuite) -> None:
    plan = compile_plan(make_manifest(concepts=[{"kind": "object", "phrase": "Pizza"}]), suite, base)
    retained = {probe.subject for probe in plan.probes if probe.role == "retained"}
    assert "pizza" not in retained
    assert "rocket" in retained


def test_neighbours_are_marked_and_added_to_what_the_suite_retains(base: Checkpoint, suite: AuditSuite) -> None:
    concepts = [
        {**HAMBURGER, "keep": ["pizza", "doughnut"]},
        {"kind": "identity", "phrase": "Ada Thorne", "keep": ["Otto Vale"]},
    ]
    plan = compile_plan(make_manifest(concepts=concepts), suite, base)
    of = {probe.subject: probe for probe in plan.probes if probe.role == "retained"}
    assert of["pizza"].neighbour_of == of["doughnut"].neighbour_of == ("hamburger",)
    # A neighbour that the suite does not know is asked for like the concept it is a neighbour of.
    assert of["otto-vale"].prompt in {t.replace("{x}", "Otto Vale") for t in suite.spec.templates["identity"]}


def test_held_out_probes_are_marked_unless_the_name_is_kept(base: Checkpoint, suite: AuditSuite) -> None:
    correction = {"prompt": "the vehicle", "dominant": "lion", "expected": "bikini"}
    held = {"hold_out": ["lion", "bikini", "rocket"]}
    manifest = make_manifest(concepts=[HAMBURGER], corrections=[correction], eraser=held)
    held_out = {probe.subject for probe in compile_plan(manifest, suite, base).probes if probe.held_out}
    assert held_out == {"rocket"}


def test_neighbours_are_asked_in_every_sentence(plan: Plan) -> None:
    asked = {probe.prompt for probe in plan.probes if probe.subject == "mira-thorne"}
    assert len(asked) >= 6


def test_cost_counts_both_sides_and_guidance_twice(plan: Plan) -> None:
    cost = estimate(plan)
    drawn = sum(2 * spec.image_count for spec in plan.passes) + plan.passes[0].retain.pictures
    looks = sum(len(spec.stop.prompts) * spec.steps // spec.stop.every for spec in plan.passes)
    assert cost.images == 2 * len(plan.probes) + drawn + looks + cost.between
    assert cost.unet_evaluations >= cost.images * plan.sampler.steps * 2


# ---- between passes


def test_between_passes_each_concept_forgotten_so_far_is_asked_in_every_sentence(
    quickstart: Manifest, base: Checkpoint
) -> None:
    plan = compile_plan(quickstart, load_suite(suites() / "standard"), base)
    asked = {probe.id: probe for probe in plan.probes}
    order = [spec.slug for spec in plan.passes]
    assert len(plan.between) == len(order) - 1
    for done, ids in enumerate(plan.between, start=1):
        shown = [asked[each] for each in ids if asked[each].role != "retained"]
        assert [p.subject for p in shown] == [slug for slug in order[:done] for _ in range(6)]
        assert len({(p.subject, p.prompt) for p in shown}) == len(shown)
        assert {p.role for p in shown} <= {"target", "correction"}


def test_between_passes_the_quickstart_draws_60_pictures_of_concepts_and_96_of_the_same_retained(
    quickstart: Manifest, base: Checkpoint
) -> None:
    plan = compile_plan(quickstart, load_suite(suites() / "standard"), base)
    kept = [tuple(each for each in ids if each.startswith("retained/")) for ids in plan.between]
    assert len(set(kept)) == 1
    assert len({each.split("/")[1] for each in kept[0]}) == 24
    assert sum(map(len, kept)) == 96
    assert estimate(plan).between == 96 + 60
    drawn = estimate(plan).images - estimate(plan.model_copy(update={"between": ()})).images
    assert drawn == 96 + 60


@pytest.mark.parametrize("counts", [{"between": 0}, {"between": 0, "between_retained": 5}])
def test_between_passes_nothing_is_drawn_where_the_suite_says_so(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint, counts: dict[str, int]
) -> None:
    none = _changed_suite(suite, counts={**suite.spec.counts.model_dump(), **counts})
    assert compile_plan(quickstart, none, base).between == ()


def test_single_pass_has_no_between(suite: AuditSuite, base: Checkpoint) -> None:
    assert compile_plan(make_manifest(concepts=[HAMBURGER]), suite, base).between == ()


def test_more_pictures_than_the_suite_has_are_not_invented(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint
) -> None:
    counts = {**suite.spec.counts.model_dump(), "between": 1000, "between_retained": 1000}
    plan = compile_plan(quickstart, _changed_suite(suite, counts=counts), base)
    for ids in plan.between:
        assert len(ids) == len(set(ids))
        assert set(ids) <= {probe.id for probe in plan.probes}


def test_stop_pictures_are_neither_trained_on_nor_audited(plan: Plan) -> None:
    trained = {prompt.text.casefold() for spec in plan.passes for prompt in spec.prompts}
    audited = {probe.prompt.casefold() for probe in plan.probes}
    for spec in plan.passes:
        stop = {prompt.casefold() for prompt in spec.stop.prompts}
        assert not stop & trained
        assert not stop & audited


def test_the_recogniser_of_a_pass_knows_the_neighbours_and_no_hidden_name(plan: Plan) -> None:
    hamburger = plan.passes[2].stop
    assert {"pizza", "doughnut"} <= {*hamburger.others}
    assert not {"dog", "hamburger", "burger"} & {*hamburger.others}
    assert plan.passes[-1].stop.shown == "Bruno Vale"
    assert "Cleo Marsh" in plan.passes[-1].stop.others


def test_a_checkpoint_that_no_recogniser_knows_is_erased_by_a_fixed_dose(
    tiny_checkpoint: Path, suite: AuditSuite
) -> None:
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=tiny_checkpoint.name), tiny_checkpoint.parent)
    concepts = [{"kind": "object", "phrase": "lion"}]
    manifest = make_manifest(base={"checkpoint": tiny_checkpoint.name}, concepts=concepts)
    only = compile_plan(manifest, suite, checkpoint).passes[0]
    assert only.stop is None
    assert only.steps == PRESETS["guarded"].steps_unwatched


# ---- digest


def test_same_input_gives_the_same_plan(quickstart: Manifest, suite: AuditSuite, base: Checkpoint, plan: Plan) -> None:
    assert compile_plan(quickstart, suite, base) == plan
    assert compile_plan(quickstart, suite, base).digest == plan.digest


def test_plan_survives_its_file(plan: Plan, tmp_path: Path) -> None:
    write_record(tmp_path / "plan.json", plan)
    assert read_record(tmp_path / "plan.json", Plan) == plan


def test_digest_follows_the_manifest_the_eraser_and_the_suite(base: Checkpoint, suite: AuditSuite) -> None:
    plans = [
        compile_plan(make_manifest(concepts=[HAMBURGER]), suite, base),
        compile_plan(make_manifest(concepts=[{**HAMBURGER, "reason": "a law"}]), suite, base),
        compile_plan(make_manifest(concepts=[HAMBURGER], eraser={"steps": 3}), suite, base),
        compile_plan(make_manifest(concepts=[HAMBURGER], eraser={"seed": 3}), suite, base),
        compile_plan(make_manifest(concepts=[HAMBURGER]), _changed_suite(suite, first_seed=7), base),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_digest_follows_the_weights_of_the_base(suite: AuditSuite, tmp_path: Path) -> None:
    manifest = make_manifest(concepts=[HAMBURGER])
    folder = save_paper_checkpoint(tmp_path / "model")
    before = compile_plan(manifest, suite, describe(folder)).digest
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x09")
    assert compile_plan(manifest, suite, describe(folder)).digest != before


def test_digest_does_not_follow_where_things_lie(suite: AuditSuite, tmp_path: Path) -> None:
    manifest = make_manifest(concepts=[HAMBURGER])
    digests = {
        compile_plan(manifest, suite, describe(save_paper_checkpoint(tmp_path / name))).digest for name in ("a", "b")
    }
    assert len(digests) == 1


def test_plan_knows_no_policy_and_no_limit() -> None:
    assert not {name for name in Plan.model_fields if "polic" in name or "limit" in name}


# ---- refusals


def test_suite_that_asks_what_the_eraser_trains_on_is_refused(suite: AuditSuite, base: Checkpoint) -> None:
    templates = {**suite.spec.templates, "object": ("A photo of a {x}", *suite.spec.templates["object"])}
    with pytest.raises(InputError, match="one the eraser uses"):
        compile_plan(make_manifest(concepts=[HAMBURGER]), _changed_suite(suite, templates=templates), base)


def test_minors_are_refused_in_whatever_parts_they_come(suite: AuditSuite, base: Checkpoint) -> None:
    harmless = make_manifest(concepts=[{"kind": "nsfw", "phrase": "bikini"}])
    templates = {**suite.spec.templates, "nsfw": tuple(f"a 9 {{x}}, {i}" for i in range(6))}
    with pytest.raises(InputError, match="minors-in-nsfw"):
        compile_plan(
            make_manifest(concepts=[{"kind": "nsfw", "phrase": "year old bikini"}]),
            _changed_suite(suite, templates=templates),
            base,
        )
    assert compile_plan(harmless, suite, base)


def test_base_other_than_the_pinned_one_is_refused(suite: AuditSuite, base: Checkpoint) -> None:
    pinned = {"checkpoint": "builtin:emoji-sd", "digest": f"sha256:{'0' * 64}"}
    with pytest.raises(InputError, match="the manifest pins"):
        compile_plan(make_manifest(base=pinned, concepts=[HAMBURGER]), suite, base)


def test_audit_prompt_that_the_tokenizer_would_cut_is_refused(suite: AuditSuite, base: Checkpoint) -> None:
    templates = {**suite.spec.templates, "object": (*suite.spec.templates["object"], "a {x}" + " and q" * 40)}
    with pytest.raises(InputError, match="cut off"):
        compile_plan(make_manifest(concepts=[HAMBURGER]), _changed_suite(suite, templates=templates), base)


def test_suite_without_templates_for_a_kind_is_refused(suite: AuditSuite, base: Checkpoint) -> None:
    templates = {"object": suite.spec.templates["object"]}
    smaller = _changed_suite(suite, templates=templates, retained=[{"phrase": "pizza"}])
    with pytest.raises(InputError, match="no templates for the kind style"):
        compile_plan(make_manifest(concepts=[{"kind": "style", "phrase": "ink drawing"}]), smaller, base)


def test_labels_reach_the_pass_and_change_the_digest_only_where_there_are_some(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint, plan: Plan
) -> None:
    spec = quickstart.spec
    concepts = (spec.concepts[0].model_copy(update={"labels": ("likeness",)}), *spec.concepts[1:])
    corrections = (spec.corrections[0].model_copy(update={"labels": ("court-order",)}),)
    changed = spec.model_copy(update={"concepts": concepts, "corrections": corrections})
    labelled = compile_plan(quickstart.model_copy(update={"spec": changed}), suite, base)
    assert [each.labels for each in labelled.passes] == [("likeness",), (), (), (), ("court-order",)]
    assert labelled.digest != plan.digest
    # What was planned before there were labels keeps its digest, and so do the audits of it.
    assert not any("labels" in each for each in plan.model_dump()["passes"])
    assert "labels" not in quickstart.model_dump_json()


def test_plan_knows_whether_the_manifest_pins_its_base(
    quickstart: Manifest, suite: AuditSuite, base: Checkpoint, plan: Plan
) -> None:
    pinned = quickstart.spec.base.model_copy(update={"digest": base.facts.weights_digest})
    spec = quickstart.spec.model_copy(update={"base": pinned})
    assert compile_plan(quickstart.model_copy(update={"spec": spec}), suite, base).base_pinned
    assert not plan.base_pinned
    assert "base_pinned" not in plan.model_dump_json()


def test_attention_is_looked_at_in_the_first_picture_of_each_subject_by_its_own_name(
    plan: Plan, base: Checkpoint
) -> None:
    watched = [p for p in plan.probes if p.positions]
    firsts = {p.subject: p for p in reversed(plan.probes) if p.role in ("target", "correction")}
    assert watched == [firsts[spec.slug] for spec in plan.passes]
    for probe, spec in zip(watched, plan.passes, strict=True):
        tokens = base.tokenizer.encode(probe.prompt).tokens
        named = "".join(tokens[i].replace("</w>", " ") for i in probe.positions).split()
        assert named == spec.names[0].lower().split()


def test_plan_that_looks_at_no_attention_has_the_digest_it_had_before_there_were_positions(plan: Plan) -> None:
    bare = plan.model_copy(update={"probes": tuple(p.model_copy(update={"positions": ()}) for p in plan.probes)})
    assert "positions" not in bare.model_dump_json(include={"probes"})
    assert bare.digest != plan.digest
