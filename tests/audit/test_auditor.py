"""The auditor fails closed: whatever breaks is recorded as unscored, never dropped, never safe."""

from __future__ import annotations

import numpy as np
import pytest

from fmn_guard.audit import drawing, panel
from fmn_guard.audit.auditor import run_audit
from fmn_guard.audit.executors import inline
from fmn_guard.errors import MissingDependency
from fmn_guard.evidence import Audit, Instrument, Sighting
from fmn_guard.facts import describe_checkpoint
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import bytes_digest, parse_plain, read_record
from fmn_guard.suite import AuditSuite

SIX = ["an image of {x}", "an image of a {x}", "one {x}", "this {x}", "my {x}", "{x} on the left"]


class FakeRecogniser:
    """Knows one label and says what it is told to."""

    def __init__(self, answer):
        self.answer = answer
        self.instrument = Instrument(
            name="fake", version="1", licence="none", weights_digest=None, labels=("concept:lion",)
        )

    def recognise(self, pixels):
        return [self.answer(p) for p in pixels]


class FakeDetector:
    def __init__(self, answer):
        self.answer = answer
        labels = ("FACE_MALE", "FEMALE_BREAST_EXPOSED")
        self.instrument = Instrument(name="nudenet", version="1", licence="none", weights_digest=None, labels=labels)

    def detect(self, pixels):
        return self.answer(pixels)


@pytest.fixture
def plan(tiny_checkpoint) -> Plan:
    return plan_for(tiny_checkpoint)


def plan_for(folder, **detector) -> Plan:
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "test"},
        "spec": {"base": {"checkpoint": str(folder)}, "concepts": [{"kind": "object", "phrase": "lion"}]},
    }
    suite = {
        "apiVersion": "fmn-guard/v1",
        "kind": "AuditSuite",
        "metadata": {"name": "test"},
        "spec": {
            "sampler": {"steps": 2, "guidance": 2.0, "batch": 4},
            "counts": {"target": 1, "retained": 1, "retained_prompts": 1},
            "templates": dict.fromkeys(("identity", "style", "object", "nsfw"), SIX),
            "correction_templates": SIX,
            "retained": [{"phrase": "rose"}],
            "recogniser": {"name": "builtin-judge"},
            "detectors": [{"name": "nudenet", **detector}],
        },
    }
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(folder)), folder)
    return compile_plan(parse_plain(manifest, Manifest), parse_plain(suite, AuditSuite), checkpoint)


def run(plan, folder, out, monkeypatch, recognise=None, detect=lambda pixels: ()) -> Audit:
    everything = {"concept:lion": 0.9, "concept:rose": 0.9, "concept:none": 0.1}
    monkeypatch.setattr(panel, "load_recogniser", lambda spec: FakeRecogniser(recognise or (lambda p: everything)))
    monkeypatch.setattr(panel, "load_detector", lambda spec: FakeDetector(detect))
    pipelines = load_pipeline(folder), load_pipeline(folder)
    return run_audit(plan, *pipelines, patched_digest="sha256:" + "1" * 64, passes_digest=None, out=out)


def boom(_):
    raise RuntimeError("out of memory")


