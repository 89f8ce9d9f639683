"""Loading and saving weights: exact, safetensors only, whole or not at all."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.errors import InputError
from fmn_guard.model.checkpoint import load_pipeline, save_checkpoint
from fmn_guard.weights import weights_digest


def test_a_saved_checkpoint_loads_with_the_same_weights(tiny_checkpoint, tmp_path):
    before = load_pipeline(tiny_checkpoint)
    save_checkpoint(before, tmp_path / "copy")
    after = load_pipeline(tmp_path / "copy")
    for name, weight in before.unet.state_dict().items():
        assert torch.equal(weight, after.unet.state_dict()[name])
    assert weights_digest(tmp_path / "copy") == weights_digest(tiny_checkpoint)


def test_a_folder_in_use_is_not_overwritten(tiny_checkpoint, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        save_checkpoint(load_pipeline(tiny_checkpoint), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_broken_checkpoint_is_bad_input(tiny_checkpoint, tmp_path):
    (tmp_path / "model_index.json").write_text((tiny_checkpoint / "model_index.json").read_text())
    with pytest.raises(InputError, match="is missing"):
        load_pipeline(tmp_path)


def test_loading_prints_nothing(tiny_checkpoint, capfd):
    load_pipeline(tiny_checkpoint)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
