"""LoRA files on a base: fused into its weights, so that what is forgotten from and audited is what is drawn with.

Two ways of naming are read: that of kohya's scripts, over modules as diffusers or as the original files call them, and
that of diffusers with peft. A tensor that is of neither, or of a layer that the base has not, is refused: a reader that
passes over it fuses another model than the one that was trained.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError, RefusedArtefact, quoted
from ..facts import Checkpoint
from ..family import Family, family_of
from ..pickles import PICKLE_SUFFIXES
from ..record import Digest, Record, file_digest, write_record
from ..tensors import read_header, tensor_rows
from ..weights import normalised, shapes, weight_files
from .convert import checked_digest, copy_settings, new_folder, opened_file, save_part
from .original import slots

STACK = "lora-stack.json"
"""The file in a fused folder that says what it was fused of."""
_KINDS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".alpha": "alpha",
}
_KOHYA_PARTS = {
    "lora_unet": "unet",
    "lora_te": "text_encoder",
    "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2",
}
_ELSEWHERE = "fuse it with the program that made it, and give the checkpoint that comes out"


class FusedLora(Record):
    """One LoRA of a stack."""

    file: str
    """Its file's name, without a folder."""
    digest: Digest
    """Of the file."""
    weight: float
    """What its change is multiplied by."""


class Stack(Record):
    """What a folder was fused of."""

    schema_version: Literal["fmn-guard/lora-stack/v1"] = "fmn-guard/lora-stack/v1"
    """Format of this record."""
    base_digest: Digest
    """Identity of the base: weights, tokenizers and configurations."""
    loras: tuple[FusedLora, ...]
    """In the order in which they were given; sums do not depend on it but in their last bits."""
    weights_digest: Digest
    """Of the weights that came out, for ``spec.base.digest`` of a manifest."""


class _Change(NamedTuple):
    """What a LoRA adds to one weight: scale * up @ down."""

    up: Tensor
    down: Tensor
    scale: float

    def of(self, shape: torch.Size) -> Tensor:
        """The change, float32, in the weight's shape."""
        # in double precision, lest the last bits depend on how many threads there are
        product = self.up.double().flatten(1) @ self.down.double().flatten(1)
        return (self.scale * product).float().reshape(shape)


def fuse(base: Checkpoint, loras: Mapping[Path, float], out: Path) -> Stack:
    """Writes a diffusers folder in which a base and LoRA files are one, whole or not at all.

    Weights that change are float32, the others stay as they are.

    Args:
        base: the checkpoint that they were trained on, or one that is tuned from it.
        loras: safetensors files, each with the weight that it counts with.
        out: folder to write.

    Returns:
        What was fused, as ``out`` holds it in `STACK`.

    Raises:
        InputError: ``out`` exists, or a file is missing.
        RefusedArtefact: a file is no LoRA that is read here, or is not of this base's family.
    """
    family = family_of(base.folder)
    if family.denoiser != "unet":
        raise RefusedArtefact.of(
            base.folder,
            "no-lora",
            f"how LoRA files call the layers of a {family.pipeline} is not known here",
            _ELSEWHERE,
        )
    for path in loras:
        _refuse_unsound(path)
    named = _names(base.folder, family)
    sizes = shapes(base.folder, family.parts)
    with new_folder(out) as made:
        changes = [(weight, _read(path, named, sizes)) for path, weight in loras.items()]
        copy_settings(base.folder, made, family)
        for part, stem in family.parts.items():
            save_part(made / part, family, dict(_fused(base.folder / part, stem, changes)))
        stack = Stack(
            base_digest=base.facts.identity,
            loras=tuple(FusedLora(file=p.name, digest=file_digest(p), weight=w) for p, w in loras.items()),
            weights_digest=checked_digest(made),
        )
        write_record(made / STACK, stack)
    return stack


def _refuse_unsound(path: Path) -> None:
    """Refuses what is no sound safetensors file, before a tensor of it is loaded."""
    if not path.is_file():
        raise InputError(f"no LoRA {path}", hint="give a .safetensors file")
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise RefusedArtefact.of(
            path, "pickle", "is a pickle, which can run code when loaded", "ask who made it for safetensors"
        )
    for _ in tensor_rows(path):  # refuses what is not finite
        pass


def _fused(part: Path, stem: str, changes: list[tuple[float, dict[str, _Change]]]) -> Iterator[tuple[str, Tensor]]:
    """Weights of a part by normalised name."""
    for file in weight_files(part, stem):
        with opened_file(file) as held:
            for name, tensor in held.items():
                if (key := normalised(part.name, name)) is None:
                    continue
                for weight, change in changes:
                    if key in change:
                        tensor = tensor.float() + weight * change[key].of(tensor.shape)
                yield key, tensor


