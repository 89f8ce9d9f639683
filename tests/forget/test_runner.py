"""A sequence of passes: order, resume, records, and the patch they leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget import runner
from fmn_guard.forget.patch import edits_after, read_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import text_states
from fmn_guard.plan import compile_plan
from fmn_guard.shipped import suites
from fmn_guard.suite import load_suite
from tests.builder import make_manifest


def planned(folder, beside, concepts, **eraser):
    manifest = make_manifest(folder, concepts=concepts, eraser={"steps": 2, "learning_rate": 0.01} | eraser)
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), beside)
    plan = compile_plan(manifest, load_suite(suites() / "smoke"), checkpoint)
    return smaller(plan), checkpoint


def smaller(plan):
    """The same passes with less of a language to keep, and on one thread: seconds instead of minutes."""
    passes = []
    for spec in plan.passes:
        retain = spec.retain.model_copy(update={"sentences": 40, "pictures": 4})
        less = {"retain": retain, "stand_ins": spec.stand_ins[:2], "threads": 1}
        passes.append(spec.model_copy(update=less))
    return plan.model_copy(update={"passes": tuple(passes)})


THREE = [
    {"kind": "object", "phrase": "lion"},
    {"kind": "style", "phrase": "ink drawing"},
    {"kind": "nsfw", "phrase": "pistol"},
]


def test_passes_run_in_the_manifest_s_order_and_leave_a_patch_bound_to_the_base(tiny_checkpoint, tmp_path):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE)
    records = run_plan(plan, checkpoint, tmp_path)
    assert [r.slug for r in records.passes] == ["lion", "ink-drawing", "pistol"]
    patch = read_patch(tmp_path / "patch.safetensors")
    assert patch.base_digest == checkpoint.facts.identity
    assert patch.concepts == ("lion", "ink-drawing", "pistol")
    assert [part.facts.kind for part in patch.parts] == ["object", "style", "nsfw"]
    assert all(part.facts.plan_digest == plan.digest and part.edits for part in patch.parts)


def test_killed_after_any_pass_the_same_call_ends_with_the_same_patch(tiny_checkpoint, tmp_path, monkeypatch):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE)
    (tmp_path / "whole").mkdir()
    whole = run_plan(plan, checkpoint, tmp_path / "whole")
    real = runner._run_pass
    for survives in (1, 2):
        out = tmp_path / f"cut{survives}"
        out.mkdir()
        done = []

        def dies(work, spec, done=done, survives=survives):
            if len(done) == survives:
                raise KeyboardInterrupt
            done.append(spec.slug)
            return real(work, spec)

        monkeypatch.setattr(runner, "_run_pass", dies)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, checkpoint, out)
        assert not (out / "passes.json").exists()
        resumed = []
        monkeypatch.setattr(runner, "_run_pass", lambda *args, seen=resumed: seen.append(args[1].slug) or real(*args))
        assert run_plan(plan, checkpoint, out) == whole
        assert resumed == ["lion", "ink-drawing", "pistol"][survives:]
        assert not list(out.glob("*.partial*"))


def test_a_partial_run_of_another_plan_is_not_resumed(tiny_checkpoint, tmp_path, monkeypatch):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE, seed=1)
    other, _ = planned(tiny_checkpoint, tmp_path, THREE, seed=2)
    real, started = runner._run_pass, []

    def dies(*args):
        if started:
            raise KeyboardInterrupt
        started.append(True)
        return real(*args)

    monkeypatch.setattr(runner, "_run_pass", dies)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, checkpoint, tmp_path)
    seen = []
    monkeypatch.setattr(runner, "_run_pass", lambda *args: seen.append(args[1].slug) or real(*args))
    run_plan(other, checkpoint, tmp_path)
    assert seen == ["lion", "ink-drawing", "pistol"]


def test_no_steps_leave_an_empty_patch(tiny_checkpoint, tmp_path):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE, steps=0)
    records = run_plan(plan, checkpoint, tmp_path)
    assert {r.stopped for r in records.passes} == {"no-steps"}
    assert all(part.edits == {} for part in read_patch(tmp_path / "patch.safetensors").parts)


def test_given_pictures_are_used_and_their_content_is_in_the_plan(tiny_checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    given = [{"kind": "object", "phrase": "lion", "images": "pictures"}]
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, given)
    first = run_plan(plan, checkpoint, tmp_path)
    drawn = run_plan(*planned(tiny_checkpoint, tmp_path, [{"kind": "object", "phrase": "lion"}]), tmp_path)
    assert first.passes[0].images_digest != drawn.passes[0].images_digest
    Image.new("RGB", (8, 8)).save(folder / "4.png")
    assert planned(tiny_checkpoint, tmp_path, given)[0].digest != plan.digest


def test_the_base_weights_are_never_changed(tiny_checkpoint, tmp_path, monkeypatch):
    loaded = []
    real = runner.load_pipeline
    monkeypatch.setattr(runner, "load_pipeline", lambda *args: loaded.append(real(*args)) or loaded[-1])
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE)
    run_plan(plan, checkpoint, tmp_path)
    fresh = real(tiny_checkpoint).unet.state_dict()
    assert all(torch.equal(fresh[name], weight) for name, weight in loaded[0].unet.state_dict().items())


def test_joint_pass_is_one_over_all_concepts(tiny_checkpoint, tmp_path):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE, sequence="joint")
    records = run_plan(plan, checkpoint, tmp_path)
    assert [(r.slug, r.steps) for r in records.passes] == [("joint", 3 * 2)]
    [part] = read_patch(tmp_path / "patch.safetensors").parts
    assert (part.facts.concepts, part.facts.kind) == (("lion", "ink-drawing", "pistol"), None)
    assert part.edits


def test_joint_pass_over_one_concept_is_the_pass_of_that_concept(tiny_checkpoint, tmp_path):
    patches = []
    for sequence in ("joint", "sequential"):
        plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE[:1], sequence=sequence)
        run_plan(plan, checkpoint, tmp_path / sequence)
        patches.append(edits_after(read_patch(tmp_path / sequence / "patch.safetensors").parts))
    assert patches[0].keys() == patches[1].keys()
    assert all(torch.equal(patches[0][name], edit) for name, edit in patches[1].items())


@pytest.mark.parametrize(("sequence", "on_others"), [("merge", False), ("mended", True)])
def test_passes_apart_and_in_turn_are_solved_as_one_and_resume_to_the_same_patch(
    tiny_checkpoint, tmp_path, monkeypatch, sequence, on_others
):
    plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE[:2], sequence=sequence)
    real, begun = runner._run_pass, []

    def seen(work, spec):
        begun.append((spec.slug, any(layer.edit.any() for layer in work.layers.values())))
        return real(work, spec)

    monkeypatch.setattr(runner, "_run_pass", seen)
    whole = run_plan(plan, checkpoint, tmp_path / "whole")
    assert begun == [("lion", False), ("ink-drawing", on_others)]
    assert [(r.slug, r.stopped) for r in whole.passes][-1] == ("merge", "merged")
    assert whole.passes[-1].drift > 0
    [part] = read_patch(tmp_path / "whole" / "patch.safetensors").parts
    assert part.facts.concepts == ("lion", "ink-drawing")

    def dies(*args):
        if args[1].slug == "ink-drawing":
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(runner, "_run_pass", dies)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, checkpoint, tmp_path / "cut")
    monkeypatch.setattr(runner, "_run_pass", real)
    assert run_plan(plan, checkpoint, tmp_path / "cut") == whole
    assert not list((tmp_path / "cut").glob("*.partial*"))


def test_mending_does_what_passes_did_to_their_names_and_costs_the_language_less(tiny_checkpoint, tmp_path):
    edits, records = {}, {}
    for sequence in ("sequential", "mended"):
        plan, checkpoint = planned(tiny_checkpoint, tmp_path, THREE, sequence=sequence, learning_rate=0.1)
        records[sequence] = run_plan(plan, checkpoint, tmp_path / sequence).passes
        edits[sequence] = edits_after(read_patch(tmp_path / sequence / "patch.safetensors").parts)
    assert records["mended"][:-1] == records["sequential"]
    assert records["mended"][-1].drift < records["sequential"][-1].drift
    assert set(records["mended"][-1].nearest).isdisjoint({"lion", "pistol"}) and records["mended"][-1].nearest
    # heads of random weights read about the mean of a sentence's states
    states = text_states(load_pipeline(tiny_checkpoint), ["a photo of a lion", "a photo of a pistol"]).mean(1)
    for name, edit in edits["sequential"].items():
        did = states @ edit.T
        assert (states @ edits["mended"][name].T - did).norm() < 0.5 * did.norm(), name
