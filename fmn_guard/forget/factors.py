"""An edit in few numbers: of each layer the low-rank factors that deliver nearly all of it, or its differences.

A layer's output is its weight times what it reads, so an edit D is as good as another one D' where the mean over what
is read, || (D - D') r ||^2 = tr((D - D') M (D - D')^T) with M the second moment of r, is small. The best D' of rank k
keeps the outputs in which D delivers most: D' = U U^T D, with U the k leading eigenvectors of D M D^T. How D differs
from D' where nothing ever reads it does not count, and that is most of a projected edit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..passes import StoredAs

_STORED = torch.float16  # rounds to a two-thousandth; what is stored is what later passes and the audit see


class Factors(NamedTuple):
    """A low-rank edit up @ down: (out, k) and (k, in)."""

    up: Tensor
    down: Tensor


Edit = Tensor | Factors
"""What is added to a weight: its differences, or their factors."""


def dense(edit: Edit) -> Tensor:
    """The differences, float32."""
    if isinstance(edit, Factors):
        # in double precision, lest the last bits depend on how many threads there are
        return (edit.up.double() @ edit.down.double()).float()
    return edit.float()


def bytes_of(edit: Edit) -> int:
    """How many bytes an edit takes in a file."""
    return sum(part.nbytes for part in (edit if isinstance(edit, Factors) else (edit,)))


class Stored(NamedTuple):
    """The edit of a pass, as it is stored."""

    edits: dict[str, Edit]
    error: float
    """How far it is from the edit that was computed: root mean square over what layers read, relative to what their
    weights deliver of it; the mean over layers."""


def store(
    changes: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    read: Mapping[str, Tensor],
    how: StoredAs | None,
    denoiser_bytes: int,
) -> Stored:
    """Stores the edit of a pass in as few bytes as its plan allows.

    The directions that deliver most for their bytes are kept, over all layers, until what is left out is below the
    error that the plan allows or the bytes that it allows are used up.

    Args:
        changes: differences by parameter name; those without any are left out.
        weights: the checkpoint's own weights, by the same names.
        read: (in, in), second moments of what a layer reads; where there is none, every input counts the same.
        how: what the plan allows; None stores float32 differences.
        denoiser_bytes: bytes of what draws in the base, as it is stored.
    """
    changes = {name: change.detach().cpu() for name, change in sorted(changes.items()) if change.any()}
    largest = max((change.abs().max().item() for change in changes.values()), default=0.0)
    # what has diverged is kept as it is, for the audit to see
    if how is None or not math.isfinite(largest) or largest >= torch.finfo(_STORED).max:
        return Stored({name: change.float().contiguous() for name, change in changes.items()}, 0.0)
    layers = {
        name: _Layer(change.double(), weights[name].detach().cpu().double(), read.get(name))
        for name, change in changes.items()
        if change.ndim == 2
    }
    ranks = _ranks(
        layers, how.error, how.share * denoiser_bytes - sum(2 * c.numel() for c in changes.values() if c.ndim != 2)
    )
    edits = {name: layers[name].cut(ranks[name]) if name in layers else c.to(_STORED) for name, c in changes.items()}
    lost = [layer.energy(layer.change - dense(edits[name]).double()) for name, layer in layers.items()]
    edits = {name: edit for name, edit in edits.items() if bytes_of(edit)}
    return Stored(edits, math.sqrt(sum(lost) / len(lost)) if lost else 0.0)


class _Layer:
    """One layer's change, taken apart by how much it delivers."""

    def __init__(self, change: Tensor, weight: Tensor, read: Tensor | None) -> None:
        self.change = change
        self._read = torch.eye(change.shape[1], dtype=change.dtype) if read is None else read.cpu().double()
        self._size = (weight @ self._read * weight).sum().item() or 1.0
        values, vectors = torch.linalg.eigh(change @ self._read @ change.T)
        self._outputs = vectors.flip(1)
        self.delivered: list[float] = (values.flip(0).clamp(min=0) / self._size).tolist()
        self.direction_bytes = 2 * sum(change.shape)
        self.most = -(-change.numel() // sum(change.shape))  # at this rank the differences are smaller

    def energy(self, change: Tensor) -> float:
        """What a change delivers, squared, relative to the weight's own."""
        return (change @ self._read * change).sum().item() / self._size

    def cut(self, rank: int) -> Edit:
        if rank >= self.most:
            return self.change.to(_STORED).contiguous()
        up = self._outputs[:, :rank]
        # an eigenvector has no sign of its own
        up = up * up.gather(0, up.abs().argmax(0, keepdim=True)).sign()
        up = up.to(_STORED)
        return Factors(up.contiguous(), (up.double().T @ self.change).to(_STORED).contiguous())


def _ranks(layers: Mapping[str, _Layer], error: float, budget: float) -> dict[str, int]:
    """How many directions of each layer are kept."""
    directions = sorted(
        (
            (delivered / layer.direction_bytes, name, delivered)
            for name, layer in layers.items()
            for delivered in layer.delivered
        ),
        reverse=True,
    )
    ranks = dict.fromkeys(layers, 0)
    left, used = sum(delivered for _, _, delivered in directions), 0
    for _, name, delivered in directions:
        layer = layers[name]
        costs = layer.direction_bytes if ranks[name] < layer.most else 0
        if left <= error**2 * len(layers) or used + costs > budget:
            break
        ranks[name] += 1
        left, used = left - delivered, used + costs
    return ranks
