"""The closed-form start of a pass: one linear solve brings values of the name near those of its anchor.

The idea is that of the closed-form editors (UCE, arXiv 2308.14761); the retain set is the language's covariance
instead of a list of concepts (method note, section 6).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.attention import EditedLinear


@torch.no_grad()
def redirect(
    layers: dict[str, EditedLinear], given: Tensor, wanted: Tensor, covariance: Tensor, preserve: float, damping: float
) -> None:
    """Adds to each layer's edit the least-squares change that maps the given states as the wanted ones were mapped.

    With W the checkpoint's weight, E the edit so far and (g, n) the pairs of states, the change D minimises

        mean || (W + E + D) g - W n ||^2 + beta tr(D (C + lam I) D^T)

    Args:
        layers: from `fmn_guard.model.attention.edited_values`.
        given: (M, d), states of sentences with the name.
        wanted: (M, d), states of their anchors, position by position.
        covariance: C of the retained language, (d, d) float64.
        preserve: beta > 0; larger keeps more of the language and leaves more of the name.
        damping: lam > 0.
    """
    given, wanted = given.double(), wanted.double()
    eye = torch.eye(len(covariance), dtype=torch.float64)
    moment = given.T @ given / len(given)
    solve = given @ torch.linalg.inv(preserve * (covariance + damping * eye) + moment) / len(given)
    for layer in layers.values():
        weight = layer.frozen.weight.cpu().double()
        rest = wanted @ weight.T - given @ (weight + layer.edit.cpu().double()).T
        layer.edit = layer.edit + (rest.T @ solve).to(layer.edit)
