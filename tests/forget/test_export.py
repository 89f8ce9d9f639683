"""Exports, read by their readers: diffusers with peft where it reads them, their published arithmetic elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.export import TOLERANCE, effect_lost, exported
from fmn_guard.forget.factors import Factors
from fmn_guard.forget.patch import Patch, edits_after
from fmn_guard.manifest import CheckpointRef
from fmn_guard.shipped import shipped_model

from ..patched import make_patch

BUILTIN = "builtin:emoji-sd"
FORMS = ("kohya", "diffusers", "diff")


@pytest.fixture(scope="module", params=[2, 60], ids=["low rank", "above the layers' own"])
def patch(request: pytest.FixtureRequest) -> Patch:
    return make_patch(BUILTIN, rank=request.param)


def written(folder: Path, patch: Patch, form: str) -> Path:
    path = folder / f"{form}.safetensors"
    path.write_bytes(exported(patch, form))
    return path


def plain_pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(
        shipped_model("emoji-sd"), safety_checker=None, use_safetensors=True, torch_dtype=torch.float32
    )


@torch.no_grad()
def predicted(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 8, pipeline.unet.config.cross_attention_dim, generator=generator)
    return pipeline.unet(x, torch.tensor([100, 800]), text).sample


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_plain_diffusers_draws_from_the_lora_what_the_patch_draws(form: str, patch: Patch, tmp_path: Path) -> None:
    base, wanted = plain_pipeline(), plain_pipeline()
    with torch.no_grad():
        for name, edit in edits_after(patch.parts).items():
            wanted.unet.get_parameter(name).add_(edit)
    before, after = predicted(base), predicted(wanted)
    file = written(tmp_path, patch, form)
    base.load_lora_weights(file.parent, weight_name=file.name)
    found = predicted(base)
    assert (after - before).abs().max() > 0.1
    assert (found - after).square().mean().sqrt() < TOLERANCE * (after - before).square().mean().sqrt()
    base.unload_lora_weights()
    assert torch.equal(predicted(base), before)


def test_kohya_s_arithmetic_gives_the_sum_of_all_passes(patch: Patch, tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path, patch, "kohya"))
    for name, edit in edits_after(patch.parts).items():
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        up, down = tensors.pop(f"{key}.lora_up.weight"), tensors.pop(f"{key}.lora_down.weight")
        alpha = tensors.pop(f"{key}.alpha")
        assert alpha == down.shape[0]  # a reader that knows nothing of alpha adds the same
        torch.testing.assert_close(alpha / down.shape[0] * up @ down, edit, rtol=1e-5, atol=1e-4)
    assert not tensors


def test_whole_differences_are_exact(patch: Patch, tmp_path: Path) -> None:
    tensors = load_file(written(tmp_path, patch, "diff"))
    edits = edits_after(patch.parts)
    assert len(tensors) == len(edits)
    for name, edit in edits.items():
        assert torch.equal(tensors["lora_unet_" + name.removesuffix(".weight").replace(".", "_") + ".diff"], edit)


def test_diffusers_metadata_says_rank_and_alpha(patch: Patch, tmp_path: Path) -> None:
    with safe_open(written(tmp_path, patch, "diffusers"), "pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
        ranks = {file.get_tensor(name).shape[0] for name in file.keys() if "lora_A" in name}  # noqa: SIM118
    assert ranks == {said["unet.r"]} == {said["unet.lora_alpha"]}
    assert all(module.endswith("attn2.to_v") for module in said["unet.target_modules"])


@pytest.mark.parametrize("form", FORMS)
def test_same_patch_is_exported_in_the_same_bytes_and_names_its_base(form: str, patch: Patch, tmp_path: Path) -> None:
    file = written(tmp_path, patch, form)
    assert file.read_bytes() == exported(patch, form)
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["fmn_guard"])["base_digest"] == patch.base_digest


@pytest.mark.parametrize("form", FORMS)
def test_check_tells_a_good_file_from_one_of_another_strength(form: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = describe_checkpoint(CheckpointRef(checkpoint=str(tiny_checkpoint)), Path())
    patch = make_patch(tiny_checkpoint)
    assert effect_lost(base, patch, written(tmp_path, patch, form), form) < TOLERANCE
    doubled = patch._replace(
        parts=tuple(p._replace(edits={n: _twice(e) for n, e in p.edits.items()}) for p in patch.parts)
    )
    assert effect_lost(base, patch, written(tmp_path, doubled, form), form) > 0.1


def _twice(edit):
    return Factors(2 * edit.up, edit.down) if isinstance(edit, Factors) else 2 * edit


def test_check_on_another_base_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    base = describe_checkpoint(CheckpointRef(checkpoint=BUILTIN), Path())
    patch = make_patch(tiny_checkpoint)
    with pytest.raises(RefusedArtefact):
        effect_lost(base, patch, written(tmp_path, patch, "diff"), "diff")


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_lora_of_what_is_no_matrix_is_refused_with_the_way_out(form: str, tiny_checkpoint: Path) -> None:
    patch = make_patch(tiny_checkpoint)
    with_bias = patch.parts[0]._replace(edits={"conv_in.bias": torch.ones(16)})
    with pytest.raises(InputError, match=r"conv_in\.bias") as error:
        exported(patch._replace(parts=(with_bias,)), form)
    assert "--format diff" in str(error.value.hint)
    assert exported(patch._replace(parts=(with_bias,)), "diff")


def test_patch_that_changes_nothing_is_not_exported(tiny_checkpoint: Path) -> None:
    patch = make_patch(tiny_checkpoint)
    with pytest.raises(InputError, match="changes nothing"):
        exported(patch._replace(parts=()), "kohya")


@pytest.mark.parametrize("form", FORMS)
def test_file_says_to_the_tools_that_read_it_which_base_it_is_for_and_names_no_concept(form, patch, tmp_path):
    base = describe_checkpoint(CheckpointRef(checkpoint=BUILTIN), Path())
    path = tmp_path / "out.safetensors"
    path.write_bytes(exported(patch, form, base))
    with safe_open(path, "pt") as file:
        spec = {key: value for key, value in file.metadata().items() if key.startswith("modelspec.")}
    assert spec["modelspec.sai_model_spec"] == "1.0.1"
    assert spec["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert spec["modelspec.implementation"].endswith("diffusers" if form == "diffusers" else "generative-models")
    assert spec["modelspec.resolution"] == "64x64"
    assert base.facts.weights_digest in spec["modelspec.description"]
    assert not any(slug in value for slug in patch.concepts for value in spec.values())
    plain = {name: tensor for name, tensor in load_file(written(tmp_path, patch, form)).items()}
    found = load_file(path)
    assert plain.keys() == found.keys() and all(torch.equal(plain[name], found[name]) for name in plain)
