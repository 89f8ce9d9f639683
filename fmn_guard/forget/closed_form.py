"""The closed-form solution of a pass: one linear solve a head brings what it reads of the name near the anchor.

The idea is that of the closed-form editors (UCE, arXiv 2308.14761). Two things differ: the retain set is the language
itself instead of a list of concepts (method note, section 6), and states count as heads read them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..model.attention import EditedLinear
from .reading import Moments
from .retain import Retained

HoldNearest = Callable[[dict[str, Tensor], tuple[str, ...]], tuple[tuple[str, ...], Retained]]


def redirect_holding(
    layers: dict[str, EditedLinear],
    wanted: tuple[Moments, Moments],
    before: dict[str, Tensor],
    retained: Retained,
    preserve: float,
    damping: float,
    hold_nearest: HoldNearest | None,
    looks: int,
    held: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], Retained]:
    """`redirect` from the edits before a pass, solved again with those words held that each solution moves most.

    Args:
        layers: from `fmn_guard.model.attention.edited_values`.
        wanted: ``given`` and ``crossed`` of `redirect`.
        before: edits before the pass.
        retained: what must be left alone, with the words already held.
        preserve: see `redirect`.
        damping: see `redirect`.
        hold_nearest: says, from the edits before and the words already held, these and those that the solution in the
            layers moves most, and what must be left alone with all of them held.
        looks: how often it is asked, at most: a look that finds no other word is the last.
        held: words already held.

    Returns:
        All words that are held now, and what must be left alone with them.
    """

    def solve(retained: Retained) -> None:
        for name, layer in layers.items():
            layer.edit = before[name]
        redirect(layers, *wanted, retained.whole, preserve, damping)

    return solve_holding(solve, before, retained, hold_nearest, looks, held)


def solve_holding(
    solve: Callable[[Retained], None],
    before: dict[str, Tensor],
    retained: Retained,
    hold_nearest: HoldNearest | None,
    looks: int,
    held: tuple[str, ...] = (),
) -> tuple[tuple[str, ...], Retained]:
    """Solves, and solves again with those words held that each solution moves most; see `redirect_holding`.

    Args:
        solve: puts a solution into the layers that leaves alone what it is given.
        before: edits that solutions are compared with.
        retained: what must be left alone, with the words already held.
        hold_nearest: as of `redirect_holding`.
        looks: how often it is asked, at most.
        held: words already held.
    """
    for left in range(looks if hold_nearest else 0, -1, -1):
        solve(retained)
        if left and hold_nearest:
            more, with_more = hold_nearest(before, held)
            if more == held:
                break
            held, retained = more, with_more
    return held, retained


@torch.no_grad()
def redirect(
    layers: dict[str, EditedLinear],
    given: Moments,
    crossed: Moments,
    language: Moments,
    preserve: float,
    damping: float,
) -> None:
    """Adds to each layer's edit the least-squares change that delivers the anchor where the name is read.

    With W the checkpoint's weight, E the edit so far, g what a head reads of the name, n what the same attention reads
    of the anchor and C the language's moment, the change D of each head minimises

        mean || (W + E + D) g - W n ||^2 + beta tr(D (C + lam I) D^T)

    Args:
        layers: from `fmn_guard.model.attention.edited_values`.
        given: means of g g^T.
        crossed: means of n g^T.
        language: C.
        preserve: beta > 0; larger keeps more of the language and leaves more of the name.
        damping: lam > 0.
    """
    for name, layer in layers.items():
        weight, edit = layer.by_head(layer.frozen.weight), layer.by_head(layer.edit)
        rest = weight @ crossed[name] - (weight + edit) @ given[name]  # (heads, out / heads, d)
        eye = torch.eye(rest.shape[-1], dtype=torch.float64)
        system = preserve * (language[name] + damping * eye) + given[name]
        # not inv(): MKL's batched LU fails on several threads
        change = torch.cholesky_solve(rest.mT, torch.linalg.cholesky(system)).mT
        layer.edit = layer.edit + change.flatten(0, 1).to(layer.edit)
