"""The patch as files that other programs load, and a look at whether they load them to the same effect.

Every form holds the sum of all passes in float32 at scale 1: a LoRA's alpha is its rank, so that a reader that knows of
alpha and one that does not add the same. A sum of passes whose rank would be that of the layer itself is written with a
unit matrix for one factor: no rank is too high to be exact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import InputError
from ..facts import Checkpoint
from ..model.checkpoint import load_pipeline, quiet
from ..model.conditioning import denoise, denoiser, text_states
from ..model.modelspec import lora_spec
from ..record import canonical_json
from .factors import Factors
from .patch import METADATA_KEY, Patch, check_base, edits_after
from .tensorfile import saved

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Form = Literal["kohya", "diffusers", "diff"]
"""LoRA as kohya's scripts name it, which ComfyUI and A1111 read; LoRA as diffusers saves it; whole differences by
kohya's names, of transformers by those of diffusers, which ComfyUI reads."""
TOLERANCE = 1e-3
"""How far what a reloaded file makes the model predict may be from what the patch makes it predict, as a share of the
patch's own effect: root mean squares."""
_TEXTS = ("a photo of a house", "two dogs, a cat and a bird", "an oil painting of the sea at night", "")
_LARGEST = 32
"""Height and width of the latents that are compared, at most: whether an edit is read rightly shows at any size."""


def exported(patch: Patch, form: Form, base: Checkpoint | None = None) -> bytes:
    """A patch in another form; the same bytes for the same patch and base.

    Args:
        patch: the patch.
        form: which.
        base: the checkpoint that it was made for, to say in the file what it is for (ModelSpec); None says nothing.

    Raises:
        InputError: it edits weights that the form cannot hold, or none.
    """
    edits = edits_after(patch.parts)
    if not edits:
        raise InputError("the patch changes nothing", hint="there is nothing to export")
    transformer = _of_transformer(edits)
    if transformer and form != "diff":
        raise InputError(
            "no LoRA that is known here is read for a transformer: diffusers' PixArt pipelines load none",
            hint="use --format diff, or write the patched checkpoint with `fmn-guard patch apply`",
        )
    facts = {METADATA_KEY: canonical_json(patch.facts).decode()}
    if base is not None:
        facts |= lora_spec(base.facts, base.folder, len(patch.concepts), diffusers=transformer or form == "diffusers")
    match form:
        case "kohya":
            return _kohya(_loras(patch), facts)
        case "diffusers":
            return _diffusers(_loras(patch), facts)
        case "diff":
            return saved({_difference(name, transformer): edit for name, edit in edits.items()}, facts)


@torch.no_grad()
def effect_lost(base: Checkpoint, patch: Patch, path: Path, form: Form, device: str = "cpu") -> float:
    """Loads an exported file onto a fresh base the way its readers do, and compares what the model then predicts.

    LoRAs are loaded by diffusers' ``load_lora_weights``; whole differences are added here by the names in the file,
    since no library does it.

    Returns:
        Root mean square of the difference between file and patch, as a share of the patch's effect.

    Raises:
        RefusedArtefact: the patch was made for another base.
    """
    check_base(path, patch, base.facts.identity)
    plain = load_pipeline(base.folder, device)
    inputs = _inputs(plain)
    before = denoise(plain, *inputs)
    edits = edits_after(patch.parts)
    _add(plain, edits)
    wanted = denoise(plain, *inputs)
    del plain  # one checkpoint at a time: those of SDXL take 14 GB
    reader = load_pipeline(base.folder, device)
    if form == "diff":
        transformer = _of_transformer(edits)
        by_name = {_difference(name, transformer): name for name, _ in denoiser(reader).named_parameters()}
        _add(reader, {by_name[name]: edit for name, edit in load_file(path).items()})
    else:
        with quiet():
            reader.load_lora_weights(path.parent, weight_name=path.name, local_files_only=True)
    found = denoise(reader, *inputs)
    return float((found - wanted).square().mean().sqrt() / (wanted - before).square().mean().sqrt())


