"""Patched checkpoints: what is audited is what is in them, and the base comes back byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.forget import folder as patched_folder
from fmn_guard.forget.combine import joined, only, without
from fmn_guard.forget.folder import patch_folder, repatch_folder, revert_folder
from fmn_guard.forget.patch import Patch, apply_patch, edits_after, read_patch, write_patch
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import load_pipeline

from ..patched import make_patch

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def described(folder: Path) -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint=str(folder)), Path())


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _plain(_: Path) -> None:
    """As diffusers saved it."""


def _half(folder: Path) -> None:
    """In half precision, with metadata and an odd number of elements before others, as a re-saved one may be."""
    weights = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS, {"format": "pt", "made_by": "somebody"})


def _sharded(folder: Path) -> None:
    """In two shards, as large ones are."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(weights)
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / "unet" / shard, {"format": "pt"})
        index |= dict.fromkeys(part, shard)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.fixture(params=[_plain, _half, _sharded], ids=["plain", "half", "sharded"])
def base(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "base")
    (folder / "LICENSE.txt").write_text("as the base came")
    request.param(folder)
    return folder


@pytest.fixture
def patch(tiny_checkpoint: Path, base: Path) -> Patch:
    return make_patch(tiny_checkpoint)._replace(base_digest=described(base).facts.identity)


@pytest.fixture
def patched(base: Path, patch: Patch, tmp_path: Path) -> Path:
    patch_folder(described(base), patch, Path("p"), tmp_path / "patched")
    return tmp_path / "patched"