def _names(folder: Path, family: Family) -> dict[str, str]:
    """Normalised names of weights by what LoRA files call their layers."""
    weights = [name for name in shapes(folder, family.parts) if name.endswith(".weight")]
    found: dict[str, str] = {}
    for name, slot in slots(folder, family, weights).items():
        part, _, layer = name.removesuffix(".weight").partition(".")
        inner = f"text_model.{layer}" if part.startswith("text_encoder") else layer
        known = {f"{part}.{layer}", f"{part}.{inner}"}
        for prefix, own in _KOHYA_PARTS.items():
            if own == part:
                known |= {f"{prefix}_{each.replace('.', '_')}" for each in (layer, inner)}
        if part == "unet":
            original = slot.name.removeprefix("model.diffusion_model.").removesuffix(".weight")
            known.add(f"lora_unet_{original.replace('.', '_')}")
        found |= dict.fromkeys(known, name)
    return found


def _read(path: Path, named: Mapping[str, str], sizes: Mapping[str, tuple[int, ...]]) -> dict[str, _Change]:
    """What a LoRA file adds, by normalised name of the weight."""
    metadata = read_header(path).metadata
    halves: dict[str, dict[str, Tensor]] = {}
    with opened_file(path) as held:
        for name, tensor in held.items():
            layer, kind = _taken_apart(name)
            if kind is None or layer not in named:
                raise RefusedArtefact.of(
                    path,
                    "unknown-tensor",
                    f"{quoted(name)} is no part of a LoRA for a layer of this base",
                    f"is it for another family? A LoRA of another form: {_ELSEWHERE}",
                )
            if halves.setdefault(layer, {}).setdefault(kind, tensor) is not tensor:
                raise RefusedArtefact.of(path, "tensor-twice", f"{quoted(layer)} is there twice", _ELSEWHERE)
    if not halves:
        raise RefusedArtefact.of(path, "empty-lora", "holds no tensor", "is it the right file?")
    scales = _Scales(path, metadata)
    changes: dict[str, _Change] = {}
    for layer, parts in halves.items():
        weight = named[layer]
        if weight in changes:
            raise RefusedArtefact.of(path, "tensor-twice", f"names {quoted(weight)} in two ways", _ELSEWHERE)
        changes[weight] = _whole(path, layer, parts, sizes[weight], scales)
    return changes


def _taken_apart(name: str) -> tuple[str, str | None]:
    """Layer and kind of a LoRA's tensor."""
    for ending, kind in _KINDS.items():
        if name.endswith(ending):
            return name.removesuffix(ending), kind
    return name, None


def _whole(path: Path, layer: str, parts: dict[str, Tensor], size: tuple[int, ...], scales: _Scales) -> _Change:
    up, down = parts.get("up"), parts.get("down")
    if up is None or down is None:
        raise RefusedArtefact.of(path, "half-lora", f"{quoted(layer)} has one of two factors only", _ELSEWHERE)
    rank = down.shape[0] if down.ndim else 0
    fits = (
        up.ndim == down.ndim == len(size)
        and tuple(up.shape) == (size[0], rank, *[1] * (len(size) - 2))
        and tuple(down.shape) == (rank, *size[1:])
    )
    if not fits or not rank:
        raise RefusedArtefact.of(
            path,
            "wrong-shape",
            f"{quoted(layer)} is {tuple(up.shape)} by {tuple(down.shape)}, the base's weight is {size}",
            "is it for another family?",
        )
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise RefusedArtefact.of(path, "wrong-shape", f"{quoted(layer)}: alpha is no single number", _ELSEWHERE)
    return _Change(up, down, scales.of(layer, rank) if alpha is None else alpha.item() / rank)


class _Scales:
    """Scales of layers without an alpha of their own: as diffusers' adapter metadata say, 1 where there are none."""

    def __init__(self, path: Path, metadata: Mapping[str, str]) -> None:
        try:
            said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except ValueError as error:
            raise RefusedArtefact.of(
                path, "bad-header", "its adapter metadata are no JSON", "download it again"
            ) from error
        self._path, self._said = path, said if isinstance(said, dict) else {}
        for key, value in self._said.items():
            if re.search(r"\.(alpha_pattern|use_dora|use_rslora)$", key) and value:
                raise RefusedArtefact.of(path, "unknown-lora", f"asks for {key} {quoted(value)}", _ELSEWHERE)

    def of(self, layer: str, rank: int) -> float:
        alpha = self._said.get(f"{layer.partition('.')[0]}.lora_alpha", rank)
        if not isinstance(alpha, int | float):
            raise RefusedArtefact.of(self._path, "unknown-lora", f"lora_alpha is {quoted(alpha)}", _ELSEWHERE)
        return alpha / rank
