"""The closed-form start against an independent least-squares solver."""

from __future__ import annotations

import numpy as np
import torch

from fmn_guard.forget.closed_form import redirect, redirect_holding
from fmn_guard.forget.retain import Retained
from fmn_guard.model.attention import EditedLinear

PRESERVE, DAMPING, HEADS = 3.0, 1e-2, 2


def test_it_is_each_head_s_least_squares_solution_for_the_name_and_the_retained_language():
    rng = np.random.default_rng(0)
    given, wanted, retained = (rng.normal(size=(HEADS, n, 6)) for n in (40, 40, 90))
    layer = EditedLinear(torch.nn.Linear(6, 4, bias=False), HEADS)
    layer.edit = torch.from_numpy(rng.normal(size=(4, 6))).float()
    weight, edit = layer.frozen.weight.detach().double().numpy(), layer.edit.double().numpy()
    expected = []
    for head in range(HEADS):
        w, e = weight[2 * head : 2 * head + 2], edit[2 * head : 2 * head + 2]
        g, n, r = given[head], wanted[head], retained[head]
        # one row a wanted equation, scaled to its weight in the objective
        rows = [g / np.sqrt(40), r * np.sqrt(PRESERVE / 90), np.eye(6) * np.sqrt(PRESERVE * DAMPING)]
        right = np.concatenate([(n @ w.T - g @ (w + e).T) / np.sqrt(40), np.zeros((96, 2))])
        solution, *_ = np.linalg.lstsq(np.concatenate(rows), right, rcond=None)
        expected.append(solution.T)

    def mean(a: np.ndarray, b: np.ndarray) -> dict[str, torch.Tensor]:
        return {"v": torch.from_numpy(np.einsum("hni,hnj->hij", a, b) / a.shape[1])}

    redirect({"v": layer}, mean(given, given), mean(wanted, given), mean(retained, retained), PRESERVE, DAMPING)
    np.testing.assert_allclose(layer.edit.numpy() - edit, np.concatenate(expected), atol=1e-5)


def test_words_are_held_until_a_solution_moves_no_other_and_each_solution_begins_from_the_edits_before():
    rng = np.random.default_rng(1)

    def moment(count: int) -> dict[str, torch.Tensor]:
        rows = torch.from_numpy(rng.normal(size=(HEADS, count, 6)))
        return {"v": rows.mT @ rows / count}

    before = {"v": torch.from_numpy(rng.normal(size=(4, 6))).float()}
    layer = EditedLinear(torch.nn.Linear(6, 4, bias=False), HEADS)
    wanted, language, words = (moment(40), moment(40)), moment(90), (moment(20), moment(20))
    asked = []

    def solution(held: int) -> torch.Tensor:
        layer.edit = before["v"]
        redirect({"v": layer}, *wanted, retaining(held).whole, PRESERVE, DAMPING)
        return layer.edit

    def retaining(held: int) -> Retained:
        return Retained({"v": language["v"] + sum((word["v"] for word in words[:held]), torch.zeros(()))}, {})

    def hold_nearest(begun, held):
        assert begun is before and torch.equal(layer.edit, solutions[len(held)])
        asked.append(held)
        more = ("fox", "owl")[: len(held) + 1]
        return more, retaining(len(more))

    solutions = [solution(held) for held in range(3)]
    for looks, hold, held in ((0, hold_nearest, 0), (1, hold_nearest, 1), (9, hold_nearest, 2), (9, None, 0)):
        asked.clear()
        found, left = redirect_holding({"v": layer}, wanted, before, retaining(0), PRESERVE, DAMPING, hold, looks)
        assert found == ("fox", "owl")[:held] and torch.equal(left.whole["v"], retaining(held).whole["v"])
        assert torch.equal(layer.edit, solutions[held])
        assert asked == [("fox", "owl")[:n] for n in range(min(looks, 3) if hold else 0)]
