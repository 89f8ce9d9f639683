"""The patch: what each pass added to the denoiser's weights, bound to the base it was made for.

The edits of passes stand apart, in the order in which they were made, so that one can be added or dropped without
redoing the others. No inverted token and no sentence is ever in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError, RefusedArtefact
from ..model.conditioning import denoiser
from ..passes import PassKind
from ..record import Digest, Record, Slug, canonical_json, digest, file_digest, write_atomic
from .factors import Edit, Factors, dense

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

METADATA_KEY = "fmn_guard"
PATCH = "patch.safetensors"
"""What the file is called, in a run folder and in a patched checkpoint."""


class PartFacts(Record):
    """What a patch says of the edit of one pass."""

    concepts: tuple[Slug, ...]
    """Slugs of what it forgets or corrects; several were forgotten together, and only go together."""
    kind: PassKind | None
    """Kind of the concept, or ``correction``; None where they are of several."""
    plan_digest: Digest
    """The plan it came from."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """What is known of it when it is written, by the name of a field of `fmn_guard.evidence.PassRecord`; and ``error``,
    how far what is stored is from what the pass computed: root mean square over what layers read, relative to what
    their weights deliver of it."""


class PatchFacts(Record):
    """What a patch says of itself, in its file's metadata."""

    schema_version: Literal["fmn-guard/patch/v2"] = "fmn-guard/patch/v2"
    """Format of the patch."""
    base_digest: Digest
    """Identity of the only base it may be applied to."""
    unet_bytes: int
    """Bytes of what draws in the base, its UNet or transformer, as it is stored; 0 where that was not noted."""
    parts: tuple[PartFacts, ...]
    """Its edits, in the order in which they were made."""


class Part(NamedTuple):
    """The edit of one pass, by parameter name of the denoiser."""

    facts: PartFacts
    edits: dict[str, Edit]


class Patch(NamedTuple):
    """A patch in memory."""

    base_digest: Digest
    unet_bytes: int
    parts: tuple[Part, ...]

    @property
    def concepts(self) -> tuple[Slug, ...]:
        """Slugs of all that it forgets and corrects, in order."""
        return tuple(slug for part in self.parts for slug in part.facts.concepts)

    @property
    def facts(self) -> PatchFacts:
        """What its file says of it."""
        return PatchFacts(
            base_digest=self.base_digest, unet_bytes=self.unet_bytes, parts=tuple(part.facts for part in self.parts)
        )


def edits_after(parts: Sequence[Part], passes: int | None = None) -> dict[str, Tensor]:
    """What the first passes have added to the denoiser's weights together.

    Args:
        parts: of a patch, in order.
        passes: how many; None is all.

    Returns:
        float32 differences by parameter name, sorted; weights that no pass changed are left out.
    """
    total: dict[str, Tensor] = {}
    for part in parts[:passes]:
        for name, edit in part.edits.items():
            total[name] = total[name] + dense(edit) if name in total else dense(edit)
    return dict(sorted(total.items()))


