"""Safetensors files, byte for byte: what the library does not promise, an order of metadata and of tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Element types of weights that can be edited, as headers spell them."""


class Entry(NamedTuple):
    """One tensor of a file: its bytes begin and end at these places of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """The beginning of a file, as it is, and what it says."""

    raw: bytes
    entries: dict[str, Entry]
    """In the order of their bytes."""
    metadata: dict[str, str]


def parse_header(raw: bytes) -> Header:
    """Reads the bytes of a header, the eight of its length in front."""
    said = json.loads(raw[8:])
    metadata = said.pop("__metadata__", {})
    entries = {
        name: Entry(each["dtype"], tuple(each["shape"]), *(len(raw) + place for place in each["data_offsets"]))
        for name, each in said.items()
    }
    return Header(raw, dict(sorted(entries.items(), key=lambda item: item[1][2:])), metadata)


def read_header(path: Path) -> Header:
    """Reads the header of a file that is known to be sound."""
    with path.open("rb") as file:
        length = file.read(8)
        return parse_header(length + file.read(struct.unpack("<Q", length)[0]))


def header_bytes(tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """A header.

    Args:
        tensors: name, element type, shape and bytes of each, in the order in which the file holds them.
        metadata: written in the order of its keys.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (end, end := end + size)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def saved(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole file, the same bytes for the same content whatever the number of keys in its metadata."""
    plain = save(dict(tensors))
    header = parse_header(plain[: 8 + struct.unpack("<Q", plain[:8])[0]])
    told = ((name, each.dtype, each.shape, each.end - each.begin) for name, each in header.entries.items())
    return header_bytes(told, metadata) + plain[len(header.raw) :]
