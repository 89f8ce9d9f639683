"""Seconds and memory of one process, whose arm is the only thing that it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

_STATUS = Path("/proc/self/status")


class Lap(NamedTuple):
    """A moment: the clock, and how long this process has computed until then. Beside other work they differ."""

    wall: float
    busy: float

    @classmethod
    def now(cls) -> Lap:
        return cls(time.perf_counter(), time.process_time())

    def since(self, before: Lap) -> dict[str, float]:
        return {"seconds": round(self.wall - before.wall, 3), "busy": round(self.busy - before.busy, 3)}


def memory() -> int:
    """Bytes of this process that are in memory."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that were in memory since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Begins to look for the peak anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def available() -> int:
    """Bytes that the machine has left."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(lines["MemAvailable"].split()[0]) << 10


def _status(key: str) -> int:
    lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[key].split()[0]) << 10


class Kept(NamedTuple):
    """Bytes that layers keep for the backward pass.

    Attributes:
        whole: All of them.
        maps: Those of cross-attention maps.
    """

    whole: int
    maps: int


@contextmanager
def kept_bytes(weights: Iterator[Tensor]) -> Iterator[list[Tensor]]:
    """Notes what layers keep for the backward pass meanwhile, but for the weights; to be looked at by `counted`."""
    own = {weight.data_ptr() for weight in weights}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def counted(kept: list[Tensor], tokens: int, pixels: int) -> Kept:
    """How many bytes there are in what was kept; what shares memory counts once.

    Args:
        kept: from `kept_bytes`, still alive.
        tokens: of a prompt.
        pixels: of latents; a map has a row for each of them, or for each 4th, 16th or 64th.
    """
    rows = {pixels // 4**level for level in range(4)}
    stores = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    maps = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in kept
        if t.ndim >= 3 and t.shape[-1] == tokens and t.shape[-2] in rows
    }
    return Kept(sum(stores.values()), sum(maps.values()))
