"""The patch: bound to its base, free of tokens, exact."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.forget.patch import apply_patch, patched_digest, write_patch
from fmn_guard.model.checkpoint import load_pipeline

BASE, PLAN = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def edit_of(pipeline) -> torch.Tensor:
    shape = pipeline.unet.get_parameter(NAME).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_applying_adds_the_edit_exactly_and_touches_nothing_else(tiny_checkpoint, tmp_path):
    base, patched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    edit = edit_of(base)
    write_patch(tmp_path / "p.safetensors", {NAME: edit}, base_digest=BASE, plan_digest=PLAN, concepts=["lion"])
    apply_patch(patched, tmp_path / "p.safetensors", BASE)
    after = patched.unet.state_dict()
    for name, weight in base.unet.state_dict().items():
        assert torch.equal(after[name], weight + edit if name == NAME else weight)


def test_weights_that_did_not_change_are_left_out(tmp_path):
    path = tmp_path / "p.safetensors"
    write_patch(path, {NAME: torch.zeros(2, 2)}, base_digest=BASE, plan_digest=PLAN, concepts=[])
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == []
    assert patched_digest(path, BASE) == BASE


def test_a_patch_for_another_base_is_refused(tiny_checkpoint, tmp_path):
    pipeline = load_pipeline(tiny_checkpoint)
    path = tmp_path / "p.safetensors"
    write_patch(path, {NAME: edit_of(pipeline)}, base_digest=BASE, plan_digest=PLAN, concepts=["lion"])
    with pytest.raises(RefusedArtefact, match="made for the base"):
        apply_patch(pipeline, path, PLAN)


def test_a_patch_of_other_weights_is_refused(tiny_checkpoint, tmp_path):
    path = tmp_path / "p.safetensors"
    write_patch(path, {"no.such.weight": torch.ones(2)}, base_digest=BASE, plan_digest=PLAN, concepts=["lion"])
    with pytest.raises(RefusedArtefact, match="has no weight"):
        apply_patch(load_pipeline(tiny_checkpoint), path, BASE)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_damaged_file_is_refused(tiny_checkpoint, tmp_path, content):
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedArtefact):
        apply_patch(load_pipeline(tiny_checkpoint), path, BASE)


def test_a_lora_that_is_no_patch_is_refused(tiny_checkpoint, tmp_path):
    path = tmp_path / "p.safetensors"
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(RefusedArtefact, match="no fmn-guard patch"):
        apply_patch(load_pipeline(tiny_checkpoint), path, BASE)


def test_a_missing_file_is_bad_input(tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="no patch"):
        apply_patch(load_pipeline(tiny_checkpoint), tmp_path / "none.safetensors", BASE)
