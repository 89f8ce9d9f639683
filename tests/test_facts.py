"""Checkpoints: what is refused unread, and a digest of weights that only weights can change."""

from __future__ import annotations

import itertools
import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.facts import describe_checkpoint, list_pictures
from fmn_guard.manifest import CheckpointRef
from fmn_guard.tensors import tensor_rows
from fmn_guard.weights import weights_digest

from .paper import WEIGHT_FILES, WEIGHTS, Tensors, describe, save_paper_checkpoint, write_safetensors


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


def shard(folder: Path, part: str) -> None:
    """Puts each tensor of a part into a file of its own, beside an index."""
    whole = folder / WEIGHT_FILES[part]
    whole.unlink()
    shards = {f"{whole.stem}-0000{i}-of-00002.safetensors": name for i, name in enumerate(WEIGHTS[part], start=1)}
    for file, name in shards.items():
        write_safetensors(whole.with_name(file), {name: WEIGHTS[part][name]})
    index = {"weight_map": {name: file for file, name in shards.items()}}
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_digests_are_stable_under_resharding(part: str, folder: Path) -> None:
    before = describe(folder).facts
    shard(folder, part)
    assert describe(folder).facts == before


def test_digests_are_stable_under_metadata_and_the_order_of_tensors(folder: Path) -> None:
    before = describe(folder).facts
    tensors = dict(reversed(WEIGHTS["unet"].items()))
    write_safetensors(folder / WEIGHT_FILES["unet"], tensors, metadata={"format": "pt"})
    assert describe(folder).facts == before


def test_digests_are_stable_under_the_prefix_that_transformers_5_dropped(folder: Path) -> None:
    before = describe(folder).facts
    prefixed = {f"text_model.{name}": content for name, content in WEIGHTS["text_encoder"].items()}
    write_safetensors(folder / "text_encoder" / "model.safetensors", prefixed)
    assert describe(folder).facts == before


def test_buffer_that_is_no_weight_does_not_change_the_digest(folder: Path) -> None:
    before = describe(folder).facts
    positions = {"text_model.embeddings.position_ids": b"\x07" * 8}
    write_safetensors(folder / WEIGHT_FILES["text_encoder"], WEIGHTS["text_encoder"] | positions)
    assert describe(folder).facts == before


CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)


def set_key(config: Path, key: str, value: object) -> None:
    data = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(data | {key: value}, indent=4), encoding="utf-8")


@pytest.mark.parametrize("name", CONFIGS)
def test_identity_follows_every_configuration_and_leaves_the_weights_digest(name: str, folder: Path) -> None:
    before = describe(folder).facts
    set_key(folder / name, "beta_end", 0.5)
    after = describe(folder).facts
    assert after.config_digest != before.config_digest
    assert after.identity != before.identity
    assert after.weights_digest == before.weights_digest


@pytest.mark.parametrize("key", ["_diffusers_version", "transformers_version", "_name_or_path"])
def test_identity_does_not_follow_library_versions(key: str, folder: Path) -> None:
    before = describe(folder).facts
    for name in CONFIGS:
        set_key(folder / name, key, "9.9")
    assert describe(folder).facts == before


def test_identity_follows_weights_and_tokenizer(folder: Path) -> None:
    identities = [describe(folder).facts.identity]
    write_safetensors(folder / WEIGHT_FILES["vae"], {"decoder.weight": b"\x06" * 12})
    identities.append(describe(folder).facts.identity)
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    identities.append(describe(folder).facts.identity)
    assert len(set(identities)) == 3


def test_infinity_in_a_configuration_is_a_value_like_another(folder: Path) -> None:
    before = describe(folder).facts.identity
    set_key(folder / "scheduler" / "scheduler_config.json", "lambda_min_clipped", float("-inf"))
    assert describe(folder).facts.identity != before


