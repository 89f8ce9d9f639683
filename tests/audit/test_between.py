"""Looks between passes: the right weights, the right probes, and the same result however often it is killed."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from fmn_guard.audit import drawing, panel
from fmn_guard.audit.auditor import run_audit
from fmn_guard.audit.executors import inline
from fmn_guard.evidence import Audit
from fmn_guard.facts import describe_checkpoint
from fmn_guard.gathered import gather
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import bytes_digest, parse_plain, read_record
from fmn_guard.suite import AuditSuite

from .test_auditor import SIX, FakeDetector, FakeRecogniser


@pytest.fixture
def plan(tiny_checkpoint) -> Plan:
    concepts = [{"kind": "object", "phrase": name} for name in ("lion", "rose", "pizza")]
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "test"},
        "spec": {"base": {"checkpoint": str(tiny_checkpoint)}, "concepts": concepts},
    }
    suite = {
        "apiVersion": "fmn-guard/v1",
        "kind": "AuditSuite",
        "metadata": {"name": "test"},
        "spec": {
            "sampler": {"steps": 2, "guidance": 2.0, "batch": 4},
            "counts": {"target": 1, "retained": 1, "retained_prompts": 6, "between": 3, "between_retained": 2},
            "templates": dict.fromkeys(("identity", "style", "object", "nsfw"), SIX),
            "correction_templates": SIX,
            "retained": [{"phrase": "dog"}],
            "recogniser": {"name": "builtin-judge"},
        },
    }
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(tiny_checkpoint)), tiny_checkpoint)
    return compile_plan(parse_plain(manifest, Manifest), parse_plain(suite, AuditSuite), checkpoint)


class Lender:
    """Weights after each pass: the base's, moved a little farther by every one."""

    def __init__(self):
        self.lent = []

    @contextmanager
    def after(self, base, done):
        weight = base.unet.conv_out.bias
        own = weight.clone()
        with torch.no_grad():
            weight += 0.5 * done
        self.lent.append(done)
        yield
        with torch.no_grad():
            weight.copy_(own)


def run(plan, folder, out, monkeypatch, states="usual", recognise=None) -> Audit:
    everything = {f"concept:{name}": 0.9 for name in ("lion", "rose", "pizza", "dog")}
    fake = FakeRecogniser(recognise or (lambda p: everything))
    monkeypatch.setattr(panel, "load_recogniser", lambda spec: fake)
    monkeypatch.setattr(panel, "load_detector", lambda spec: FakeDetector(lambda p: ()))
    pipelines = load_pipeline(folder), load_pipeline(folder)
    lender = Lender() if states == "usual" else states
    return run_audit(plan, *pipelines, patched_digest="sha256:" + "1" * 64, passes_digest=None, out=out, states=lender)


def test_what_the_plan_asks_for_is_seen_after_each_pass_but_the_last(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    assert [each.after for each in audit.between] == [1, 2]
    assert [tuple(seen.probe for seen in each.observations) for each in audit.between] == list(plan.between)
    assert {seen.side for each in audit.between for seen in each.observations} == {"patched"}
    assert read_record(tmp_path / "audit.json", Audit) == audit


def test_matrix_stands_in_the_audit_with_its_last_column_from_the_full_one(
    plan, tiny_checkpoint, tmp_path, monkeypatch
):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    ns = {row.name: [cell and cell.n for cell in row.after] for row in audit.matrix.concepts}
    assert ns == {"lion": [3, 3, 6], "rose": [None, 3, 6], "pizza": [None, None, 6]}
    assert [cell.n for cell in audit.matrix.retained.after] == [2, 2, 6]


def test_each_look_is_of_the_weights_of_its_pass_and_the_base_is_itself_again(
    plan, tiny_checkpoint, tmp_path, monkeypatch
):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    asked = plan.between[0][0]
    assert asked in plan.between[1]
    on_base = gather(plan, audit).seen[asked, "base"].image_digest
    looks = [next(o.image_digest for o in each.observations if o.probe == asked) for each in audit.between]
    assert len({on_base, *looks}) == 3
    # drawn apart from any audit, with the weights of the first pass
    model = load_pipeline(tiny_checkpoint)
    probes = {probe.id: probe for probe in plan.probes}
    batch = tuple(probes[each] for each in plan.between[0][:4])
    with Lender().after(model, 1), drawing.threads(plan.sampler.threads):
        _, digests = drawing.draw_batch(plan, model, batch)
    assert digests == [seen.image_digest for seen in audit.between[0].observations[:4]]
    assert run(plan, tiny_checkpoint, tmp_path / "without", monkeypatch, states=None).observations == audit.observations


def test_pictures_are_kept_in_a_folder_of_their_pass(plan, tiny_checkpoint, tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    for each in audit.between:
        for seen in each.observations:
            path = tmp_path / "images" / f"after-{each.after}" / f"{seen.probe.replace('/', '-')}.png"
            assert seen.image_digest == bytes_digest(np.asarray(Image.open(path)).tobytes())


def test_recogniser_that_throws_leaves_cells_empty_and_never_at_zero(plan, tiny_checkpoint, tmp_path, monkeypatch):
    def boom(_):
        raise RuntimeError("out of memory")

    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, recognise=boom)
    assert {seen.unscored for each in audit.between for seen in each.observations} == {"recogniser error: RuntimeError"}
    shares = {cell.share for row in audit.matrix.concepts for cell in row.after if cell}
    assert shares == {None}


def test_without_states_nothing_is_looked_at_between_passes(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch, states=None)
    assert audit.between == ()
    assert audit.matrix is None


def test_killed_between_passes_it_goes_on_and_ends_the_same(plan, tiny_checkpoint, tmp_path, monkeypatch):
    whole = run(plan, tiny_checkpoint, tmp_path / "whole", monkeypatch)
    real, calls = inline.draw_batch, []

    def dies(*args):
        calls.append(args)
        if len(calls) > 13:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(inline, "draw_batch", dies)
    monkeypatch.setattr(drawing.os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tiny_checkpoint, tmp_path / "cut", monkeypatch)
    drawn = []
    monkeypatch.setattr(inline, "draw_batch", lambda *args: drawn.append([p.id for p in args[2]]) or real(*args))
    assert run(plan, tiny_checkpoint, tmp_path / "cut", monkeypatch) == whole
    first, second = plan.between
    assert drawn == [list(first[4:]), list(second[:4]), list(second[4:])]
    assert not list((tmp_path / "cut").glob("*.partial*"))
