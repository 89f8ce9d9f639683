"""The weights of a checkpoint, read without torch: which files a loader opens, and one digest over their tensors."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .errors import InputError, RefusedArtefact
from .record import Digest, bytes_digest

WEIGHTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "vae": "diffusion_pytorch_model"}
"""Parts of a checkpoint, each with the stem of the only files that the loaders open."""
_WEIGHT_FILE = re.compile(r"\.safetensors$|\.index(\.[\w-]+)?\.json$")


def weights_digest(folder: Path) -> Digest:
    """Digest of a checkpoint's weights: UNet, text encoder and autoencoder.

    Tensor names lose the ``text_model.`` prefix that transformers 5 dropped.

    Raises:
        RefusedArtefact: a part is missing or truncated, or holds other weights than the loaders open.
    """
    content = b""
    for part in WEIGHTS:
        rows: dict[str, bytes] = {}
        for file in _shards(folder / part):
            for name, row in _tensor_rows(file):
                key = f"{part}.{name.removeprefix('text_model.')}"
                if key == "text_encoder.embeddings.position_ids":
                    continue  # a buffer that old libraries saved; it is counted up from 0, never loaded
                if key in rows:
                    raise RefusedArtefact(f"{file}: tensor {name} occurs twice", hint="re-save the checkpoint")
                rows[key] = row
        for key in sorted(rows):
            content += key.encode() + b"\0" + rows[key]
    return bytes_digest(content)


def unet_bytes(folder: Path) -> int:
    """Bytes of a checkpoint's UNet, as it is stored: of its tensors, without headers.

    Raises:
        RefusedArtefact: as `weights_digest`.
    """
    total = 0
    for file in _shards(folder / "unet"):
        with file.open("rb") as stream:
            total += file.stat().st_size - 8 - struct.unpack("<Q", stream.read(8))[0]
    return int(total)


def read_json(path: Path) -> dict[str, Any]:
    """Reads one configuration of a checkpoint.

    Raises:
        InputError: it is missing or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing",
            hint="a diffusers folder has model_index.json, unet, vae, text_encoder, tokenizer, scheduler",
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}", hint="re-save the pipeline") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold an object", hint="re-save the pipeline")
    return data


def _shards(part: Path) -> list[Path]:
    """The files of a part that the loaders open; other weights, and settings that name others, are refused."""
    if "transformers_weights" in read_json(part / "config.json"):
        raise RefusedArtefact(
            f"{part / 'config.json'}: transformers_weights names other weights than the usual file",
            hint="remove the key, and give the weights their usual name",
        )
    if (part / "adapter_config.json").exists():
        raise RefusedArtefact(
            f"{part / 'adapter_config.json'} makes the loader open an adapter too", hint="merge it into the weights"
        )
    whole = f"{WEIGHTS[part.name]}.safetensors"
    index = part / f"{whole}.index.json"
    found = {p.relative_to(part).as_posix() for p in part.rglob("*") if _WEIGHT_FILE.search(p.name)}
    sharded = index.name in found and whole not in found
    opened = _named_shards(index) if sharded else {whole}
    if missing := sorted(opened - found):
        raise RefusedArtefact(
            f"{part}: missing shards {', '.join(missing)}" if sharded else f"{part}: no {whole}",
            hint="download the whole checkpoint, or re-save with save_pretrained(..., safe_serialization=True)",
        )
    if others := sorted(found - opened - ({index.name} if sharded else set())):
        raise RefusedArtefact(
            f"{part}: {', '.join(others)} beside the weights that are loaded",
            hint="keep one set of weights, without a variant, in each part; remove the others",
        )
    return [part / name for name in sorted(opened)]


def _named_shards(index: Path) -> set[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise RefusedArtefact(f"{index} names no shards", hint="it is damaged; download it again")
    return {str(file) for file in weight_map.values()}


def _tensor_rows(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yields (name, dtype + shape + content hash) of every tensor of a safetensors file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(size - 8, 100_000_000):
            raise RefusedArtefact(f"{file} is no safetensors file", hint="it is truncated or of another format")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise RefusedArtefact(f"{file}: damaged safetensors header", hint="download it again") from error
        tensors = _tensors(header)
        if tensors is None:
            raise RefusedArtefact(
                f"{file}: its header does not describe its tensors", hint="it is damaged; download it again"
            )
        end = 8 + length + (tensors[-1].stop if tensors else 0)
        if end != size:
            raise RefusedArtefact(
                f"{file}: {size} bytes, its header says {end}", hint="it is truncated; download it again"
            )
        for tensor in tensors:
            content = hashlib.sha256()
            left = tensor.stop - tensor.begin
            while left:
                block = stream.read(min(left, 1 << 22))
                content.update(block)
                left -= len(block)
            yield tensor.name, tensor.layout.encode() + content.digest()


class _Tensor(NamedTuple):
    name: str
    layout: str
    begin: int
    stop: int


def _tensors(header: object) -> list[_Tensor] | None:
    """Tensors of a safetensors header in file order; None unless they fill the file without gap or overlap."""
    try:
        tensors = [
            _Tensor(name, f"{entry['dtype']}[{','.join(map(str, entry['shape']))}]", *entry["data_offsets"])
            for name, entry in header.items()  # type: ignore[attr-defined]
            if name != "__metadata__"
        ]
        tensors.sort(key=lambda tensor: (tensor.begin, tensor.stop))
        starts = (0, *(tensor.stop for tensor in tensors))
        sound = all(
            isinstance(tensor.stop, int) and start == tensor.begin <= tensor.stop
            for start, tensor in zip(starts, tensors, strict=False)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tensors if sound else None
