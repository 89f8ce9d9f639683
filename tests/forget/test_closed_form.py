"""The closed-form start against an independent least-squares solver."""

from __future__ import annotations

import numpy as np
import torch

from fmn_guard.forget.closed_form import redirect
from fmn_guard.model.attention import EditedLinear

PRESERVE, DAMPING = 3.0, 1e-2


def test_it_is_the_least_squares_solution_for_the_name_and_the_retained_language():
    rng = np.random.default_rng(0)
    given, wanted, retained = (rng.normal(size=(n, 6)) for n in (40, 40, 90))
    layer = EditedLinear(torch.nn.Linear(6, 4, bias=False))
    layer.edit = torch.from_numpy(rng.normal(size=(4, 6))).float()
    weight, edit = layer.frozen.weight.detach().double().numpy(), layer.edit.double().numpy()
    # one row a wanted equation, scaled to its weight in the objective
    rows = [
        given / np.sqrt(len(given)),
        retained * np.sqrt(PRESERVE / len(retained)),
        np.eye(6) * np.sqrt(PRESERVE * DAMPING),
    ]
    right = np.concatenate(
        [(wanted @ weight.T - given @ (weight + edit).T) / np.sqrt(len(given)), np.zeros((len(retained) + 6, 4))]
    )
    expected, *_ = np.linalg.lstsq(np.concatenate(rows), right, rcond=None)
    covariance = torch.from_numpy(retained.T @ retained / len(retained))
    redirect({"k": layer}, torch.from_numpy(given), torch.from_numpy(wanted), covariance, PRESERVE, DAMPING)
    np.testing.assert_allclose(layer.edit.numpy() - edit, expected.T, atol=1e-5)