def test_reverting_gives_every_byte_of_the_base_back(base: Path, patched: Path, tmp_path: Path) -> None:
    revert_folder(patched, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(base)


def test_what_is_in_the_folder_is_what_was_audited(base: Path, patch: Patch, patched: Path, tmp_path: Path) -> None:
    write_patch(tmp_path / "p.safetensors", patch)
    audited = load_pipeline(base)
    apply_patch(audited, tmp_path / "p.safetensors", patch.base_digest)
    shipped = load_pipeline(described(patched).folder)
    for name, weight in audited.unet.state_dict().items():
        assert torch.equal(shipped.unet.state_dict()[name], weight)


def test_plain_diffusers_loads_it(patched: Path, base: Path, patch: Patch) -> None:
    unet = UNet2DConditionModel.from_pretrained(patched, subfolder="unet")
    before = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
    edits = edits_after(patch.parts)
    for name, weight in before.named_parameters():
        wanted = weight.float() + edits[name] if name in edits else weight.float()
        assert torch.equal(unet.get_parameter(name).float(), wanted)
    assert {weight.dtype for weight in unet.parameters()} == {torch.float32}


def test_rounding_to_the_base_s_type_keeps_the_layout_and_can_be_reverted(
    base: Path, patch: Patch, tmp_path: Path
) -> None:
    patch_folder(described(base), patch, Path("p"), tmp_path / "rounded", "base")
    for file in (tmp_path / "rounded" / "unet").glob("*.safetensors"):
        before, after, edits = load_file(base / "unet" / file.name), load_file(file), edits_after(patch.parts)
        assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
        for name, weight in before.items():
            wanted = (weight.float() + edits[name]).to(weight) if name in edits else weight
            assert torch.equal(after[name], wanted)
    revert_folder(tmp_path / "rounded", tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(base)


def test_final_folder_holds_nothing_to_go_back_by(base: Path, patch: Patch, patched: Path, tmp_path: Path) -> None:
    patch_folder(described(base), patch, Path("p"), tmp_path / "final", revertible=False)
    wanted = {name: content for name, content in content_of(patched).items() if not name.startswith("fmn-guard/")}
    assert content_of(tmp_path / "final") == wanted
    with pytest.raises(InputError, match="no patched checkpoint"):
        revert_folder(tmp_path / "final", tmp_path / "back")


def test_folder_without_a_concept_is_the_one_that_never_had_it(
    base: Path, patch: Patch, patched: Path, tmp_path: Path
) -> None:
    repatch_folder(patched, lambda held: without(held, ["lion"]), tmp_path / "fewer")
    patch_folder(described(base), only(patch, ["pistol"]), Path("p"), tmp_path / "never")
    assert content_of(tmp_path / "fewer") == content_of(tmp_path / "never")


def test_concept_is_added_to_a_folder(base: Path, patch: Patch, tmp_path: Path) -> None:
    patch_folder(described(base), only(patch, ["lion"]), Path("p"), tmp_path / "one")
    repatch_folder(tmp_path / "one", lambda held: joined([held, only(patch, ["pistol"])]), tmp_path / "two")
    patch_folder(described(base), patch, Path("p"), tmp_path / "both")
    assert content_of(tmp_path / "two") == content_of(tmp_path / "both")
    assert not list(tmp_path.glob("*.part"))


def _one_base(tiny_checkpoint: Path, tmp_path: Path) -> tuple[Path, Patch]:
    return shutil.copytree(tiny_checkpoint, tmp_path / "base"), make_patch(tiny_checkpoint)


def test_patch_of_another_base_writes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    other = patch._replace(base_digest="sha256:" + "e" * 64)
    with pytest.raises(RefusedArtefact, match="made for the base"):
        patch_folder(described(base), other, Path("p"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_patch_of_weights_that_are_not_there_writes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    other = patch._replace(parts=(patch.parts[0]._replace(edits={"no.weight": torch.ones(2)}),))
    with pytest.raises(RefusedArtefact, match="has no weight"):
        patch_folder(described(base), other, Path("p"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_nothing_is_overwritten(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        patch_folder(described(base), patch, Path("p"), tmp_path / "out")
    assert content_of(tmp_path / "out") == {"mine": b"mine"}


def test_what_is_patched_is_not_patched_again(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    patch_folder(described(base), patch, Path("p"), tmp_path / "out")
    on_top = patch._replace(base_digest=described(tmp_path / "out").facts.identity)
    with pytest.raises(InputError, match="patched already"):
        patch_folder(described(tmp_path / "out"), on_top, Path("p"), tmp_path / "twice")


def test_killed_in_the_middle_leaves_no_folder_and_the_same_call_goes_on(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    # what SIGKILL leaves: nobody cleans up
    monkeypatch.setattr(patched_folder.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(patched_folder, "write_patch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        patch_folder(described(base), patch, Path("p"), tmp_path / "out")
    assert (tmp_path / "out.part").is_dir() and not (tmp_path / "out").exists()
    monkeypatch.undo()
    patch_folder(described(base), patch, Path("p"), tmp_path / "out")
    assert read_patch(tmp_path / "out" / "fmn-guard" / "patch.safetensors").facts == patch.facts
    assert not (tmp_path / "out.part").exists()


def _other_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["conv_in.weight"] += 1
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def _no_originals(folder: Path) -> None:
    (folder / "fmn-guard" / "originals.safetensors").unlink()


def _other_encoder(folder: Path) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weight + 1 for name, weight in weights.items()}, file, {"format": "pt"})


def _short_originals(folder: Path) -> None:
    file = folder / "fmn-guard" / "originals.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def _short_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_in.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def _files_outside(folder: Path) -> None:
    file = folder / "fmn-guard" / "originals.safetensors"
    content = file.read_bytes().replace(b"unet/diffusion_pytorch_model", b"../../out_of_all_the_folders")
    file.write_bytes(content)
    (folder / "../../out_of_all_the_folders.safetensors").write_bytes((folder / WEIGHTS).read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        _short_weights,
        _without_a_weight,
        _files_outside,
        _other_weights,
        _no_originals,
        _other_encoder,
        _short_originals,
    ],
)
def test_folder_that_was_changed_is_not_reverted_to_something_else(
    tiny_checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    base, patch = _one_base(tiny_checkpoint, tmp_path)
    patch_folder(described(base), patch, Path("p"), tmp_path / "out")
    spoil(tmp_path / "out")
    before = content_of(tmp_path)
    with pytest.raises(RefusedArtefact):
        revert_folder(tmp_path / "out", tmp_path / "back")
    assert content_of(tmp_path) == before
    assert not (tmp_path / "back.part").exists()


def test_folder_that_is_not_patched_cannot_be_reverted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no patched checkpoint"):
        revert_folder(tiny_checkpoint, tmp_path / "back")
