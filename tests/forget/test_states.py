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
from fmn_guard.forget.patch import edits_after, read_patch
from fmn_guard.forget.runner import run_plan
from fmn_guard.forget.states import PassStates
from fmn_guard.model.checkpoint import load_pipeline

from .test_runner import THREE, planned


class Forgotten(NamedTuple):
    """A finished run, its records, and the edits as each pass left them."""

    run: Path
    passes: PassRecords
    left: list[dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def forgotten(tiny_checkpoint, tmp_path_factory):
    left, real, run = [], runner._run_pass, tmp_path_factory.mktemp("run")

    def seen(work, spec):
        record = real(work, spec)
        left.append({name: layer.edit.clone() for name, layer in work.layers.items()})
        return record

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runner, "_run_pass", seen)
        return Forgotten(run, run_plan(*planned(tiny_checkpoint, run, THREE), run), left)


def test_edits_of_the_first_passes_are_what_the_eraser_had_after_them(forgotten):
    parts = read_patch(forgotten.run / "patch.safetensors").parts
    assert [part.facts.concepts for part in parts] == [("lion",), ("ink-drawing",), ("pistol",)]
    for done, left in enumerate(forgotten.left, start=1):
        edits = edits_after(parts, done)
        assert all(torch.equal(edits[name], edit) for name, edit in left.items() if edit.any())


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
def test_patch_that_the_eraser_did_not_leave_is_refused(forgotten, tmp_path, spoil):
    path = shutil.copy(forgotten.run / "patch.safetensors", tmp_path)
    spoil(Path(path))
    with pytest.raises(BrokenChain, match=r"patch\.safetensors"):
        PassStates(tmp_path, forgotten.passes)
