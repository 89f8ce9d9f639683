"""Checkpoints: what is refused unread, and a digest of weights that only weights can change."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.facts import describe_checkpoint, list_pictures, weights_digest
from fmn_guard.manifest import CheckpointRef

from .paper import WEIGHTS, describe, save_paper_checkpoint, write_safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_paper_checkpoint(tmp_path / "model")


def test_facts_are_read_from_the_files(folder: Path) -> None:
    facts = describe(folder).facts
    assert facts.family == "stable-diffusion"
    assert facts.prediction_type == "v_prediction"
    assert facts.picture_size == 64
    assert facts.reference == str(folder)


def test_built_in_model_is_described() -> None:
    facts = describe_checkpoint(CheckpointRef(checkpoint="builtin:emoji-sd"), Path()).facts
    assert facts.picture_size == 64


# ---- digests


def test_digests_are_stable_under_resharding(folder: Path) -> None:
    before = describe(folder).facts
    part = folder / "unet"
    (part / "model.safetensors").unlink()
    shards = {f"model-0000{i}-of-00002.safetensors": [name] for i, name in enumerate(WEIGHTS["unet"], start=1)}
    for shard, names in shards.items():
        write_safetensors(part / shard, {name: WEIGHTS["unet"][name] for name in names})
    index = {"weight_map": {name: shard for shard, names in shards.items() for name in names}}
    (part / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert describe(folder).facts == before


def test_digests_are_stable_under_metadata_and_the_order_of_tensors(folder: Path) -> None:
    before = describe(folder).facts
    tensors = dict(reversed(WEIGHTS["unet"].items()))
    write_safetensors(folder / "unet" / "model.safetensors", tensors, metadata={"format": "pt"})
    assert describe(folder).facts == before


def test_digests_are_stable_under_the_prefix_that_transformers_5_dropped(folder: Path) -> None:
    before = describe(folder).facts
    prefixed = {f"text_model.{name}": content for name, content in WEIGHTS["text_encoder"].items()}
    write_safetensors(folder / "text_encoder" / "model.safetensors", prefixed)
    assert describe(folder).facts == before


@pytest.mark.parametrize("change", ["byte", "name", "shape", "part"])
def test_digest_of_weights_follows_the_weights(change: str, folder: Path) -> None:
    before = weights_digest(folder)
    match change:
        case "byte":
            write_safetensors(folder / "vae" / "model.safetensors", {"decoder.weight": b"\x05" * 11 + b"\x06"})
        case "name":
            write_safetensors(folder / "vae" / "model.safetensors", {"encoder.weight": b"\x05" * 12})
        case "shape":
            write_safetensors(folder / "vae" / "model.safetensors", {"decoder.weight": b"\x05" * 16})
        case "part":
            write_safetensors(folder / "vae" / "model.safetensors", WEIGHTS["unet"])
    assert weights_digest(folder) != before


# ---- refusals


@pytest.mark.parametrize("name", ["unet/model.bin", "unet/model.ckpt", "vae/x.pt", "extra/deep/x.pkl"])
def test_pickle_is_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    with pytest.raises(RefusedArtefact, match="pickle"):
        describe(folder)


def test_remote_code_is_refused(folder: Path) -> None:
    (folder / "unet" / "modeling.py").touch()
    with pytest.raises(RefusedArtefact, match="code inside a checkpoint"):
        describe(folder)


def test_link_to_a_file_outside_is_refused(folder: Path) -> None:
    weights = folder / "unet" / "model.safetensors"
    weights.rename(folder.parent / "elsewhere.safetensors")
    weights.symlink_to(folder.parent / "elsewhere.safetensors")
    with pytest.raises(RefusedArtefact, match="leaves the checkpoint"):
        describe(folder)


def test_link_to_a_folder_outside_is_refused(folder: Path) -> None:
    (folder / "unet").rename(folder.parent / "elsewhere")
    (folder / "unet").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(RefusedArtefact, match="leaves the checkpoint"):
        describe(folder)


def test_links_of_a_hub_snapshot_are_followed(tmp_path: Path) -> None:
    snapshot = save_paper_checkpoint(tmp_path / "models--a--b" / "snapshots" / ("0" * 40))
    blob = tmp_path / "models--a--b" / "blobs" / "1234"
    blob.parent.mkdir()
    weights = snapshot / "unet" / "model.safetensors"
    weights.rename(blob)
    weights.symlink_to(blob)
    assert describe(snapshot).facts.picture_size == 64


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / "unet" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RefusedArtefact, match="its header says"):
        describe(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04" + b"\0" * 100,
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 4) + b"{{{{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 10) + b'{"a": {}} ',
    ],
)
def test_file_that_is_no_safetensors_is_refused(content: bytes, folder: Path) -> None:
    (folder / "unet" / "model.safetensors").write_bytes(content)
    with pytest.raises(RefusedArtefact):
        describe(folder)


@pytest.mark.parametrize("offsets", [[[0, 8], [4, 16]], [[0, 4], [8, 16]], [[8, 0], [0, 16]], [[0, 8.0], [8, 16]]])
def test_tensors_that_overlap_or_leave_gaps_are_refused(offsets: list[list[int]], folder: Path) -> None:
    header = {str(i): {"dtype": "F32", "shape": [2], "data_offsets": pair} for i, pair in enumerate(offsets)}
    text = json.dumps(header).encode()
    (folder / "unet" / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(RefusedArtefact, match="does not describe its tensors"):
        describe(folder)


def test_missing_shard_is_refused(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "unet" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="missing shards"):
        describe(folder)


def test_two_files_of_weights_are_refused(folder: Path) -> None:
    write_safetensors(folder / "unet" / "other.safetensors", {})
    with pytest.raises(RefusedArtefact, match="2 safetensors files"):
        describe(folder)


def test_other_pipelines_are_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}', encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="not StableDiffusionPipeline"):
        describe(folder)


def test_single_file_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RefusedArtefact, match="from_single_file"):
        describe(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_index.json", None, "is missing"),
        ("model_index.json", "{", "is not JSON"),
        ("model_index.json", "[]", "does not hold an object"),
        ("unet/config.json", "{}", "sample_size is None"),
        ("vae/config.json", "{}", "block_out_channels is None"),
        ("tokenizer/tokenizer_config.json", "{}", "model_max_length is None"),
        ("tokenizer/tokenizer.json", None, "no tokenizer"),
        ("tokenizer/tokenizer.json", "{}", "cannot be read"),
    ],
)
def test_incomplete_checkpoint_is_bad_input(name: str, content: str | None, message: str, folder: Path) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        describe(folder)
    assert caught.value.hint


def test_hub_id_needs_a_full_revision() -> None:
    with pytest.raises(InputError, match="needs a revision"):
        describe_checkpoint(CheckpointRef(checkpoint="someone/model"), Path())


# ---- prompts and pictures


def test_positions_of_a_name_count_from_the_start_token(folder: Path) -> None:
    checkpoint = describe(folder)
    assert checkpoint.token_positions("pistol", "pistol") == (1,)
    assert checkpoint.token_positions("a photo of a pistol", "Pistol") == (5,)
    with pytest.raises(InputError, match="no token of"):
        checkpoint.token_positions("a photo of van", "van gogh")


def test_picture_digest_follows_names_and_bytes(folder: Path) -> None:
    pictures = folder.parent / "pictures"
    pictures.mkdir()
    with pytest.raises(InputError, match="holds no"):
        list_pictures(pictures)
    (pictures / "a.png").write_bytes(b"1")
    (pictures / "notes.txt").write_bytes(b"2")
    one = describe(folder).image_folder_digest("pictures")
    (pictures / "notes.txt").write_bytes(b"3")
    assert describe(folder).image_folder_digest("pictures") == one
    (pictures / "a.png").rename(pictures / "b.PNG")
    assert describe(folder).image_folder_digest("pictures") != one
