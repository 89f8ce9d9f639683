"""Whether files fit together, found out before weights are read: classes are built without memory for their weights.

Loaders fill what is missing in with random numbers, and leave out what they do not know: either is another model than
the one that was published.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ..errors import RefusedArtefact, quoted
from ..family import Family, family_of
from ..jsonfile import read_object
from ..tokens import Tokens
from ..weights import normalised, shapes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_AGAIN = "download the checkpoint again, or re-save it with diffusers' save_pretrained"
# What attention of the autoencoder was called before diffusers 0.18; it still loads.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# T5's encoder has its embeddings under two names; files hold them under one or both.
_TWICE = frozenset({"text_encoder.encoder.embed_tokens.weight"})
_EMBEDDINGS = (".token_embedding.weight", ".shared.weight")
_OLD_NAME = re.compile(rf"^(vae\..*attentions\.\d+\.)({'|'.join(_OLD_NAMES)})\.")


def refuse_misfits(folder: Path) -> None:
    """Compares the weights of a checkpoint, by name and shape, with what its configurations ask for.

    Args:
        folder: a folder that `fmn_guard.facts.describe_checkpoint` has accepted.

    Raises:
        RefusedArtefact: a tensor is missing, unknown or of another shape, or a configuration is nonsense.
    """
    family = family_of(folder)
    stored = {
        _OLD_NAME.sub(lambda m: f"{m[1]}{_OLD_NAMES[m[2]]}.", name): shape
        for name, shape in shapes(folder, family.parts).items()
    }
    for part in family.parts:
        wanted = expected_shapes(folder / part, part, family)
        held = {name: shape for name, shape in stored.items() if name.startswith(f"{part}.")}
        for name in sorted(wanted.keys() | held.keys()):
            if wanted.get(name) == held.get(name) or (name not in held and name in _TWICE):
                continue
            if name not in held:
                rule, message = "missing-tensor", f"has no {quoted(name)} of shape {wanted[name]}"
            elif name not in wanted:
                rule, message = "unknown-tensor", f"holds {quoted(name)}, which its configuration knows nothing of"
            else:
                rule, message = "wrong-shape", f"{quoted(name)} is {held[name]}, its configuration says {wanted[name]}"
            raise RefusedArtefact.of(folder / part, rule, message, _AGAIN)
    _refuse_unread(folder / family.denoiser, stored)


def _refuse_unread(denoiser: Path, stored: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses text encoders of another width than cross-attentions read: each part may fit its own configuration."""
    width = sum(shape[1] for name, shape in stored.items() if name.endswith(_EMBEDDINGS))
    layers = {name: shape for name, shape in stored.items() if name.endswith(".attn2.to_v.weight")}
    projection = f"{denoiser.name}.caption_projection.linear_1.weight"
    first = {projection: stored[projection]} if projection in stored else {}
    for name, shape in (first | layers).items():
        if shape[1] != width:
            message = f"{quoted(name)} reads {shape[1]} numbers of a token, it is told {width}"
            raise RefusedArtefact.of(denoiser, "wrong-shape", message, _AGAIN)
        if name == projection:
            width = shape[0]  # what is projected is read


def expected_shapes(part: Path, name: str, family: Family) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that a part's configuration asks for, by normalised name.

    Args:
        part: its folder.
        name: which it is, such as ``unet``.
        family: of the checkpoint, which says of what class it is.

    Raises:
        RefusedArtefact: no model can be built from it.
    """
    named = ((normalised(name, own), tensor) for own, tensor in empty_model(part, name, family).state_dict().items())
    return {key: tuple(tensor.shape) for key, tensor in named if key is not None}


def empty_model(part: Path, name: str, family: Family) -> torch.nn.Module:
    """The model of a part without memory for its weights.

    Raises:
        RefusedArtefact: its configuration is nonsense.
    """
    path = part / "config.json"
    config = read_object(path)
    try:
        with torch.device("meta"):
            model = _build(family.classes[name][1], config)
    except Exception as error:  # whatever a class makes of a hostile configuration
        why = quoted(str(error) or type(error).__name__)
        raise RefusedArtefact.of(path, "bad-config", f"no model can be built from it: {why}", _AGAIN) from error
    return model


def _build(name: str, config: dict[str, Any]) -> torch.nn.Module:
    match name:
        case "UNet2DConditionModel":
            model: torch.nn.Module = UNet2DConditionModel.from_config(config)
        case "PixArtTransformer2DModel":
            model = PixArtTransformer2DModel.from_config(config)
        case "AutoencoderKL":
            model = AutoencoderKL.from_config(config)
        case "T5EncoderModel":
            model = T5EncoderModel(T5Config.from_dict(config))
        case "CLIPTextModelWithProjection":
            model = CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config))
        case _:
            model = CLIPTextModel(CLIPTextConfig.from_dict(config))
    return model


def refuse_other_tokens(folder: Path, read: Tokens, loaded: PreTrainedTokenizerFast, family: Family) -> None:
    """Compares the tokenizer that a plan counted positions with to the one that prompts are drawn with.

    Raises:
        RefusedArtefact: they are not the same.
    """
    ours, theirs = (_essence(t.to_str()) for t in (read.tokenizer, loaded.backend_tokenizer))
    differing = [key for key in ours if ours[key] != theirs[key]]
    # where a pipeline decides to how many a prompt is cut, nobody asks the tokenizer
    cut = read.most if family.prompt_tokens else loaded.model_max_length
    if differing or loaded.pad_token != read.pad or cut != read.most:
        raise RefusedArtefact.of(
            folder, "other-tokens", f"is loaded otherwise than it reads: {differing or 'padding'}", _AGAIN
        )


_COMPARED = ("type", "vocab", "merges", "unk_token", "unk_id", "byte_fallback", "end_of_word_suffix")


def _essence(serialised: str) -> dict[str, Any]:
    data = json.loads(serialised)
    special = {entry["content"]: entry["id"] for entry in data["added_tokens"]}
    model = {key: data["model"].get(key) for key in _COMPARED}
    return {**model, "added": special, **{key: data[key] for key in ("normalizer", "pre_tokenizer", "post_processor")}}


def refuse_unfilled(folder: Path, loading: Mapping[str, Any]) -> None:
    """Refuses weights that do not fill a model: transformers fills the rest with random numbers.

    Args:
        folder: Where they lie.
        loading: What ``from_pretrained(output_loading_info=True)`` tells.

    Raises:
        RefusedArtefact: a tensor is missing, or of another shape.
    """
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, loading.get(what) or ())):
            raise RefusedArtefact.of(
                folder / "model.safetensors",
                "not-filled",
                f"{len(names)} tensors are missing or of another shape, such as {quoted(names[0])}",
                "is it a checkpoint of the whole model, head included?",
            )
