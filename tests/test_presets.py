"""What each preset comes to in a plan, and how it says that it departs from the published algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from pydantic import ValidationError

from fmn_guard.cost import estimate
from fmn_guard.errors import InputError
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.presets import DEPARTURES, PRESETS, PresetName
from fmn_guard.record import digest
from fmn_guard.render.html.page import html
from fmn_guard.render.markdown import markdown
from fmn_guard.report import judge
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import load_suite

from .builder import forget, make_audit, make_manifest, make_passes, make_plan, make_policy

NAMES = get_args(PresetName)
PUBLISHED = ("official", "official-tuned", "unlearncanvas")


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), manifests())


def manifest(**eraser: object) -> Manifest:
    return make_manifest(
        concepts=[
            {"kind": "object", "phrase": "hamburger", "aliases": ["burger"]},
            {"kind": "style", "phrase": "ink drawing"},
        ],
        corrections=[{"prompt": "the captain", "dominant": "Bruno Vale", "dominant_kind": "identity"}],
        eraser=eraser,
    )


def planned(base: Checkpoint, **eraser: object) -> Plan:
    return compile_plan(manifest(**eraser), load_suite(suites() / "smoke"), base)


def test_every_preset_that_a_manifest_may_ask_for_is_there() -> None:
    assert tuple(PRESETS) == NAMES


@pytest.mark.parametrize("preset", NAMES)
def test_departures_are_known_by_name_and_stated_in_the_plan(preset: PresetName, base: Checkpoint) -> None:
    for spec in planned(base, preset=preset).passes:
        assert spec.departures
        assert len(set(spec.departures)) == len(spec.departures)
        assert set(spec.departures) <= DEPARTURES.keys()


def test_every_departure_is_one_of_some_preset(base: Checkpoint) -> None:
    asked = [
        *({"preset": preset} for preset in NAMES),
        *({"sequence": "merge"}, {"sequence": "mended"}),
        *({"preset": "official", "steps": 3}, {"preset": "official", "inverted_tokens": 4}),
        {"inversion_rounds": 2},
    ]
    stated = {name for eraser in asked for spec in planned(base, **eraser).passes for name in spec.departures}
    stated |= {"anchor-phrase"}  # of a concept: tests/test_redirected.py
    assert stated == DEPARTURES.keys()


def test_official_is_the_release_s_sentence_dose_and_targets(base: Checkpoint) -> None:
    thing, style, correction = planned(base, preset="official").passes
    assert [p.text for p in thing.prompts] == ["a photo of hamburger", "a photo of burger"]
    assert [p.text for p in style.prompts] == ["a photo in the style of ink drawing"]
    assert [p.text for p in correction.prompts] == ["a photo of the captain"]
    for spec in (thing, style, correction):
        assert (spec.learning_rate, spec.steps, spec.batch, spec.image_count) == (2e-6, 35, 1, 10)
        assert spec.stop is None and spec.projection is None and not spec.retain.kept and not spec.retain.forgotten
        assert spec.published is not None and spec.published.end_of_text == "first"
        for prompt in spec.prompts:  # the name and, right behind it, end-of-text
            tokens = base.tokenizer.encode(prompt.text).tokens
            assert prompt.positions == tuple(range(prompt.positions[0], len(tokens)))


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_of_the_release_differ_in_their_dose_alone(preset: str, base: Checkpoint) -> None:
    for spec, official in zip(
        planned(base, preset=preset).passes, planned(base, preset="official").passes, strict=True
    ):
        same = {"preset": "official", "learning_rate": 2e-6, "steps": 35, "departures": official.departures}
        assert spec.model_copy(update=same) == official


def test_inverted_tokens_are_forgotten_in_the_place_of_names_and_pictures_are_drawn_by_the_names(
    base: Checkpoint,
) -> None:
    inverted, plain = (planned(base, preset="official", **more).passes for more in ({"inverted_tokens": 4}, {}))
    for spec, named in zip(inverted, plain, strict=True):
        assert spec.published is not None and spec.published.inversion is not None
        settings = spec.published.inversion
        assert (settings.tokens, settings.steps, settings.batch, settings.learning_rate) == (4, 500, 1, 1e-3)
        (prompt,) = spec.prompts
        assert prompt.text == named.prompts[0].anchor.replace("{x}", "picture picture picture picture")
        assert len(prompt.positions) == 4 + 1  # and end-of-text
        assert spec.pictured == named.pictured
        assert settings.seeds == (spec.seed,)
        assert {"plain-names", "aliases"}.isdisjoint(spec.departures) and "plain-names" in named.departures
    cost = estimate(planned(base, preset="official", inverted_tokens=4))
    assert cost.training_steps == 3 * (35 + 500)


def test_a_checkpoint_with_two_text_encoders_is_refused_where_tokens_are_to_be_inverted(base: Checkpoint) -> None:
    double = replace(base, other_tokenizers=(base.tokenizer,))
    with pytest.raises(InputError, match=r"inverted_tokens: builtin:emoji-sd has two text encoders"):
        planned(double, preset="official", inverted_tokens=4)


def test_unlearncanvas_has_the_dose_of_its_name(base: Checkpoint) -> None:
    spec = planned(base, preset="unlearncanvas").passes[0]
    assert spec.learning_rate * spec.steps == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("preset", "stages"),
    [
        ("guarded", ("closed-form", "re-steering")),
        ("hybrid", ("closed-form", "look", "re-steering")),
        ("closed-form", ("closed-form",)),
    ],
)
def test_our_presets_differ_in_their_stages(preset: str, stages: tuple[str, ...], base: Checkpoint) -> None:
    for spec, guarded in zip(planned(base, preset=preset).passes, planned(base).passes, strict=True):
        assert spec.stages == stages
        assert (spec.prompts, spec.retain, spec.preserve) == (guarded.prompts, guarded.retain, guarded.preserve)


def test_what_is_not_done_is_no_departure(base: Checkpoint) -> None:
    assert {"retained-language", "given-back"}.isdisjoint(planned(base, projection="off").passes[0].departures)
    assert {"in-sequence", "merged"}.isdisjoint(planned(base, sequence="joint").passes[0].departures)
    assert "padding-spared" not in planned(base, preset="official", end_of_text="all").passes[0].departures
    own = planned(base, preset="unlearncanvas", steps=3).passes[0].departures
    assert "own-dose" in own and "high-dose" not in own
    thing, _, correction = planned(base, preset="official").passes
    assert "corrections" in correction.departures and "corrections" not in thing.departures


@pytest.mark.parametrize(
    ("preset", "setting"),
    [
        ("guarded", {"end_of_text": "none"}),
        ("guarded", {"inverted_tokens": 4}),
        ("official", {"projection": 1e-3}),
        ("official", {"inversion_rounds": 3}),
        ("guarded", {"inversion_rounds": 3, "projection": "off"}),
        *(("guarded", {"inversion_rounds": 3, "sequence": mode}) for mode in ("mended", "merge", "joint")),
        ("official", {"sequence": "joint"}),
        ("unlearncanvas", {"sequence": "merge"}),
        ("closed-form", {"steps": 3}),
        ("closed-form", {"projection": "off"}),
    ],
)
def test_a_setting_that_a_preset_does_not_follow_is_refused(preset: str, setting: dict[str, object]) -> None:
    with pytest.raises(
        ValidationError,
        match=r"does nothing under the preset|no closed-form solution|run one after another|the names of all",
    ):
        manifest(preset=preset, **setting)


def test_a_manifest_that_asks_for_no_end_of_text_has_the_digest_it_had_before_there_was_the_setting() -> None:
    assert "end_of_text" not in manifest().model_dump_json()
    assert digest(manifest(preset="official", end_of_text="all")) != digest(manifest(preset="official"))


def test_cost_counts_what_each_preset_does(base: Checkpoint) -> None:
    costs = {preset: estimate(planned(base, preset=preset)) for preset in NAMES}
    probes = 2 * len(planned(base).probes) + sum(map(len, planned(base).between))
    assert costs["official"].images == probes + 3 * 10
    assert costs["official"].training_steps == 3 * 35
    assert costs["closed-form"].training_steps == 0
    assert costs["closed-form"].images == probes + 3 * 2 * 8 + 24
    assert costs["hybrid"].images == costs["guarded"].images + sum(
        len(spec.stop.prompts) for spec in planned(base).passes if spec.stop
    )


def test_reports_say_in_words_how_the_algorithm_departs_from_the_published_one() -> None:
    told = forget("pistol").model_copy(update={"departures": ("values-only", "contexts"), "preset": "hybrid"})
    plan = make_plan(told)
    audit, passes = make_audit(plan), make_passes(plan)
    passes = passes.model_copy(update={"passes": tuple(p.model_copy(update={"drift": None}) for p in passes.passes)})
    audit = audit.model_copy(update={"passes_digest": digest(passes)})
    report = judge(plan, audit, make_policy(), passes)
    for text in (markdown(report, plan, passes), html(report, plan, audit, passes, {})):
        assert "preset hybrid" in text
        assert "only the values of the cross-attentions change" in text
        assert DEPARTURES["closed-form-alone"] not in text
        assert "not read" in text
