"""The model after each pass: what the auditor is lent is what the eraser had, and the base comes back whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fmn_guard.errors import BrokenChain
from fmn_guard.evidence import PassRecords
from fmn_guard.forget import runner
from fmn_guard.forget.patch import read_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.forget.states import PassStates, edits_after
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.record import file_digest

from .test_runner import THREE, planned


class Forgotten(NamedTuple):
    """A finished run, its records, and the edits as each pass left them."""

    run: Path
    passes: PassRecords
    left: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def forgotten(tiny_checkpoint, tmp_path_factory):
    left, real, run = [], runner._run_pass, tmp_path_factory.mktemp("run")

    def seen(pipeline, layers, *rest):
        record = real(pipeline, layers, *rest)
        left.append({name: layer.edit.clone() for name, layer in layers.items()})
        return record

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runner, "_run_pass", seen)
        return Forgotten(run, run_plan(*planned(tiny_checkpoint, run, THREE), run), left)


def test_state_after_a_pass_is_what_the_eraser_had_then(forgotten):
    run, passes, left = forgotten
    assert len(passes.states) == 2
    for done in (1, 2):
        edits = edits_after(run, passes, done)
        assert edits.keys() == left[done - 1].keys()
        assert all(torch.equal(edits[name], edit) for name, edit in left[done - 1].items())
    last = read_patch(run / "patch.safetensors")[1]
    assert all(torch.equal(last[name], edit) for name, edit in left[2].items())


def test_state_is_a_patch_of_the_concepts_forgotten_by_then_which_the_records_name_by_digest(forgotten):
    path = forgotten.run / "states" / "after-2.safetensors"
    facts, _ = read_patch(path)
    assert facts.concepts == ("lion", "ink-drawing")
    assert facts.plan_digest == forgotten.passes.plan_digest
    assert forgotten.passes.states[1] == file_digest(path)


def test_lent_weights_are_base_and_edits_and_the_base_comes_back_bit_for_bit(forgotten, tiny_checkpoint):
    run, passes, left = forgotten
    base, untouched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint).unet.state_dict()
    states = PassStates(run, passes)
    for done in (2, 1):
        with states.after(base, done):
            lent = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
        edits = left[done - 1]
        assert all(torch.equal(lent[n], untouched[n] + edits[n] if n in edits else untouched[n]) for n in untouched)
        assert all(torch.equal(weight, untouched[name]) for name, weight in base.unet.state_dict().items())


def test_base_comes_back_after_an_error_too(forgotten, tiny_checkpoint):
    base, untouched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint).unet.state_dict()
    with pytest.raises(KeyboardInterrupt), PassStates(forgotten.run, forgotten.passes).after(base, 1):
        raise KeyboardInterrupt
    assert all(torch.equal(weight, untouched[name]) for name, weight in base.unet.state_dict().items())


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"other")])
def test_state_that_the_eraser_did_not_leave_is_refused(forgotten, tmp_path, spoil):
    shutil.copytree(forgotten.run / "states", tmp_path / "states")
    spoil(tmp_path / "states" / "after-1.safetensors")
    with pytest.raises(BrokenChain, match="after-1"):
        edits_after(tmp_path, forgotten.passes, 1)


def test_single_pass_leaves_no_states(tiny_checkpoint, tmp_path):
    passes = run_plan(*planned(tiny_checkpoint, tmp_path, THREE[:1], steps=0), tmp_path)
    assert passes.states == ()
    assert not (tmp_path / "states").exists()
