"""A patched checkpoint: the base's folder, with a patch's edits in the weights, and what it takes to go back.

base folder, patch --patch_folder--> patched folder --revert_folder--> base folder, byte for byte

Beside the base's own files stand ``fmn-guard/patch.safetensors``, the patch, and ``fmn-guard/originals.safetensors``,
the bytes that it took the place of; a folder that is to be published goes without, for they undo the patch. Only the
files of the denoiser that hold edited weights are written anew.
"""

from __future__ import annotations

import math
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import torch
from pydantic import StringConstraints, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, RefusedArtefact
from ..facts import Checkpoint, describe_checkpoint
from ..family import family_of
from ..manifest import CheckpointRef
from ..record import Digest, Record, canonical_json, file_digest, write_atomic
from .patch import METADATA_KEY, PATCH, Patch, check_base, edits_after, read_patch, write_patch
from .tensorfile import DTYPES, Header, header_bytes, parse_header, read_header, saved

KEPT = "fmn-guard"
"""The folder in a patched checkpoint that holds its patch and what it took the place of."""
_ORIGINALS = "originals.safetensors"
_BLOCK = 1 << 22

Precision = Literal["float32", "base"]
"""How edited weights are written: as they were audited, or rounded to the base's own element type."""


class _Originals(Record):
    """The metadata of ``originals.safetensors``."""

    schema_version: Literal["fmn-guard/originals/v1"] = "fmn-guard/originals/v1"
    """Format of the file."""
    precision: Precision
    """How edited weights were written."""
    files: dict[Annotated[str, StringConstraints(pattern=r"^(unet|transformer)/[\w-][\w.-]*\.safetensors$")], Digest]
    """Digest of each file that was written anew, as the base has it, by its path in the folder."""


def patch_of(folder: Path) -> Path | None:
    """The patch in a patched checkpoint; None where the folder is none."""
    patch = folder / KEPT / PATCH
    return patch if patch.is_file() else None


def patch_folder(
    base: Checkpoint,
    patch: Patch,
    path: Path,
    out: Path,
    precision: Precision = "float32",
    *,
    revertible: bool = True,
) -> None:
    """Writes a patched checkpoint, whole or not at all.

    Args:
        base: the checkpoint that the patch was made for.
        patch: the patch.
        path: its file, for messages.
        out: the new folder.
        precision: ``float32`` writes edited weights as they were audited; ``base`` rounds them to the base's own type,
            which makes another model, to be audited as such.
        revertible: whether the folder holds what it takes to go back.

    Raises:
        RefusedArtefact: the patch was made for another base, or names weights this one has not.
        InputError: ``out`` is not empty, or the base is a patched checkpoint itself.
    """
    check_base(path, patch, base.facts.identity)
    if patch_of(base.folder) is not None:
        raise InputError(
            f"{base.folder} is patched already", hint="`fmn-guard patch add` adds to the patch that is in it"
        )
    edits = edits_after(patch.parts)
    shards = _shards_of(base.folder, path, edits)
    with _whole(out) as part, ThreadPoolExecutor(1) as beside:
        digests = beside.map(lambda name: (name, file_digest(base.folder / name)), sorted(shards) if revertible else ())
        _copy(base.folder, part, without=shards)
        kept: dict[str, Tensor] = {}
        for name, header in shards.items():
            mine = {weight: edit for weight, edit in edits.items() if weight in header.entries}
            kept |= _write_patched(base.folder / name, part / name, header, mine, precision)
        if not revertible:
            return
        (part / KEPT).mkdir()
        originals = _Originals(precision=precision, files=dict(digests))
        content = saved(kept, {METADATA_KEY: canonical_json(originals).decode()})
        write_atomic(part / KEPT / _ORIGINALS, content)
        write_patch(part / KEPT / PATCH, patch)


def revert_folder(folder: Path, out: Path) -> None:
    """Writes the base that a patched checkpoint was made of, byte for byte, whole or not at all.

    Raises:
        InputError: the folder is no patched checkpoint, or ``out`` is not empty.
        RefusedArtefact: what comes out is not the base: the folder was changed after it was patched.
    """
    patch, originals, kept = _read_kept(folder)
    with _whole(out) as part, ThreadPoolExecutor(1) as beside:
        _copy(folder, part, without=originals.files)
        for name in originals.files:
            try:
                _write_original(folder / name, part / name, name, kept)
            except (KeyError, TypeError, ValueError, struct.error) as error:
                raise _changed(folder, f"the header of {name} cannot be read") from error
        described = beside.submit(describe_checkpoint, CheckpointRef(checkpoint=str(part.absolute())), Path())
        for name, stated in originals.files.items():
            if file_digest(part / name) != stated:
                raise _changed(folder, f"{name} does not come out as it was")
        found = described.result().facts.identity
        if found != patch.base_digest:
            raise _changed(folder, f"what comes out is {found[:19]}, the base was {patch.base_digest[:19]}")


