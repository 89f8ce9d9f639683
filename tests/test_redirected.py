"""A concept may be redirected to a phrase of the manifest: what a plan says of it, what is refused, what is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fmn_guard.audit.detectors import load_recogniser
from fmn_guard.errors import FileProblems
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.forget.patch import PATCH, apply_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.lint import lint_manifest
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import decode, draw_latents, to_pixels
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest
from fmn_guard.shipped import manifests, suites
from fmn_guard.suite import load_suite

from .builder import make_manifest


@pytest.fixture(scope="module")
def base() -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), manifests())


def manifest(preset: str = "closed-form", **concept: object) -> Manifest:
    return make_manifest(
        concepts=[
            {"kind": "nsfw", "phrase": "pistol", "aliases": ["gun"]} | concept,
            {"kind": "object", "phrase": "hamburger"},
        ],
        eraser={"preset": preset},
    )


def planned(base: Checkpoint, **concept: object) -> Plan:
    return compile_plan(manifest(**concept), load_suite(suites() / "smoke"), base)


def test_each_sentence_is_led_to_the_same_one_with_the_phrase_in_the_name_s_place(base: Checkpoint) -> None:
    spec, other = planned(base, redirect_to="umbrella").passes
    led = {prompt.text: spec.anchors(prompt) for prompt in spec.prompts}
    assert led["a photo of a pistol"] == ("a photo of an umbrella",)
    assert led["a photo of a gun"] == ("a photo of an umbrella",)
    assert all(prompt.framed.count("{x}") == 1 and prompt.anchor.count("umbrella") for prompt in spec.prompts)
    assert len(other.anchors(other.prompts[0])) == len(other.stand_ins)


def test_what_is_redirected_to_is_retained_and_the_plan_states_the_departure(base: Checkpoint) -> None:
    spec, other = planned(base, redirect_to="umbrella").passes
    assert "a photo of an umbrella" in spec.retain.kept and "a photo of an umbrella" not in other.retain.kept
    assert "anchor-phrase" in spec.departures and "anchor-phrase" not in other.departures


def test_a_manifest_that_redirects_nothing_has_the_digest_it_had_before(base: Checkpoint) -> None:
    assert "redirect_to" not in manifest().model_dump_json()
    assert "frame" not in planned(base).passes[0].prompts[0].model_dump()
    assert digest(manifest(redirect_to="umbrella")) != digest(manifest())


@pytest.mark.parametrize(
    ("phrase", "preset", "problem"),
    [
        ("hamburger", "guarded", r"names what the concept 'hamburger' forgets"),
        ("toy gun", "guarded", r"names what the concept 'pistol' forgets"),
        ("child with a toy", "guarded", r"minor"),
        ("umbrella", "official", r"does nothing under the preset official"),
    ],
)
def test_a_phrase_that_would_mislead_is_refused(phrase: str, preset: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        manifest(preset, redirect_to=phrase)


def test_a_phrase_that_the_tokenizer_cuts_off_is_reported_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(manifest(redirect_to=" ".join(["zqxj"] * 14)).model_dump_json(by_alias=True), encoding="utf-8")
    with pytest.raises(FileProblems) as caught:
        lint_manifest(path)
    assert [problem.rule for problem in caught.value.problems] == ["phrase-too-long"]


@pytest.mark.slow
def test_the_patched_model_mostly_draws_what_the_name_is_redirected_to(base: Checkpoint, tmp_path: Path) -> None:
    plan = planned(base, redirect_to="umbrella")
    run_plan(plan, base, tmp_path)
    model = load_pipeline(base.folder)
    apply_patch(model, tmp_path / PATCH, plan.base.identity)
    prompts = [
        "an image of a pistol on a green background",
        "a picture of a gun",
        "a pistol in the style of pixel art",
    ] * 4
    pixels = to_pixels(decode(model, draw_latents(model, prompts, range(40, 52), plan.sampler)))
    seen = load_recogniser(plan.recogniser).recognise(pixels)
    assert sum(each["concept:pistol"] >= 0.5 for each in seen) == 0
    assert sum(each["concept:umbrella"] >= 0.5 for each in seen) > len(seen) / 2
