"""The patch: bound to its base, free of tokens, its passes apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.forget.factors import dense
from fmn_guard.forget.patch import (
    METADATA_KEY,
    Patch,
    PatchFacts,
    apply_patch,
    edits_after,
    patched_digest,
    read_patch,
    write_patch,
)
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.record import canonical_json

from ..patched import make_patch

OTHER = "sha256:" + "b" * 64


@pytest.fixture
def patch(tiny_checkpoint: Path) -> Patch:
    return make_patch(tiny_checkpoint, ("lion", "ink-drawing", "pistol"))


@pytest.fixture
def path(patch: Patch, tmp_path: Path) -> Path:
    write_patch(tmp_path / "p.safetensors", patch)
    return tmp_path / "p.safetensors"


def test_applying_adds_the_sum_of_all_passes_exactly_and_touches_nothing_else(tiny_checkpoint, patch, path):
    base, patched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    apply_patch(patched, path, patch.base_digest)
    after, edits = patched.unet.state_dict(), edits_after(patch.parts)
    assert edits
    for name, weight in base.unet.state_dict().items():
        assert torch.equal(after[name], weight + edits[name] if name in edits else weight)


def test_edits_after_a_pass_are_the_sum_of_those_up_to_it(patch):
    names = patch.parts[0].edits
    for passes in range(4):
        edits = edits_after(patch.parts, passes)
        assert list(edits) == (sorted(names) if passes else [])
        for name, edit in edits.items():
            wanted = sum(dense(part.edits[name]).double() for part in patch.parts[:passes])
            torch.testing.assert_close(edit.double(), wanted, rtol=1e-6, atol=1e-6)
    assert all(torch.equal(edit, edits_after(patch.parts, 3)[name]) for name, edit in edits_after(patch.parts).items())


def test_applying_some_passes_leaves_the_later_ones_out(tiny_checkpoint, patch, path):
    base, patched = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    apply_patch(patched, path, patch.base_digest, passes=1)
    name, edit = next(iter(edits_after(patch.parts[:1]).items()))
    assert torch.equal(patched.unet.get_parameter(name), base.unet.get_parameter(name) + edit)


def test_what_is_read_is_what_was_written(patch, path):
    again = read_patch(path)
    assert again.facts == patch.facts
    for part, other in zip(patch.parts, again.parts, strict=True):
        assert list(other.edits) == sorted(part.edits)
        assert all(torch.equal(dense(edit), dense(other.edits[name])) for name, edit in part.edits.items())


def test_same_patch_is_written_in_the_same_bytes(patch, path, tmp_path):
    write_patch(tmp_path / "again.safetensors", read_patch(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_patch_without_edits_is_the_base(patch, tmp_path):
    empty = patch._replace(parts=tuple(part._replace(edits={}) for part in patch.parts))
    write_patch(tmp_path / "p.safetensors", empty)
    assert patched_digest(tmp_path / "p.safetensors", patch.base_digest) == patch.base_digest
    assert read_patch(tmp_path / "p.safetensors").concepts == patch.concepts


def test_patch_with_edits_has_an_identity_of_its_own(patch, path):
    assert patched_digest(path, patch.base_digest) != patch.base_digest


def test_a_patch_of_an_older_version_is_one_part_of_all_its_concepts(tiny_checkpoint, patch, tmp_path):
    path, edits = tmp_path / "old.safetensors", edits_after(patch.parts)
    facts = {
        "schema_version": "fmn-guard/patch/v1",
        "base_digest": patch.base_digest,
        "plan_digest": OTHER,
        "concepts": ["lion", "pistol"],
    }
    save_file(edits, path, {METADATA_KEY: canonical_json(facts).decode()})
    read = read_patch(path)
    assert [part.facts.concepts for part in read.parts] == [("lion", "pistol")]
    pipeline, base = load_pipeline(tiny_checkpoint), load_pipeline(tiny_checkpoint)
    apply_patch(pipeline, path, patch.base_digest)
    for name, edit in edits.items():
        assert torch.equal(pipeline.unet.get_parameter(name), base.unet.get_parameter(name) + edit)


def test_a_patch_for_another_base_is_refused(tiny_checkpoint, path):
    with pytest.raises(RefusedArtefact, match="made for the base"):
        apply_patch(load_pipeline(tiny_checkpoint), path, OTHER)


@pytest.mark.parametrize("tensor", ["0/no.such.weight/delta", "0/conv_in.weight/delta"])
def test_a_patch_of_other_weights_is_refused(tiny_checkpoint, patch, tmp_path, tensor):
    _written(tmp_path / "p.safetensors", patch.facts, {tensor: torch.ones(2)})
    with pytest.raises(RefusedArtefact, match="has no weight"):
        apply_patch(load_pipeline(tiny_checkpoint), tmp_path / "p.safetensors", patch.base_digest)


def _written(path: Path, facts: PatchFacts, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path, {METADATA_KEY: canonical_json(facts).decode()})


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(2)},
        {"9/a.weight/delta": torch.ones(2)},
        {"-1/a.weight/delta": torch.ones(2)},
        {"0/a.weight/up": torch.ones(2, 1)},
        {"0/a.weight/up": torch.ones(2, 1), "0/a.weight/down": torch.ones(2, 1)},
        {"0/a.weight/up": torch.ones(2, 1), "0/a.weight/down": torch.ones(1, 2), "0/a.weight/delta": torch.ones(2, 2)},
        {"0/a.weight/token": torch.ones(2)},
    ],
    ids=lambda tensors: " ".join(tensors),
)
def test_tensors_that_do_not_belong_together_are_refused(patch, tmp_path, tensors):
    _written(tmp_path / "p.safetensors", patch.facts, tensors)
    with pytest.raises(RefusedArtefact, match="no fmn-guard patch that this version reads"):
        read_patch(tmp_path / "p.safetensors")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(RefusedArtefact):
        read_patch(path)


def test_every_truncation_is_refused(path, tmp_path):
    whole = path.read_bytes()
    for length in range(1, len(whole), len(whole) // 20):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(RefusedArtefact):
            read_patch(tmp_path / "cut.safetensors")


def test_a_lora_that_is_no_patch_is_refused(tmp_path):
    save_file({"x": torch.ones(1)}, tmp_path / "p.safetensors")
    with pytest.raises(RefusedArtefact, match="no fmn-guard patch"):
        read_patch(tmp_path / "p.safetensors")


def test_a_patch_of_a_newer_version_is_refused_with_a_hint(patch, tmp_path):
    facts = patch.facts.model_dump(mode="json") | {"schema_version": "fmn-guard/patch/v3"}
    save_file({}, tmp_path / "p.safetensors", {METADATA_KEY: json.dumps(facts)})
    with pytest.raises(RefusedArtefact) as error:
        read_patch(tmp_path / "p.safetensors")
    assert "newer version" in str(error.value.hint)


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="no patch"):
        read_patch(tmp_path / "none.safetensors")


def test_metadata_tells_concepts_and_nothing_that_was_typed(patch, path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [METADATA_KEY]
    said = json.loads(metadata[METADATA_KEY])
    assert set(said) == {"schema_version", "base_digest", "unet_bytes", "parts"}
    assert all(set(part) == {"concepts", "kind", "plan_digest", "metrics"} for part in said["parts"])
