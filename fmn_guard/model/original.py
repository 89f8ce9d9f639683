"""The original layout of Stable Diffusion: one file, whose names and shapes are those that the authors trained with.

Each weight of a diffusers folder has one slot in it, so that the way there and back is exact. What a slot is follows
from the configurations alone:

    UNet             blocks are counted through instead of by level
    autoencoder      levels of the decoder from the other end; attention as 1 x 1 convolutions
    text encoder     1.x and XL's first: CLIP with its names as they are; 2.x and XL's second: OpenCLIP, which has
                     queries, keys and values in one matrix and the projection on its side
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import RefusedArtefact, quoted
from ..family import STABLE_DIFFUSION_XL, Family
from ..jsonfile import read_object


class Slot(NamedTuple):
    """Where a weight is in the original layout.

    Attributes:
        name: Name of the tensor that holds it.
        form: ``plain``; ``third``, of its rows; ``turned``, transposed; ``pixel``, with two dimensions of 1 more.
        which: Which third, from 0.
    """

    name: str
    form: Literal["plain", "third", "turned", "pixel"] = "plain"
    which: int = 0

    def take(self, held: Tensor) -> Tensor:
        """The weight out of the tensor that holds it."""
        match self.form:
            case "third":
                return held.chunk(3)[self.which].contiguous()
            case "turned":
                return held.T.contiguous()
            case "pixel":
                return held[:, :, 0, 0].contiguous() if held.ndim == 4 else held
            case "plain":
                return held


def slots(folder: Path, family: Family, names: Iterable[str]) -> dict[str, Slot]:
    """Slots of weights.

    Args:
        folder: a diffusers folder, of which configurations are read.
        family: its family.
        names: normalised names of its weights, such as ``unet.conv_in.weight``.

    Raises:
        RefusedArtefact: the family has no such layout.
    """
    if family.denoiser != "unet":
        raise RefusedArtefact.of(
            folder,
            "no-single-file",
            f"a {family.pipeline} has no layout in one file that is known here: its authors publish parts apart",
            "keep it as a diffusers folder",
        )
    place: dict[str, Callable[[str], Slot]] = {
        "unet": _unet(read_object(folder / "unet" / "config.json")),
        "vae": _autoencoder(read_object(folder / "vae" / "config.json")),
        "text_encoder": _clip,
        "text_encoder_2": _open_clip,
    }
    prefixes = {
        "unet": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    }
    if family is STABLE_DIFFUSION_XL:
        prefixes["text_encoder"] = "conditioner.embedders.0.transformer.text_model."
    elif read_object(folder / "text_encoder" / "config.json").get("hidden_act", "quick_gelu") == "quick_gelu":
        prefixes["text_encoder"] = "cond_stage_model.transformer.text_model."
    else:
        place["text_encoder"], prefixes["text_encoder"] = _open_clip, "cond_stage_model.model."
    found = {}
    for name in names:
        part, _, own = name.partition(".")
        slot = place[part](own)
        found[name] = slot._replace(name=prefixes[part] + slot.name)
    return found


def from_original(held: Mapping[str, Tensor], wanted: Mapping[str, Slot], path: Path) -> dict[str, Tensor]:
    """Weights by normalised name out of a file in the original layout.

    Args:
        held: its tensors by name.
        wanted: from `slots`.
        path: the file, for messages.

    Raises:
        RefusedArtefact: one is missing.
    """
    if missing := sorted({slot.name for slot in wanted.values()} - held.keys()):
        raise RefusedArtefact.of(
            path,
            "missing-tensor",
            f"has no {quoted(missing[0])}, nor {len(missing) - 1} others" if missing[1:] else f"has no {missing[0]}",
            "give the configurations of this checkpoint's own family with --config; is it a whole checkpoint?",
        )
    return {name: slot.take(held[slot.name]) for name, slot in wanted.items()}


def to_original(weights: Mapping[str, Tensor], places: Mapping[str, Slot]) -> dict[str, Tensor]:
    """The tensors of a file in the original layout, sorted by name; the inverse of `from_original`."""
    made: dict[str, Tensor] = {}
    thirds: dict[str, list[tuple[int, Tensor]]] = {}
    for name, slot in places.items():
        weight = weights[name]
        match slot.form:
            case "third":
                thirds.setdefault(slot.name, []).append((slot.which, weight))
            case "turned":
                made[slot.name] = weight.T.contiguous()
            case "pixel":
                made[slot.name] = weight[:, :, None, None].contiguous() if weight.ndim == 2 else weight
            case "plain":
                made[slot.name] = weight
    for name, parts in thirds.items():
        made[name] = torch.cat([part for _, part in sorted(parts, key=lambda part: part[0])])
    return dict(sorted(made.items()))


def _replaced(name: str, table: Mapping[str, str]) -> str:
    """Replaces whole components of a dotted name."""
    pattern = "|".join(re.escape(old) for old in table)
    return re.sub(rf"(?<![^.])({pattern})(?![^.])", lambda match: table[match[1]], name)


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def _unet(config: dict[str, Any]) -> Callable[[str], Slot]:
    layers = config.get("layers_per_block", 2)
    crossed = ["CrossAttn" in block for block in config["up_block_types"]]

    def place(name: str) -> Slot:
        match re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
            case None:
                rest = _replaced(name, _OUTSIDE)
                return Slot(
                    _replaced(rest, _RESNET) if rest.startswith(("middle_block.0.", "middle_block.2.")) else rest
                )
            case found:
                way, kind, tail = found[1], found[3], found[5]
                level, layer = int(found[2]), int(found[4])
        if way == "down":
            block = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else layer)
            prefix = f"input_blocks.{block}"
        else:
            block = level * (layers + 1) + (layers if kind == "upsamplers" else layer)
            prefix = f"output_blocks.{block}"
        match kind:
            case "resnets":
                return Slot(f"{prefix}.0.{_replaced(tail, _RESNET)}")
            case "attentions":
                return Slot(f"{prefix}.1.{tail}")
            case "downsamplers":
                return Slot(f"{prefix}.0.{_replaced(tail, {'conv': 'op'})}")
            case _:
                return Slot(f"{prefix}.{2 if crossed[level] else 1}.{tail}")

    return place


_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "query": "q",
    "key": "k",
    "value": "v",
    "proj_attn": "proj_out",
}
_MIDDLE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}


def _autoencoder(config: dict[str, Any]) -> Callable[[str], Slot]:
    levels = len(config["block_out_channels"])

    def place(name: str) -> Slot:
        def block(found: re.Match[str]) -> str:
            way, level, kind = found[1], int(found[2]), found[3]
            level = level if way == "down" else levels - 1 - level
            return f"{way}.{level}.{f'block.{found[4]}' if kind == 'resnets' else f'{way}sample'}"

        own = re.sub(r"\b(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)", block, name)
        own = _replaced(own, _MIDDLE)
        if ".attn_1." not in own:
            return Slot(own)
        own = _replaced(own, _ATTENTION)
        return Slot(own, "plain" if ".norm." in own or own.endswith(".bias") else "pixel")

    return place


def _clip(name: str) -> Slot:
    return Slot(name)


_OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _open_clip(name: str) -> Slot:
    if name == "embeddings.position_embedding.weight":
        return Slot("positional_embedding")
    if name == "text_projection.weight":
        return Slot("text_projection", "turned")
    own = _replaced(name, _OPEN_CLIP)
    if found := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", own):
        return Slot(f"{found[1]}.attn.in_proj_{found[3]}", "third", "qkv".index(found[2]))
    return Slot(own)