def test_both_sides_of_every_probe_are_observed_in_plan_order(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    ids = [p.id for p in plan.probes]
    assert [o.probe for o in audit.observations] == ids + ids
    assert all(o.unscored is None and o.scores for o in audit.observations)
    assert read_record(tmp_path / "audit.json", Audit) == audit


def test_same_weights_draw_the_same_pixels_on_both_sides(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    half = len(plan.probes)
    assert [o.image_digest for o in audit.observations[:half]] == [o.image_digest for o in audit.observations[half:]]


def test_more_workers_see_the_same_pictures(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audits = []
    for cores in (1, 8):
        monkeypatch.setattr(drawing.os, "cpu_count", lambda cores=cores: cores)
        audits.append(run(plan, tiny_checkpoint, tmp_path / str(cores), monkeypatch))
    assert audits[0] == audits[1]


def test_a_recogniser_that_throws_leaves_every_picture_unscored(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, recognise=boom)
    assert {o.unscored for o in audit.observations} == {"recogniser error: RuntimeError"}
    assert all(not o.scores for o in audit.observations)


def test_a_label_the_recogniser_does_not_know_is_unscored(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, recognise=lambda p: {"concept:none": 1.0})
    assert "recogniser has no class 'concept:lion'" in {o.unscored for o in audit.observations}


@pytest.mark.parametrize("required", [True, False])
def test_a_detector_that_throws_leaves_the_picture_unscored(tiny_checkpoint, tmp_path, monkeypatch, required):
    plan = plan_for(tiny_checkpoint, required=required)
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, detect=boom)
    assert {o.unscored for o in audit.observations} == {"detector error: nudenet: RuntimeError"}
    assert all(o.sightings == {"nudenet": None} for o in audit.observations)


@pytest.mark.parametrize(("required", "unscored"), [(True, "detector error: nudenet: not available"), (False, None)])
def test_a_detector_that_is_not_installed_is_named_and_only_waited_for_when_required(
    tiny_checkpoint, tmp_path, monkeypatch, required, unscored
):
    def missing(spec):
        raise MissingDependency("nudenet", "nudenet")

    plan = plan_for(tiny_checkpoint, required=required)
    everything = {"concept:lion": 0.9, "concept:rose": 0.9, "concept:none": 0.1}
    monkeypatch.setattr(panel, "load_recogniser", lambda spec: FakeRecogniser(lambda p: everything))
    monkeypatch.setattr(panel, "load_detector", missing)
    pipelines = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    audit = run_audit(plan, *pipelines, patched_digest="sha256:" + "1" * 64, passes_digest=None, out=tmp_path)
    assert "not installed" in audit.instruments[1].error
    assert {o.unscored for o in audit.observations} == {unscored}


def test_explicit_pictures_are_never_written(plan, tiny_checkpoint, tmp_path, monkeypatch):
    nude = Sighting(label="FEMALE_BREAST_EXPOSED", score=0.3)
    run(plan, tiny_checkpoint, tmp_path, monkeypatch, detect=lambda p: (nude,))
    assert not list(tmp_path.rglob("*.png"))


def test_a_recogniser_that_does_not_load_is_named_and_nothing_is_scored(plan, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(panel, "load_recogniser", lambda spec: boom(spec))
    monkeypatch.setattr(panel, "load_detector", lambda spec: FakeDetector(lambda p: ()))
    pipelines = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    audit = run_audit(plan, *pipelines, patched_digest="sha256:" + "1" * 64, passes_digest=None, out=tmp_path)
    assert audit.instruments[0].error == "out of memory"
    assert all(o.unscored for o in audit.observations)


@pytest.mark.parametrize(("value", "why"), [(float("nan"), "picture is not a number"), (0.0, "picture is constant")])
def test_broken_pictures_are_degenerate_and_unscored(plan, tiny_checkpoint, tmp_path, monkeypatch, value, why):
    real = drawing.decode
    monkeypatch.setattr(drawing, "decode", lambda model, latents: real(model, latents) * 0 + value)
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    assert {o.unscored for o in audit.observations} == {why}
    assert all(o.degenerate for o in audit.observations)


def test_sightings_are_kept_with_class_and_score(plan, tiny_checkpoint, tmp_path, monkeypatch):
    box = Sighting(label="FACE_MALE", score=0.5)
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, detect=lambda p: (box,))
    assert audit.observations[0].sightings == {"nudenet": (box,)}


def test_an_audit_killed_in_between_goes_on_and_ends_the_same(plan, tiny_checkpoint, tmp_path, monkeypatch):
    whole = run(plan, tiny_checkpoint, tmp_path / "whole", monkeypatch)
    calls = 0
    real = inline.draw_batch

    def dies(*args):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(inline, "draw_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tiny_checkpoint, tmp_path / "cut", monkeypatch)
    assert not (tmp_path / "cut" / "audit.json").exists()
    calls = 100
    assert run(plan, tiny_checkpoint, tmp_path / "cut", monkeypatch) == whole
    assert calls < 100 + 2 * -(-len(plan.probes) // 4)
    assert not list((tmp_path / "cut").glob("*.partial*"))


def test_pictures_are_pixels_of_their_probe(plan, tiny_checkpoint, tmp_path, monkeypatch):
    from PIL import Image

    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    files = sorted((tmp_path / "images" / "base").glob("*.png"))
    assert len(files) == len(plan.probes)
    for probe, seen in zip(plan.probes, audit.observations, strict=False):
        pixels = np.asarray(Image.open(tmp_path / "images" / "base" / f"{probe.id.replace('/', '-')}.png"))
        assert seen.image_digest == bytes_digest(pixels.tobytes())
