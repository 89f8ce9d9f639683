"""The weights of a checkpoint, read without torch: which files a loader opens, and one digest over their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .errors import RefusedArtefact, quoted
from .jsonfile import read_object
from .record import Digest, bytes_digest
from .tensors import MOST_HEADER, read_header, tensor_rows

WEIGHTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
"""Parts of a Stable Diffusion checkpoint, each with the stem of the only files that the loaders open."""
_WEIGHT_FILE = re.compile(r"\.safetensors$|\.index(\.[\w-]+)?\.json$")
_WHOLE = "download the whole checkpoint, or re-save with save_pretrained(..., safe_serialization=True)"


def weights_digest(folder: Path, parts: Mapping[str, str] = WEIGHTS) -> Digest:
    """Digest of a checkpoint's weights.

    Tensor names lose the ``text_model.`` prefix that transformers 5 dropped.

    Args:
        folder: a diffusers folder.
        parts: its parts that hold weights, each with the stem of its files.

    Raises:
        RefusedArtefact: a part is missing or damaged, holds other weights than the loaders open, or a value in it is
            not a finite number.
    """
    content = b""
    for part, stem in parts.items():
        rows: dict[str, bytes] = {}
        for file in weight_files(folder / part, stem):
            for name, row in tensor_rows(file):
                if (key := normalised(part, name)) is None:
                    continue
                if key in rows:
                    raise RefusedArtefact.of(
                        file, "tensor-twice", f"tensor {quoted(name)} occurs twice", "re-save the checkpoint"
                    )
                rows[key] = row
        for key in sorted(rows):
            content += key.encode() + b"\0" + rows[key]
    return bytes_digest(content)


def normalised(part: str, name: str) -> str | None:
    """A tensor's name with its part in front, whatever version saved it; None for a buffer that is no weight."""
    key = f"{part}.{name.removeprefix('text_model.')}"
    # Old libraries saved it; it is counted up from 0, never loaded.
    return None if part.startswith("text_encoder") and key.endswith(".embeddings.position_ids") else key


def shapes(folder: Path, parts: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights by normalised name; only headers are read."""
    return {
        key: tensor.shape
        for part, stem in parts.items()
        for file in weight_files(folder / part, stem)
        for tensor in read_header(file).tensors
        if (key := normalised(part, tensor.name)) is not None
    }


def part_bytes(folder: Path, stem: str) -> int:
    """Bytes of a part of a checkpoint, as it is stored: of its tensors, without headers.

    Args:
        folder: folder of the part.
        stem: of its files.

    Raises:
        RefusedArtefact: as `weights_digest`.
    """
    headers = [read_header(file) for file in weight_files(folder, stem)]
    return sum(tensor.stop - tensor.begin for header in headers for tensor in header.tensors)


def variant_of(folder: Path, parts: Mapping[str, str]) -> str | None:
    """The variant of a checkpoint's weights, such as ``fp16``; None where their names tell of none.

    A loader is told one variant for all parts, so they must agree. Where plain weights lie beside those of a variant,
    loaders open the plain ones, and `weight_files` refuses the others.

    Raises:
        RefusedArtefact: they do not.
    """
    found = {part: _variant(folder / part, stem) for part, stem in parts.items()}
    if len(variants := set(found.values())) > 1:
        shown = ", ".join(f"{part}: {variant or 'none'}" for part, variant in found.items())
        raise RefusedArtefact.of(
            folder, "mixed-variants", f"its parts are of different variants ({shown})", "download one variant of all"
        )
    return variants.pop()


def weight_files(part: Path, stem: str) -> list[Path]:
    """The files of a part that the loaders open; other weights beside them are refused.

    Args:
        part: folder of the part.
        stem: of its files.

    Raises:
        RefusedArtefact: files are missing, or there are others.
    """
    variant = _variant(part, stem)
    whole = f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"
    index = part / f"{stem}.safetensors.index.json"
    found = {p.relative_to(part).as_posix() for p in part.rglob("*") if _WEIGHT_FILE.search(p.name)}
    sharded = index.name in found and whole not in found
    shards = _shards_by_tensor(index) if sharded else {}
    opened = set(shards.values()) or {whole}
    if missing := sorted(opened - found):
        raise RefusedArtefact.of(
            index if sharded else part,
            "missing-weights",
            f"missing shards {quoted(missing)}" if sharded else f"no {whole}",
            _WHOLE,
        )
    if others := sorted(found - opened - ({index.name} if sharded else set())):
        raise RefusedArtefact.of(
            part,
            "extra-weights",
            f"holds {quoted(others)} beside the weights that are loaded",
            "keep one set of weights in each part; remove the others",
        )
    files = [part / name for name in sorted(opened)]
    if sharded:
        _check_index(index, shards, files)
    return files


def _variant(part: Path, stem: str) -> str | None:
    """The variant of a part that holds one file of weights, such as ``model.fp16.safetensors``."""
    names = [path.name for path in part.glob("*.safetensors")]
    found = re.fullmatch(rf"{re.escape(stem)}\.(\w+)\.safetensors", names[0]) if len(names) == 1 else None
    return found and found[1]


def _shards_by_tensor(index: Path) -> dict[str, str]:
    weight_map = read_object(index, MOST_HEADER).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise RefusedArtefact.of(
            index, "bad-index", f"names no shards: weight_map is {quoted(weight_map)}", "download it again"
        )
    for file in weight_map.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file):
            raise RefusedArtefact.of(
                index, "bad-index", f"{quoted(file)} names no safetensors file of its folder", "download it again"
            )
    return weight_map


def _check_index(index: Path, shards: dict[str, str], files: list[Path]) -> None:
    held = {tensor.name: file.name for file in files for tensor in read_header(file).tensors}
    for name in sorted(shards.keys() | held.keys()):
        if shards.get(name) != held.get(name):
            raise RefusedArtefact.of(
                index,
                "bad-index",
                f"tensor {quoted(name)} should be in {shards.get(name)}, it is in {held.get(name)}",
                "shards of two checkpoints are mixed; download them again",
            )