def repatch_folder(folder: Path, change: Callable[[Patch], Patch], out: Path) -> Patch:
    """Writes a patched checkpoint anew with another patch of the same base.

    Args:
        folder: the patched checkpoint.
        change: makes the new patch of the one that is in it.
        out: the new folder.

    Returns:
        The new patch.

    Raises:
        InputError, RefusedArtefact: as `revert_folder` and `patch_folder`.
    """
    patch, originals, _ = _read_kept(folder)
    new = change(patch)
    _check_free(out)
    base = out.with_name(f"{out.name}.base.part")
    try:
        shutil.rmtree(base, ignore_errors=True)
        revert_folder(folder, base)
        checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(base.absolute())), Path())
        patch_folder(checkpoint, new, folder / KEPT / PATCH, out, originals.precision)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return new


def _read_kept(folder: Path) -> tuple[Patch, _Originals, dict[str, bytes]]:
    path = patch_of(folder)
    if path is None:
        raise InputError(
            f"{folder} is no patched checkpoint: it has no {KEPT}/{PATCH}",
            hint="`fmn-guard patch apply` makes one; of others, keep the base",
        )
    patch = read_patch(path)
    try:
        with safe_open(folder / KEPT / _ORIGINALS, "np") as file:
            originals = _Originals.model_validate_json((file.metadata() or {}).get(METADATA_KEY, ""))
            kept = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValidationError) as error:
        raise _changed(folder, f"{KEPT}/{_ORIGINALS} cannot be read") from error
    if not all(f"{name}|" in kept and (folder / name).is_file() for name in originals.files):
        raise _changed(folder, f"{KEPT}/{_ORIGINALS} is not about it")
    return patch, originals, kept


def _changed(folder: Path, why: str) -> RefusedArtefact:
    return RefusedArtefact(
        f"{folder}: {why}", hint="it was changed after it was patched: take the base from where it came from"
    )


def _shards_of(folder: Path, path: Path, edits: Mapping[str, Tensor]) -> dict[str, Header]:
    """Headers of the files that hold edited weights, by their path in the folder."""
    headers = {
        f.relative_to(folder).as_posix(): read_header(f)
        for f in sorted((folder / family_of(folder).denoiser).glob("*.safetensors"))
    }
    shapes = {name: each for header in headers.values() for name, each in header.entries.items()}
    for name, edit in edits.items():
        if name not in shapes or shapes[name].shape != tuple(edit.shape) or shapes[name].dtype not in DTYPES:
            raise RefusedArtefact(
                f"{path}: the base has no weight {name} of shape {tuple(edit.shape)}", hint="is it damaged?"
            )
    return {name: header for name, header in headers.items() if not edits.keys().isdisjoint(header.entries)}


def _write_patched(
    source: Path, target: Path, header: Header, edits: Mapping[str, Tensor], precision: Precision
) -> dict[str, Tensor]:
    """Writes one file with its edits; returns the bytes that they took the place of, and those of its header."""
    name = target.relative_to(target.parents[1]).as_posix()
    kept = {f"{name}|": _raw(header.raw)}
    new: dict[str, bytes] = {}
    told: list[tuple[str, str, tuple[int, ...], int]] = []
    with source.open("rb") as file:
        for weight, entry in header.entries.items():
            dtype, size = entry.dtype, entry.end - entry.begin
            if weight in edits:
                before = b"".join(_blocks(file, entry.begin, entry.end))
                kept[f"{name}|{weight}"] = _raw(before)
                dtype = "F32" if precision == "float32" else dtype
                values = _raw(before).view(DTYPES[entry.dtype]).reshape(entry.shape).float() + edits[weight]
                new[weight] = values.to(DTYPES[dtype]).flatten().view(torch.uint8).numpy().tobytes()
                size = len(new[weight])
            told.append((weight, dtype, entry.shape, size))
        # as the library does, the widest first: it reads tensors at multiples of their width only
        told.sort(key=lambda each: -each[3] // max(1, math.prod(each[2])))
        with target.open("xb") as out:
            out.write(header_bytes(told, header.metadata))
            for weight, *_ in told:
                entry = header.entries[weight]
                out.writelines([new[weight]] if weight in new else _blocks(file, entry.begin, entry.end))
    return kept


def _write_original(source: Path, target: Path, name: str, kept: Mapping[str, bytes]) -> None:
    """Writes one file as the base has it."""
    now, before = read_header(source), parse_header(kept[f"{name}|"])
    with source.open("rb") as file, target.open("xb") as out:
        out.write(before.raw)
        for weight in before.entries:
            original = kept.get(f"{name}|{weight}")
            out.writelines([original] if original is not None else _blocks(file, *now.entries[weight][2:]))


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end:
        block = file.read(min(_BLOCK, end - begin))
        if not block:
            return
        begin += len(block)
        yield block


def _raw(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _copy(folder: Path, part: Path, without: Collection[str]) -> None:
    """Copies the files of a checkpoint but those that are written anew; links become files."""
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()]:
        name = path.relative_to(folder)
        if name.parts[0] == KEPT:
            continue
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        if name.as_posix() not in without:
            shutil.copyfile(path, part / name)


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already", hint="give a new folder; nothing is overwritten")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` when all of it is there, and leaves nothing otherwise."""
    _check_free(out)
    if not out.absolute().parent.is_dir():
        raise InputError(f"there is no folder {out.parent}", hint="create it first")
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a command that was killed
    try:
        part.mkdir()
        yield part
        if out.exists():
            out.rmdir()
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
