"""Checkpoints from one layout into another: the only road by which a pickle comes in, and to or from a single file.

    pickle                     --unpickled-->     tensors    scanned, then read by torch's reader of weights alone
    file in original layout    --to_folder-->     diffusers folder, with configurations from another one
    folder with pickles        --clean_folder-->  the same folder in safetensors
    diffusers folder           --to_file-->       file in the original layout

What is written is whole or not there, and is checked as any checkpoint is before it gets its name.
"""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, RefusedArtefact, quoted
from ..facts import describe_checkpoint
from ..family import Family, family_of
from ..manifest import CheckpointRef
from ..pickles import PICKLE_SUFFIXES
from ..record import Digest
from ..tensors import read_header
from ..weights import normalised, weight_files
from .fit import expected_shapes, refuse_misfits
from .modelspec import checkpoint_spec
from .original import from_original, slots, to_original

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "spiece.model")
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}


class Converted(NamedTuple):
    """What came of a conversion.

    Attributes:
        weights_digest: Of the checkpoint, the same in each layout.
        left_out: Names of tensors that are no weights of the model, sorted.
    """

    weights_digest: Digest
    left_out: tuple[str, ...]


def to_folder(path: Path, config: Path, out: Path) -> Converted:
    """Makes a diffusers folder of one file in the original layout.

    Args:
        path: safetensors, or a pickle.
        config: a diffusers folder, of which configurations and tokenizers are taken; it needs no weights.
        out: folder to write.

    Raises:
        InputError: ``out`` exists, or a file is missing.
        RefusedArtefact: the file is not safe, or is not of the family that the configurations are of.
    """
    family = family_of(config)
    wanted = {
        name: shape for part in family.parts for name, shape in expected_shapes(config / part, part, family).items()
    }
    places = slots(config, family, wanted)
    with ExitStack() as stack:
        held = unpickled(path) if path.suffix.lower() in PICKLE_SUFFIXES else stack.enter_context(opened_file(path))
        used = {slot.name for slot in places.values()}
        left_out = tuple(sorted(held.keys() - used))
        with new_folder(out) as made:
            copy_settings(config, made, family)
            for part in family.parts:
                own = {name: slot for name, slot in places.items() if name.startswith(f"{part}.")}
                save_part(made / part, family, from_original(held, own, path))
            checked = checked_digest(made)
    return Converted(checked, left_out)


def clean_folder(folder: Path, out: Path) -> Converted:
    """Makes safetensors of the pickles of a diffusers folder, and takes along what is needed beside them.

    Raises:
        InputError: ``out`` exists, or a file is missing.
        RefusedArtefact: a file is not safe, or does not fit the configurations.
    """
    family = family_of(folder)
    with new_folder(out) as made:
        copy_settings(folder, made, family)
        for part, stem in family.parts.items():
            pickles = sorted(p for p in (folder / part).iterdir() if p.suffix.lower() in PICKLE_SUFFIXES)
            if len(pickles) > 1:
                raise RefusedArtefact.of(
                    folder / part, "extra-weights", f"holds {len(pickles)} pickles", "keep the one that is meant"
                )
            if pickles:
                named = ((normalised(part, name), tensor) for name, tensor in unpickled(pickles[0]).items())
                save_part(made / part, family, {name: tensor for name, tensor in named if name is not None})
            else:
                for file in weight_files(folder / part, stem):
                    shutil.copyfile(file, made / part / file.name)
                if (index := folder / part / f"{stem}.safetensors.index.json").is_file():
                    shutil.copyfile(index, made / part / index.name)
        checked = checked_digest(made)
    return Converted(checked, ())


def to_file(folder: Path, out: Path) -> Converted:
    """Makes one file in the original layout of a diffusers folder; the same folder gives the same bytes.

    Args:
        folder: a folder that `fmn_guard.facts.describe_checkpoint` has accepted.
        out: safetensors file to write.

    Raises:
        InputError: ``out`` exists.
        RefusedArtefact: the weights do not fit their configurations.
    """
    if out.exists():
        raise InputError(f"{out} exists", hint="give a new name; nothing is overwritten")
    facts = describe_checkpoint(CheckpointRef(checkpoint=str(folder.resolve())), Path()).facts
    refuse_misfits(folder)
    family = family_of(folder)
    with ExitStack() as stack:
        held: dict[str, Tensor] = {}
        for part, stem in family.parts.items():
            for file in weight_files(folder / part, stem):
                opened = stack.enter_context(opened_file(file))
                held |= {key: opened[name] for name in opened if (key := normalised(part, name)) is not None}
        made = to_original(held, slots(folder, family, held))
        part_file = out.with_name(f"{out.name}.part")
        try:
            _write(part_file, made, checkpoint_spec(facts, folder))
            part_file.rename(out)
        finally:
            part_file.unlink(missing_ok=True)
    return Converted(facts.weights_digest, ())


