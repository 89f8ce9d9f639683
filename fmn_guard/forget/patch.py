"""The patch: the changed weights, bound to the base they were made for. No inverted token is ever in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError, RefusedArtefact
from ..record import Digest, Record, canonical_json, digest, file_digest, write_atomic

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

METADATA_KEY = "fmn_guard"


class PatchFacts(Record):
    """What a patch says of itself, in its file's metadata."""

    schema_version: Literal["fmn-guard/patch/v1"] = "fmn-guard/patch/v1"
    """Format of the patch."""
    base_digest: Digest
    """Identity of the only base it may be applied to."""
    plan_digest: Digest
    """The plan it came from."""
    concepts: tuple[str, ...]
    """Slugs of what it forgets and corrects."""


def write_patch(
    path: Path, edits: dict[str, Tensor], *, base_digest: Digest, plan_digest: Digest, concepts: list[str]
) -> Digest:
    """Writes the edits of a run: float32 differences of UNet weights, by parameter name.

    Weights that did not change are left out.

    Returns:
        Digest of the file.
    """
    tensors = {name: edit.cpu().contiguous() for name, edit in sorted(edits.items()) if edit.any()}
    # one key: safetensors writes several in an order that differs from run to run
    metadata = PatchFacts(base_digest=base_digest, plan_digest=plan_digest, concepts=tuple(concepts))
    write_atomic(path, save(tensors, {METADATA_KEY: canonical_json(metadata).decode()}))
    return file_digest(path)


def read_patch(path: Path) -> tuple[PatchFacts, dict[str, Tensor]]:
    """Reads a patch: its facts and its edits.

    Raises:
        InputError: there is no such file.
        RefusedArtefact: it is not a patch.
    """
    if not path.is_file():
        raise InputError(f"no patch {path}", hint="fmn-guard apply leaves one as patch.safetensors in its run folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            edits = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise RefusedArtefact(
            f"{path} is no safetensors file: {error}", hint="it is truncated or of another format"
        ) from error
    try:
        facts = PatchFacts.model_validate_json(metadata[METADATA_KEY])
    except (KeyError, ValidationError) as error:
        raise RefusedArtefact(f"{path} is no fmn-guard patch", hint="its metadata does not say so") from error
    return facts, edits


@torch.no_grad()
def apply_patch(pipeline: StableDiffusionPipeline, path: Path, base_digest: Digest) -> None:
    """Adds a patch's edits to a freshly loaded base.

    Args:
        pipeline: the base, float32.
        path: the patch.
        base_digest: identity of the base.

    Raises:
        RefusedArtefact: the patch was made for another base, or names weights this one has not.
    """
    facts, edits = read_patch(path)
    if facts.base_digest != base_digest:
        raise RefusedArtefact(
            f"{path} was made for the base {facts.base_digest[:19]}, this one is {base_digest[:19]}",
            hint="apply it to the checkpoint that the manifest names",
        )
    weights = dict(pipeline.unet.named_parameters())
    for name, edit in edits.items():
        if name not in weights or weights[name].shape != edit.shape:
            raise RefusedArtefact(
                f"{path}: the base has no weight {name} of shape {tuple(edit.shape)}", hint="is it damaged?"
            )
        weights[name] += edit.to(weights[name])


def patched_digest(path: Path, base_digest: Digest) -> Digest:
    """Identity of base plus patch; that of the base when the patch changes nothing."""
    _, edits = read_patch(path)
    return digest({"base": base_digest, "patch": file_digest(path)}) if edits else base_digest
