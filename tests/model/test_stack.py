"""LoRA files fused into a base: the same weights as diffusers with peft makes of them, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from fmn_guard.cli import main
from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.export import exported
from fmn_guard.forget.patch import edits_after
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.checkpoint import quiet
from fmn_guard.model.original import slots
from fmn_guard.model.stack import STACK, Stack, fuse
from fmn_guard.record import file_digest, read_record
from fmn_guard.weights import shapes

from ..patched import make_patch
from ..tiny import save_tiny_family

RANK, ALPHA = 3, 6.0


@pytest.fixture(scope="module", params=("sd1", "sdxl"))
def folder(request, tmp_path_factory) -> Path:
    return save_tiny_family(tmp_path_factory.mktemp(request.param) / "checkpoint", request.param)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory) -> Path:
    return save_tiny_family(tmp_path_factory.mktemp("one") / "checkpoint", "sd1")


def checkpoint(folder):
    return describe_checkpoint(CheckpointRef(checkpoint=str(folder)), Path())


def parts_of(folder):
    names = ("unet", "text_encoder", "text_encoder_2")
    return {
        name: "diffusion_pytorch_model" if name == "unet" else "model" for name in names if (folder / name).is_dir()
    }


def trained(folder) -> dict[str, tuple[int, ...]]:
    """Weights that a LoRA is commonly trained on, by normalised name."""
    ends = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj", "conv1")
    every = shapes(folder, parts_of(folder))
    return {n: s for n, s in every.items() if n.endswith(tuple(f"{e}.weight" for e in ends))}


def factors(shape, seed) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator)
    return up / 10, torch.randn(RANK, *shape[1:], generator=generator) / 10


def kohya_key(name: str, xl: bool) -> str:
    part, _, layer = name.removesuffix(".weight").partition(".")
    second = "lora_te2" if part.endswith("_2") else "lora_te1" if xl else "lora_te"
    return (f"lora_unet_{layer}" if part == "unet" else f"{second}_text_model_{layer}").replace(".", "_")


def kohya(folder, path: Path, keys=kohya_key) -> dict[str, torch.Tensor]:
    """Writes a LoRA by kohya's names; returns what it adds, by normalised name."""
    tensors, added = {}, {}
    for seed, (name, shape) in enumerate(trained(folder).items()):
        up, down = factors(shape, seed)
        key = keys(name, (folder / "text_encoder_2").is_dir())
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(ALPHA)}
        added[name] = ALPHA / RANK * (up.flatten(1) @ down.flatten(1)).reshape(shape)
    save_file(tensors, path)
    return added


def weights(folder) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name.removeprefix('text_model.')}": tensor
        for part, stem in parts_of(folder).items()
        for name, tensor in load_file(folder / part / f"{stem}.safetensors").items()
    }


def assert_fused(folder, out, *changes):
    before, after = weights(folder), weights(out)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        whole = tensor + sum((weight * added[name] for weight, added in changes if name in added), torch.zeros(()))
        torch.testing.assert_close(after[name], whole, rtol=1e-5, atol=1e-6)


def test_every_layer_gets_the_change_that_its_factors_and_alpha_say(folder, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    changes = (0.5, kohya(folder, first)), (-1.25, kohya(folder, second))
    made = fuse(checkpoint(folder), {first: 0.5, second: -1.25}, tmp_path / "out")
    assert_fused(folder, tmp_path / "out", *changes)
    assert read_record(tmp_path / "out" / STACK, Stack) == made
    assert made.base_digest == checkpoint(folder).facts.identity
    assert made.weights_digest == checkpoint(tmp_path / "out").facts.weights_digest
    assert [(lora.file, lora.digest, lora.weight) for lora in made.loras] == [
        (first.name, file_digest(first), 0.5),
        (second.name, file_digest(second), -1.25),
    ]


def test_diffusers_fuses_the_same_weights(folder, tmp_path):
    path = tmp_path / "lora.safetensors"
    kohya(folder, path)
    fuse(checkpoint(folder), {path: 0.75}, tmp_path / "out")
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").is_dir() else StableDiffusionPipeline
    with quiet():
        pipeline = kind.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32)
        pipeline.load_lora_weights(tmp_path, weight_name=path.name, local_files_only=True)
        pipeline.fuse_lora(lora_scale=0.75)
        pipeline.unload_lora_weights()
    ours = weights(tmp_path / "out")
    for part in parts_of(folder):
        for name, tensor in getattr(pipeline, part).state_dict().items():
            key = f"{part}.{name.removeprefix('text_model.')}"
            if not key.endswith("position_ids"):
                torch.testing.assert_close(ours[key], tensor, rtol=1e-5, atol=1e-6)