@pytest.mark.parametrize("change", ["byte", "name", "shape", "part"])
def test_digest_of_weights_follows_the_weights(change: str, folder: Path) -> None:
    before = weights_digest(folder)
    match change:
        case "byte":
            write_safetensors(folder / WEIGHT_FILES["vae"], {"decoder.weight": b"\x05" * 11 + b"\x06"})
        case "name":
            write_safetensors(folder / WEIGHT_FILES["vae"], {"encoder.weight": b"\x05" * 12})
        case "shape":
            write_safetensors(folder / WEIGHT_FILES["vae"], {"decoder.weight": b"\x05" * 16})
        case "part":
            write_safetensors(folder / WEIGHT_FILES["vae"], WEIGHTS["unet"])
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
    weights = folder / WEIGHT_FILES["unet"]
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
    weights = snapshot / WEIGHT_FILES["unet"]
    weights.rename(blob)
    weights.symlink_to(blob)
    assert describe(snapshot).facts.picture_size == 64


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / WEIGHT_FILES["unet"]
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
    (folder / WEIGHT_FILES["unet"]).write_bytes(content)
    with pytest.raises(RefusedArtefact):
        describe(folder)


@pytest.mark.parametrize("offsets", [[[0, 8], [4, 16]], [[0, 4], [8, 16]], [[8, 0], [0, 16]], [[0, 8.0], [8, 16]]])
def test_tensors_that_overlap_or_leave_gaps_are_refused(offsets: list[list[int]], folder: Path) -> None:
    header = {str(i): {"dtype": "F32", "shape": [2], "data_offsets": pair} for i, pair in enumerate(offsets)}
    text = json.dumps(header).encode()
    (folder / WEIGHT_FILES["unet"]).write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
    with pytest.raises(RefusedArtefact, match="does not describe its tensors"):
        describe(folder)


def test_missing_shard_is_refused(folder: Path) -> None:
    shard(folder, "unet")
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    with pytest.raises(RefusedArtefact, match="missing shards"):
        describe(folder)


@pytest.mark.parametrize("weight_map", [None, {}, {"a": 1}, {"a": "../vae/diffusion_pytorch_model.safetensors"}])
def test_index_that_does_not_name_files_of_its_folder_is_refused(weight_map: object, folder: Path) -> None:
    shard(folder, "unet")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    with pytest.raises(RefusedArtefact):
        describe(folder)


@pytest.mark.parametrize(
    "name",
    [
        "unet/other.safetensors",
        "unet/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/deeper/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.fp16.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors.index.json",
        "vae/model.safetensors",
    ],
)
def test_weights_beside_those_that_the_loader_opens_are_refused(name: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    tensors: Tensors = {"decoy": b"\x09" * 4}
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps({"weight_map": {"decoy": "x.safetensors"}}), encoding="utf-8")
    else:
        write_safetensors(folder / name, tensors)
    with pytest.raises(RefusedArtefact, match=r"beside") as caught:
        describe(folder)
    assert caught.value.hint


def test_shard_that_no_index_names_is_refused(folder: Path) -> None:
    shard(folder, "unet")
    write_safetensors(folder / "unet" / "diffusion_pytorch_model-00003-of-00003.safetensors", {"decoy": b"\x09" * 4})
    with pytest.raises(RefusedArtefact, match="beside"):
        describe(folder)


def make_variant(folder: Path, part: str) -> None:
    weights = folder / WEIGHT_FILES[part]
    weights.rename(weights.with_name(f"{weights.stem}.fp16.safetensors"))


@pytest.mark.parametrize("part", list(WEIGHT_FILES))
def test_variant_of_one_part_alone_is_refused_because_a_loader_is_told_one_for_all(part: str, folder: Path) -> None:
    make_variant(folder, part)
    with pytest.raises(RefusedArtefact, match="different variants"):
        describe(folder)


def test_variant_of_all_parts_is_the_same_checkpoint(folder: Path) -> None:
    before = describe(folder).facts
    for part in WEIGHT_FILES:
        make_variant(folder, part)
    assert describe(folder).facts == before


@pytest.mark.parametrize("part", list(WEIGHT_FILES))
def test_config_that_names_other_weights_is_refused(part: str, folder: Path) -> None:
    set_key(folder / part / "config.json", "transformers_weights", "other.safetensors")
    with pytest.raises(RefusedArtefact, match="transformers_weights"):
        describe(folder)


