"""Merges passes that each started from the base: one linear solve a head does what each does on its own concept.

Passes that ran in turn are mended by the same solve: then what they do together is wanted on the concept of each.

The idea is that of MACE's fusion (arXiv 2403.06135). As in `fmn_guard.forget.closed_form`, what is preserved is the
language itself, and states count as heads read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.attention import EditedLinear
from .reading import Moments


class Wanted(NamedTuple):
    """What is wanted on one concept.

    Attributes:
        edits: the change of each layer's weight, from the base, that does it: (out, in).
        read: mean of r r^T over what heads read of the concept.
    """

    edits: dict[str, Tensor]
    read: Moments


@torch.no_grad()
def merge(
    layers: dict[str, EditedLinear], passes: Sequence[Wanted], language: Moments, preserve: float, damping: float
) -> None:
    """Sets each layer's edit to the least-squares merger of all passes.

    With E_c the edit of pass c, r what a head reads of its concept and C the language's moment, the edit E of each
    head minimises

        sum_c mean || (E - E_c) r ||^2 + beta tr(E (C + lam I) E^T)

    Args:
        layers: from `fmn_guard.model.attention.edited_values`.
        passes: what is merged; the order does not matter.
        language: C.
        preserve: beta > 0; smaller is closer to what each pass does by itself.
        damping: lam > 0.
    """
    for name, layer in layers.items():
        reads = torch.stack([each.read[name] for each in passes])  # (passes, heads, d, d)
        edits = torch.stack([layer.by_head(each.edits[name]) for each in passes])  # (passes, heads, out / heads, d)
        eye = torch.eye(reads.shape[-1], dtype=torch.float64)
        system = preserve * (language[name] + damping * eye) + reads.sum(0)
        wanted = (edits @ reads).sum(0)
        solved = torch.cholesky_solve(wanted.mT, torch.linalg.cholesky(system)).mT
        layer.edit = solved.flatten(0, 1).to(layer.edit)