def _loras(patch: Patch) -> dict[str, Factors]:
    """The sum of all passes as one pair of float32 factors a layer, by the layer's name."""
    loras = {}
    for name, total in edits_after(patch.parts).items():
        layer = name.removesuffix(".weight")
        if total.ndim != 2 or layer == name:
            raise InputError(
                f"the patch edits {name}, of shape {tuple(total.shape)}, which no LoRA can hold",
                hint="use --format diff",
            )
        edits = [part.edits[name] for part in patch.parts if name in part.edits]
        factors = [edit for edit in edits if isinstance(edit, Factors)]
        if len(factors) == len(edits) and sum(len(each.down) for each in factors) < min(total.shape):
            up = torch.cat([each.up.float() for each in factors], 1)
            loras[layer] = Factors(up, torch.cat([each.down.float() for each in factors]))
        elif total.shape[0] <= total.shape[1]:
            loras[layer] = Factors(torch.eye(total.shape[0]), total)
        else:
            loras[layer] = Factors(total, torch.eye(total.shape[1]))
    rank = max(len(each.down) for each in loras.values())
    return {layer: _padded(each, rank) for layer, each in loras.items()}


def _padded(lora: Factors, rank: int) -> Factors:
    """The same edit at a higher rank: where ranks differ, diffusers scales some layers wrongly."""
    missing = rank - len(lora.down)
    up = torch.nn.functional.pad(lora.up, (0, missing))
    return Factors(up.contiguous(), torch.nn.functional.pad(lora.down, (0, 0, 0, missing)).contiguous())


def _kohya(loras: Mapping[str, Factors], facts: Mapping[str, str]) -> bytes:
    tensors: dict[str, Tensor] = {}
    for layer, (up, down) in loras.items():
        key = f"lora_unet_{layer.replace('.', '_')}"
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
        tensors[f"{key}.alpha"] = torch.tensor(float(len(down)))
    rank = str(len(down))
    said = {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    return saved(tensors, {**facts, **said})


def _diffusers(loras: Mapping[str, Factors], facts: Mapping[str, str]) -> bytes:
    tensors: dict[str, Tensor] = {}
    for layer, (up, down) in loras.items():
        tensors |= {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}
    said = {"unet.r": len(down), "unet.lora_alpha": len(down), "unet.target_modules": sorted(loras)}
    return saved(tensors, {**facts, "lora_adapter_metadata": json.dumps(said, sort_keys=True)})


def _of_transformer(edits: Mapping[str, Tensor]) -> bool:
    """Whether a patch edits a transformer: the blocks of a UNet lie in others."""
    return any(name.startswith("transformer_blocks.") for name in edits)


def _difference(name: str, transformer: bool) -> str:
    """The name of a whole difference: ``a.b.weight`` is ``lora_unet_a_b.diff``, a bias ``.diff_b``.

    Of a transformer it is ``transformer.a.b.diff``.
    """
    layer, _, kind = name.rpartition(".")
    key = f"transformer.{layer}" if transformer else f"lora_unet_{layer.replace('.', '_')}"
    return f"{key}.{'diff_b' if kind == 'bias' else 'diff'}"


@torch.no_grad()
def _add(pipeline: StableDiffusionPipeline, edits: Mapping[str, Tensor]) -> None:
    for name, edit in edits.items():
        weight = denoiser(pipeline).get_parameter(name)
        weight += edit.to(weight)


def _inputs(pipeline: StableDiffusionPipeline) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, timesteps and texts that have nothing to do with one another."""
    generator = torch.Generator().manual_seed(0)
    config = denoiser(pipeline).config
    side = min(config.sample_size, _LARGEST)
    x = torch.randn(len(_TEXTS), config.in_channels, side, side, generator=generator)
    t = torch.linspace(0, len(pipeline.scheduler.alphas_cumprod) - 1, len(_TEXTS)).long()
    return x.to(pipeline.device), t.to(pipeline.device), text_states(pipeline, _TEXTS)
