"""The merger of passes against an independent least-squares solver, and what merging must leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmn_guard.forget.merge import Wanted, merge
from fmn_guard.model.attention import EditedLinear

PRESERVE, DAMPING, HEADS, WIDTH = 0.7, 1e-2, 2, 6


def moment(states):
    return {"v": torch.from_numpy(np.einsum("hni,hnj->hij", states, states) / states.shape[1])}


def merged(edits, reads, retained, preserve=PRESERVE):
    layer = EditedLinear(torch.nn.Linear(WIDTH, 4, bias=False), HEADS)
    layer.edit = torch.full_like(layer.edit, 9.0)  # what the last pass left must not count
    passes = [Wanted({"v": torch.from_numpy(e).float()}, moment(r)) for e, r in zip(edits, reads, strict=True)]
    merge({"v": layer}, passes, moment(retained), preserve, DAMPING)
    return layer.edit.double().numpy()


def test_it_does_on_each_concept_s_states_what_its_pass_does_as_least_squares_say():
    rng = np.random.default_rng(0)
    edits = [rng.normal(size=(4, WIDTH)).astype(np.float32).astype(np.float64) for _ in range(3)]
    reads = [rng.normal(size=(HEADS, n, WIDTH)) for n in (30, 40, 50)]
    retained = rng.normal(size=(HEADS, 90, WIDTH))
    expected = []
    for head in range(HEADS):
        own = [e[2 * head : 2 * head + 2] for e in edits]
        # one row a wanted equation, scaled to its weight in the objective
        rows = [r[head] / np.sqrt(r.shape[1]) for r in reads]
        right = [row @ e.T for row, e in zip(rows, own, strict=True)]
        kept = [retained[head] * np.sqrt(PRESERVE / 90), np.eye(WIDTH) * np.sqrt(PRESERVE * DAMPING)]
        whole = np.concatenate([*right, np.zeros((90 + WIDTH, 2))])
        solution, *_ = np.linalg.lstsq(np.concatenate([*rows, *kept]), whole, rcond=None)
        expected.append(solution.T)
    np.testing.assert_allclose(merged(edits, reads, retained), np.concatenate(expected), atol=1e-5)


def test_passes_whose_states_share_no_direction_are_merged_without_loss():
    rng = np.random.default_rng(1)
    reads = [np.zeros((HEADS, 20, WIDTH)) for _ in range(2)]
    reads[0][..., :2], reads[1][..., 2:4] = rng.normal(size=(2, HEADS, 20, 2))
    retained = np.zeros((HEADS, 20, WIDTH))
    retained[..., 4:] = rng.normal(size=(HEADS, 20, 2))
    edits = [rng.normal(size=(4, WIDTH)) for _ in range(2)]
    found = merged(edits, reads, retained, preserve=1e-6)
    np.testing.assert_allclose(found[:, :2], edits[0][:, :2], atol=1e-5)
    np.testing.assert_allclose(found[:, 2:4], edits[1][:, 2:4], atol=1e-5)
    np.testing.assert_allclose(found[:, 4:], 0, atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_order_of_passes_does_not_matter(order):
    rng = np.random.default_rng(2)
    edits = [rng.normal(size=(4, WIDTH)) for _ in range(3)]
    reads = [rng.normal(size=(HEADS, 30, WIDTH)) for _ in range(3)]
    retained = rng.normal(size=(HEADS, 90, WIDTH))
    usual = merged(edits, reads, retained)
    other = merged([edits[i] for i in order], [reads[i] for i in order], retained)
    np.testing.assert_allclose(usual, other, atol=1e-6)


def test_more_weight_on_the_language_moves_it_less():
    rng = np.random.default_rng(3)
    edits = [rng.normal(size=(4, WIDTH)) for _ in range(2)]
    reads = [rng.normal(size=(HEADS, 30, WIDTH)) for _ in range(2)]
    retained = rng.normal(size=(HEADS, 90, WIDTH))
    moved = []
    for preserve in (0.01, 1.0, 100.0):
        found = merged(edits, reads, retained, preserve).reshape(HEADS, 2, WIDTH)
        moved.append(sum(np.square(retained[h] @ found[h].T).sum() for h in range(HEADS)))
    assert moved[0] > moved[1] > moved[2]