def test_layers_may_go_by_the_names_of_the_original_file(folder, tmp_path):
    from fmn_guard.family import family_of

    def original(name, xl):
        if not name.startswith("unet."):
            return kohya_key(name, xl)
        place = slots(folder, family_of(folder), [name])[name].name
        return "lora_unet_" + place.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")

    added = kohya(folder, tmp_path / "lora.safetensors", original)
    fuse(checkpoint(folder), {tmp_path / "lora.safetensors": 1.0}, tmp_path / "out")
    assert_fused(folder, tmp_path / "out", (1.0, added))


@pytest.mark.parametrize("form", ["kohya", "diffusers"])
def test_our_own_exports_are_read(form, sd1, tmp_path):
    patch = make_patch(str(sd1), rank=2)
    path = tmp_path / "lora.safetensors"
    path.write_bytes(exported(patch, form))
    fuse(checkpoint(sd1), {path: 1.0}, tmp_path / "out")
    edits = {f"unet.{name}": edit for name, edit in edits_after(patch.parts).items()}
    assert_fused(sd1, tmp_path / "out", (1.0, edits))


def broken(kind: str, folder: Path, path: Path) -> str:
    """Damages a sound LoRA; returns the rule that it offends."""
    kohya(folder, path)
    tensors, metadata = load_file(path), {}
    down = next(name for name in tensors if name.endswith("lora_down.weight"))
    match kind:
        case "a layer that the base has not":
            tensors["lora_unet_nowhere.lora_down.weight"], rule = torch.zeros(3, 4), "unknown-tensor"
        case "a form that is not read":
            tensors[down.replace("lora_down.weight", "dora_scale")], rule = torch.zeros(3), "unknown-tensor"
        case "one factor":
            del tensors[down]
            rule = "half-lora"
        case "another shape":
            tensors[down], rule = torch.zeros(RANK, 7), "wrong-shape"
        case "rank 0":
            tensors[down], rule = torch.zeros(0, *tensors[down].shape[1:]), "wrong-shape"
        case "NaN":
            tensors[down], rule = torch.full_like(tensors[down], torch.nan), "not-finite"
        case "a layer twice":
            name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
            tensors |= {f"{name}.lora_A.weight": torch.zeros(1, 32), f"{name}.lora_B.weight": torch.zeros(32, 1)}
            rule = "tensor-twice"
        case "scaled by the root of the rank":
            metadata, rule = {"lora_adapter_metadata": json.dumps({"unet.use_rslora": True})}, "unknown-lora"
        case "nothing":
            tensors, metadata, rule = {}, {"format": "pt"}, "empty-lora"
    save_file(tensors, path, metadata)
    return rule


@pytest.mark.parametrize(
    "kind",
    [
        "a layer that the base has not",
        "a form that is not read",
        "one factor",
        "another shape",
        "rank 0",
        "NaN",
        "a layer twice",
        "scaled by the root of the rank",
        "nothing",
    ],
)
def test_what_would_fuse_another_model_is_refused_and_nothing_written(kind, sd1, tmp_path):
    path = tmp_path / "lora.safetensors"
    rule = broken(kind, sd1, path)
    with pytest.raises(RefusedArtefact, match=rf"lora\.safetensors: {rule}: "):
        fuse(checkpoint(sd1), {path: 1.0}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [path]


def test_pickles_are_refused_by_name_and_by_content(sd1, tmp_path):
    torch.save({"lora_unet_x.alpha": torch.zeros(1)}, tmp_path / "lora.pt")
    shutil.copy(tmp_path / "lora.pt", tmp_path / "lora.safetensors")
    for name, rule in (("lora.pt", "pickle"), ("lora.safetensors", "not-safetensors")):
        with pytest.raises(RefusedArtefact, match=rule):
            fuse(checkpoint(sd1), {tmp_path / name: 1.0}, tmp_path / "out")
    with pytest.raises(InputError, match="no LoRA"):
        fuse(checkpoint(sd1), {tmp_path / "none.safetensors": 1.0}, tmp_path / "out")


def test_command_reads_weights_and_prints_the_digest(sd1, tmp_path):
    path, out = tmp_path / "lora.safetensors", tmp_path / "out"
    kohya(sd1, path)
    done = CliRunner().invoke(main, ["fuse", str(sd1), str(out), "--lora", f"{path}=0.8"])
    assert done.exit_code == 0, done.output
    stack = read_record(out / STACK, Stack)
    assert (done.stdout.strip(), stack.loras[0].weight) == (stack.weights_digest, 0.8)
    for given, message in (([f"{path}=much"], "no number"), ([str(path), f"{path}=2"], "given twice")):
        loras = [part for each in given for part in ("--lora", each)]
        done = CliRunner().invoke(main, ["fuse", str(sd1), str(tmp_path / "other"), *loras])
        assert done.exit_code == 2 and message in done.stderr
        assert not (tmp_path / "other").exists()