def pack(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The tensors of a patch's file, by the number of the part, the parameter's name and what they are of it."""
    tensors = {}
    for i, part in enumerate(parts):
        for name, edit in part.edits.items():
            if isinstance(edit, Factors):
                tensors[f"{i}/{name}/up"], tensors[f"{i}/{name}/down"] = edit
            else:
                tensors[f"{i}/{name}/delta"] = edit
    return tensors


def unpack(facts: Sequence[PartFacts], tensors: dict[str, Tensor]) -> tuple[Part, ...]:
    """The parts of a patch's file.

    Raises:
        ValueError: tensors are missing, or do not belong together.
    """
    edits: list[dict[str, Edit]] = [{} for _ in facts]
    left = dict(tensors)
    while left:
        key = next(iter(left))
        number, name, _ = key.split("/")
        if not (number.isdecimal() and int(number) < len(facts)):
            raise ValueError(f"{key} belongs to no part")
        found: list[Tensor | None] = [left.pop(f"{number}/{name}/{each}", None) for each in ("up", "down", "delta")]
        match found:
            case [None, None, Tensor() as delta]:
                edits[int(number)][name] = delta
            case [Tensor() as up, Tensor() as down, None] if up.ndim == down.ndim == 2 and up.shape[1] == len(down):
                edits[int(number)][name] = Factors(up, down)
            case _:
                raise ValueError(f"{key} is of no form")
    return tuple(Part(each, dict(sorted(edit.items()))) for each, edit in zip(facts, edits, strict=True))


def write_patch(path: Path, patch: Patch) -> Digest:
    """Writes a patch.

    Returns:
        Digest of the file.
    """
    # one key: safetensors writes several in an order that differs from run to run
    write_atomic(path, save(pack(patch.parts), {METADATA_KEY: canonical_json(patch.facts).decode()}))
    return file_digest(path)


def read_patch(path: Path) -> Patch:
    """Reads a patch.

    One of an older version holds the edits of all its passes together: it becomes a single part.

    Raises:
        InputError: there is no such file.
        RefusedArtefact: it is not a patch.
    """
    if not path.is_file():
        raise InputError(f"no patch {path}", hint="fmn-guard apply leaves one as patch.safetensors in its run folder")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RefusedArtefact(
            f"{path} is no safetensors file: {error}", hint="it is truncated or of another format"
        ) from error
    if METADATA_KEY not in metadata:
        raise RefusedArtefact(f"{path} is no fmn-guard patch", hint="its metadata does not say so")
    try:
        facts = _read_facts(metadata[METADATA_KEY])
        if isinstance(facts, _FactsV1):
            part = PartFacts(concepts=facts.concepts, kind=None, plan_digest=facts.plan_digest)
            return Patch(facts.base_digest, 0, (Part(part, dict(sorted(tensors.items()))),))
        return Patch(facts.base_digest, facts.unet_bytes, unpack(facts.parts, tensors))
    except (ValidationError, ValueError) as error:
        raise RefusedArtefact(f"{path} is no fmn-guard patch that this version reads", hint=_why(error)) from error


class _FactsV1(Record):
    """The metadata of version 1, whose tensors are float32 differences by parameter name."""

    schema_version: Literal["fmn-guard/patch/v1"]
    base_digest: Digest
    plan_digest: Digest
    concepts: tuple[str, ...]


def _read_facts(text: str) -> PatchFacts | _FactsV1:
    kind: type[PatchFacts | _FactsV1] = _FactsV1 if '"fmn-guard/patch/v1"' in text else PatchFacts
    return kind.model_validate_json(text)


def _why(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        details: list[Any] = error.errors(include_url=False)
        return f"metadata: {'.'.join(map(str, details[0]['loc']))}: {details[0]['msg']}; is it of a newer version?"
    return f"is it damaged? {error}"


@torch.no_grad()
def apply_patch(
    pipeline: StableDiffusionPipeline, path: Path, base_digest: Digest, *, passes: int | None = None
) -> None:
    """Adds a patch's edits to a freshly loaded base.

    Args:
        pipeline: the base, float32.
        path: the patch.
        base_digest: identity of the base.
        passes: only the edits of so many passes; None adds all.

    Raises:
        RefusedArtefact: the patch was made for another base, or names weights this one has not.
    """
    patch = read_patch(path)
    check_base(path, patch, base_digest)
    weights = dict(denoiser(pipeline).named_parameters())
    for name, edit in edits_after(patch.parts, passes).items():
        if name not in weights or weights[name].shape != edit.shape:
            raise RefusedArtefact(
                f"{path}: the base has no weight {name} of shape {tuple(edit.shape)}", hint="is it damaged?"
            )
        weights[name] += edit.to(weights[name])


def check_base(path: Path, patch: Patch, base_digest: Digest) -> None:
    """Refuses a patch of another base.

    Raises:
        RefusedArtefact: it is of another one.
    """
    if patch.base_digest != base_digest:
        raise RefusedArtefact(
            f"{path} was made for the base {patch.base_digest[:19]}, this one is {base_digest[:19]}",
            hint="apply it to the checkpoint that the manifest names",
        )


def patched_digest(path: Path, base_digest: Digest) -> Digest:
    """Identity of base plus patch; that of the base when the patch changes nothing."""
    changes = any(part.edits for part in read_patch(path).parts)
    return digest({"base": base_digest, "patch": file_digest(path)}) if changes else base_digest