def unpickled(path: Path) -> dict[str, Tensor]:
    """Tensors of a pickle that PyTorch wrote: first scanned for what it imports, then read by ``weights_only``.

    Raises:
        InputError: there is no such file.
        RefusedArtefact: it imports what weights do not need, unpacks to more than it is, or holds no weights.
    """
    from picklescan.scanner import SafetyLevel, scan_file_path

    hint = "ask who made it for safetensors"
    if not path.is_file():
        raise InputError(f"no file {path}", hint="give a checkpoint in one file")
    if is_archive := zipfile.is_zipfile(path):
        _refuse_bomb(path)
    found = scan_file_path(str(path))
    foreign = sorted(f"{g.module}.{g.name}" for g in found.globals if g.safety is not SafetyLevel.Innocuous)
    if foreign or found.issues_count or found.scan_err or not found.scanned_files:
        why = f"imports {quoted(', '.join(foreign))}" if foreign else "cannot be scanned to its end"
        raise RefusedArtefact.of(path, "pickle", f"{why}; it is not loaded", hint)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # whatever a reader makes of hostile bytes
        why = quoted(str(error).split("\n")[0])
        raise RefusedArtefact.of(path, "pickle", f"holds more than weights, or is damaged: {why}", hint) from error
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    pairs = data.items() if isinstance(data, dict) else ()
    tensors = {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise RefusedArtefact.of(path, "pickle", "holds no weights by name", hint)
    return tensors


def _refuse_bomb(path: Path) -> None:
    """PyTorch stores without compressing: an archive that is compressed is not its own."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except zipfile.BadZipFile as error:
        raise RefusedArtefact.of(path, "archive", "is a damaged zip archive", "download it again") from error
    if packed:
        raise RefusedArtefact.of(
            path,
            "archive",
            f"{quoted(packed[0].filename)} in it is compressed, to unpack to {packed[0].file_size:,} bytes",
            "torch.save does not compress; ask who made it for safetensors",
        )


class _Lazy(Mapping[str, Tensor]):
    """Tensors of a safetensors file."""

    def __init__(self, file: safe_open) -> None:
        self._file = file
        self._names = tuple(file.keys())  # type: ignore[no-untyped-call]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def opened_file(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """Tensors of a safetensors file by name, each read when it is asked for.

    Raises:
        InputError: there is no such file.
        RefusedArtefact: it is damaged.
    """
    if not path.is_file():
        raise InputError(f"no file {path}", hint="give a checkpoint in one file")
    read_header(path)  # refuses what is damaged before the library opens it
    with safe_open(path, "pt") as file:
        yield _Lazy(file)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that gets its name once all is in it."""
    if out.exists():
        raise InputError(f"{out} exists", hint="give a new name; nothing is overwritten")
    made = out.with_name(f"{out.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def copy_settings(source: Path, made: Path, family: Family) -> None:
    """Copies configurations and tokenizers, and no other file."""
    files = [*family.configs, *(f"{name}/{file}" for name in family.tokenizers for file in _TOKENIZER_FILES)]
    for name in files:
        if (source / name).is_file():
            (made / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, made / name)


def save_part(folder: Path, family: Family, weights: Mapping[str, Tensor]) -> None:
    """Saves a part under the names that are published: those of CLIP's text encoders begin with ``text_model``."""
    own = {}
    for key, tensor in weights.items():
        name = key.partition(".")[2]
        inner = family.classes[folder.name][1].startswith("CLIPText") and name != "text_projection.weight"
        own[f"text_model.{name}" if inner else name] = tensor.clone()  # of a pickle's, several may share memory
    save_file(own, folder / f"{family.parts[folder.name]}.safetensors", {"format": "pt"})


def checked_digest(made: Path) -> Digest:
    """Checks a folder that was just written as any checkpoint is; returns its weights digest."""
    digest: Digest = describe_checkpoint(CheckpointRef(checkpoint=str(made.resolve())), Path()).facts.weights_digest
    refuse_misfits(made)
    return digest


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file; the library writes metadata in an order that differs from run to run."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    begin = 0
    for name, tensor in tensors.items():
        stop = begin + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, stop]}
        begin = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # where tensors begin is a multiple of every item size
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
