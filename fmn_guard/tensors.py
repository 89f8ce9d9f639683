"""A safetensors file, read without torch: nothing is believed of it that was not held against its size.

file --read_header--> where each tensor lies    --tensor_rows--> its name and a digest of its dtype, shape and bytes
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .errors import RefusedArtefact, quoted
from .jsonfile import parse_object

MOST_HEADER = 16 << 20
"""Bytes of a header that are read. That of the largest Stable Diffusion XL file has some hundred thousand."""
_BLOCK = 1 << 22  # bytes in memory at once; a multiple of every item size
_AGAIN = "it is damaged; download it again"


class _Format(NamedTuple):
    """How a number is laid out.

    Attributes:
        size: Bytes, little end first.
        special: Two masks, of its last byte and of the one before: all of their bits are set in infinity and NaN only.
            None where every pattern is a number.
    """

    size: int
    special: tuple[int, int] | None = None


_FORMATS = {
    **dict.fromkeys(("BOOL", "U8", "I8"), _Format(1)),
    **dict.fromkeys(("U16", "I16"), _Format(2)),
    **dict.fromkeys(("U32", "I32"), _Format(4)),
    **dict.fromkeys(("U64", "I64"), _Format(8)),
    "F16": _Format(2, (0x7C, 0)),
    "BF16": _Format(2, (0x7F, 0x80)),
    "F32": _Format(4, (0x7F, 0x80)),
    "F64": _Format(8, (0x7F, 0xF0)),
}


class StoredTensor(NamedTuple):
    """Where a tensor lies in its file.

    Attributes:
        name: Its name.
        dtype: As safetensors calls it, such as ``F16``.
        shape: Its shape.
        begin: Its first byte, counted from the end of the header.
        stop: The byte after its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    stop: int


class Header(NamedTuple):
    """What a safetensors file says of itself.

    Attributes:
        length: Bytes of the file before the first tensor.
        tensors: In the order in which they lie in the file, which they fill without gap or overlap.
        metadata: What else it says.
    """

    length: int
    tensors: tuple[StoredTensor, ...]
    metadata: dict[str, str]


def read_header(file: Path) -> Header:
    """Reads the header of a safetensors file.

    Raises:
        RefusedArtefact: it is of another format, damaged or truncated, or its header is longer than `MOST_HEADER`.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= size - 8:
            raise RefusedArtefact.of(file, "not-safetensors", _looks_like(prefix), "it is truncated, or misnamed")
        if length > MOST_HEADER:
            raise RefusedArtefact.of(
                file, "header-too-large", f"has a header of {length:,} bytes; {MOST_HEADER:,} are read at most", _AGAIN
            )
        entries = parse_object(stream.read(length), file)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise RefusedArtefact.of(file, "bad-header", f"metadata is {quoted(metadata)}, not texts by name", _AGAIN)
    tensors = sorted((_stored(file, *item) for item in entries.items()), key=lambda t: (t.begin, t.stop))
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            raise RefusedArtefact.of(
                file,
                "bad-header",
                f"its header does not describe its tensors: {quoted(tensor.name)} begins at {tensor.begin}, not {end}",
                _AGAIN,
            )
        end = tensor.stop
    if 8 + length + end != size:
        raise RefusedArtefact.of(
            file, "wrong-size", f"has {size:,} bytes, its header says {8 + length + end:,}", "it is truncated or padded"
        )
    return Header(8 + length, tuple(tensors), metadata)


def _looks_like(prefix: bytes) -> str:
    if prefix.startswith(b"PK"):
        return "is no safetensors file but a zip archive, as torch.save writes it"
    if prefix[:1] == b"\x80" and prefix[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "is no safetensors file but a pickle, which can run code when loaded"
    return f"is no safetensors file: it begins with {quoted(prefix)}"


def _stored(file: Path, name: str, entry: object) -> StoredTensor:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(stop)]} if all(
            type(n) is int and n >= 0 for n in (*shape, begin, stop)
        ):
            pass
        case _:
            raise RefusedArtefact.of(
                file,
                "bad-header",
                f"its header does not describe its tensors: {quoted(name)} is {quoted(entry)}",
                _AGAIN,
            )
    if (known := _FORMATS.get(dtype)) is None:
        raise RefusedArtefact.of(
            file,
            "unknown-dtype",
            f"tensor {quoted(name)} is {quoted(dtype)}, not one of {', '.join(_FORMATS)}",
            "re-save the checkpoint as float32, float16 or bfloat16",
        )
    # Exact, however large a hostile shape is: multiplied, a few thousand factors take long, so they are counted first.
    if len(shape) > 8 or stop - begin != math.prod(shape) * known.size:
        raise RefusedArtefact.of(
            file,
            "bad-header",
            f"its header does not describe its tensors: {quoted(name)}, {quoted(shape)}, in {stop - begin} bytes",
            _AGAIN,
        )
    return StoredTensor(name, dtype, tuple(shape), begin, stop)


def tensor_rows(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yields (name, dtype + shape + content hash) of every tensor of a safetensors file; reads it once.

    Raises:
        RefusedArtefact: see `read_header`; or a tensor holds a value that is not a finite number.
    """
    header = read_header(file)
    with file.open("rb") as stream:
        stream.seek(header.length)
        for tensor in header.tensors:
            content = hashlib.sha256()
            left = tensor.stop - tensor.begin
            while left:
                block = stream.read(min(left, _BLOCK))
                if not block:
                    raise RefusedArtefact.of(file, "wrong-size", "became shorter while it was read", _AGAIN)
                if not _finite(block, _FORMATS[tensor.dtype]):
                    raise RefusedArtefact.of(
                        file,
                        "not-finite",
                        f"tensor {quoted(tensor.name)} holds NaN or infinity",
                        "a model with it draws nothing; take the checkpoint from before it broke",
                    )
                content.update(block)
                left -= len(block)
            layout = f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]"
            yield tensor.name, layout.encode() + content.digest()


def _finite(block: bytes, layout: _Format) -> bool:
    """Whether a block of numbers holds neither NaN nor infinity.

    Weights whose last byte has all bits of the first mask set are huge and hardly ever there, which is quickly seen.
    """
    if layout.special is None:
        return True
    last, before = layout.special
    high = block[layout.size - 1 :: layout.size]
    if not any(byte in high for byte in range(256) if byte & last == last):
        return True
    low = block[layout.size - 2 :: layout.size]
    return not int.from_bytes(_marked(high, last)) & int.from_bytes(_marked(low, before))


def _marked(column: bytes, mask: int) -> bytes:
    """1 where all bits of a mask are set, 0 elsewhere."""
    return column.translate(bytes(byte & mask == mask for byte in range(256)))