def test_adapter_that_names_another_base_is_refused(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "/x"}', encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="adapter_config"):
        describe(folder)


def test_other_pipelines_are_refused(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}', encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="not StableDiffusionPipeline"):
        describe(folder)


def test_single_file_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(RefusedArtefact, match="single-file"):
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


def test_relative_checkpoint_is_beside_its_file_and_never_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_paper_checkpoint(tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="no checkpoint"):
        describe_checkpoint(CheckpointRef(checkpoint="model"), tmp_path)


@pytest.mark.parametrize("name", ["builtin:../models/emoji-sd", "builtin:.", "builtin:", "builtin:emoji-sd/unet"])
def test_name_of_a_built_in_model_is_no_path(name: str) -> None:
    with pytest.raises(InputError, match="no built-in model"):
        describe_checkpoint(CheckpointRef(checkpoint=name), Path())


def test_hub_id_needs_a_full_revision() -> None:
    with pytest.raises(InputError, match="needs a revision"):
        describe_checkpoint(CheckpointRef(checkpoint="someone/model"), Path())


# ---- prompts and pictures


def test_positions_of_a_name_count_from_the_start_token(folder: Path) -> None:
    checkpoint = describe(folder)
    assert checkpoint.token_positions("pistol", "pistol") == (1,)
    assert checkpoint.token_positions("a photo of a Pistol", "Pistol", 13) == (5,)
    with pytest.raises(InputError, match="no token of"):
        checkpoint.token_positions("a photo of van", "van gogh", 11)


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


# ---- the hub


def hub_folder(cache: Path, revision: str) -> Path:
    """A snapshot in the hub's cache, laid as its library does."""
    repository = cache / "models--someone--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    return save_paper_checkpoint(repository / "snapshots" / revision)


def test_pinned_snapshot_in_the_cache_is_found_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    revision = "5" * 40
    snapshot = hub_folder(tmp_path, revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = describe_checkpoint(CheckpointRef(checkpoint="someone/model", revision=revision), tmp_path / "elsewhere")
    assert found.folder == snapshot


def test_hub_id_that_cannot_be_fetched_is_bad_input_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="someone/model@55555555 cannot be fetched") as caught:
        describe_checkpoint(CheckpointRef(checkpoint="someone/model", revision="5" * 40), tmp_path)
    assert "give its path" in str(caught.value.hint)


# ---- finite numbers


EDGES = (0x00, 0x7F, 0x80, 0xEF, 0xF0, 0xFF), (0x7B, 0x7C, 0x7F, 0xFC, 0xFF)
NEARLY = [bytes(pair) for pair in itertools.product(*EDGES)]
"""The last two bytes of numbers at the edge of infinity."""


@pytest.mark.parametrize(("dtype", "code"), [("F16", "e"), ("F32", "f"), ("F64", "d"), ("BF16", "")])
@settings(deadline=None)
@given(data=st.data())
def test_file_is_finite_exactly_if_each_of_its_numbers_is(
    dtype: str, code: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = struct.calcsize(f"<{code}") if code else 2
    # patterns whose upper bytes are all ones, or nearly, come up by themselves too seldom
    number = st.binary(min_size=size, max_size=size) | st.builds(
        lambda low, high: low[: size - 2] + high, st.binary(min_size=size, max_size=size), st.sampled_from(NEARLY)
    )
    numbers = data.draw(st.lists(number, min_size=1, max_size=6))
    values = (struct.unpack(f"<{code}", n)[0] if code else struct.unpack("<f", b"\0\0" + n)[0] for n in numbers)
    file = tmp_path_factory.getbasetemp() / "numbers.safetensors"
    payload = b"".join(numbers)
    entry = {"dtype": dtype, "shape": [len(numbers)], "data_offsets": [0, len(payload)]}
    header = json.dumps({"a": entry}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + payload)
    if all(math.isfinite(value) for value in values):
        assert len(list(tensor_rows(file))) == 1
    else:
        with pytest.raises(RefusedArtefact, match="not-finite"):
            list(tensor_rows(file))
