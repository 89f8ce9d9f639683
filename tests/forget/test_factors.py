"""Low-rank edits against the textbook: a singular value decomposition, weighted by what is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fmn_guard.forget.factors import Factors, bytes_of, dense, store
from fmn_guard.passes import StoredAs

PLENTY = 1 << 40


def problem(seed: int, out: int = 6, width: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A change, a weight, and a moment whose directions are read very unequally."""
    generator = torch.Generator().manual_seed(seed)
    change, weight, states = (torch.randn(n, width, generator=generator) for n in (out, out, 3 * width))
    states = (states * torch.logspace(0, -3, width)).double()
    return change, weight, states.T @ states / len(states)


def lost(left_out: np.ndarray, weight: torch.Tensor, moment: torch.Tensor) -> float:
    """|| D L || / || W L || with L L^T the moment."""
    root = np.linalg.cholesky(moment.numpy())
    return float(np.linalg.norm(left_out @ root) / np.linalg.norm(weight.double().numpy() @ root))


def best_of_rank(change: torch.Tensor, moment: torch.Tensor, rank: int) -> np.ndarray:
    """The change of a rank that delivers what is read most nearly: Eckart and Young, in the moment's coordinates."""
    root = np.linalg.cholesky(moment.numpy())
    u, s, v = np.linalg.svd(change.double().numpy() @ root, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] @ np.linalg.inv(root)


@given(seed=st.integers(0, 10_000), error=st.floats(0.01, 0.5))
@settings(max_examples=40, deadline=None)
def test_factors_are_the_best_of_their_rank_and_keep_the_error(seed: int, error: float) -> None:
    change, weight, moment = problem(seed)
    stored = store({"w": change}, {"w": weight}, {"w": moment}, StoredAs(error=error, share=1.0), PLENTY)
    edit = stored.edits.get("w")
    if isinstance(edit, torch.Tensor):  # as large as the differences
        assert stored.error < 1e-3
        return
    rank = 0 if edit is None else len(edit.down)
    reference = lost(change.double().numpy() - best_of_rank(change, moment, rank), weight, moment)
    assert stored.error == pytest.approx(reference, abs=1e-3)
    assert stored.error <= error + 1e-3
    if rank:
        smaller = change.double().numpy() - best_of_rank(change, moment, rank - 1)
        assert lost(smaller, weight, moment) > error - 1e-3


def test_stated_error_is_that_of_what_is_stored() -> None:
    change, weight, moment = problem(1)
    stored = store({"w": change}, {"w": weight}, {"w": moment}, StoredAs(error=0.2, share=1.0), PLENTY)
    left_out = (change - dense(stored.edits["w"])).double().numpy()
    assert stored.error == pytest.approx(lost(left_out, weight, moment), rel=1e-6)


@given(share=st.floats(0.0, 1.2))
@settings(max_examples=40, deadline=None)
def test_bytes_never_exceed_the_share(share: float) -> None:
    problems = {name: problem(seed, out) for name, seed, out in (("a", 1, 6), ("b", 2, 12), ("c", 3, 4))}
    change, weight, moment = ({name: each[i] for name, each in problems.items()} for i in range(3))
    stored = store(change, weight, moment, StoredAs(error=0.0, share=share), 1000)
    assert sum(map(bytes_of, stored.edits.values())) <= share * 1000


def test_differences_are_stored_where_they_are_smaller_than_factors() -> None:
    change, weight, moment = problem(0)
    edit = store({"w": change}, {"w": weight}, {"w": moment}, StoredAs(error=0.0, share=1.0), PLENTY).edits["w"]
    assert isinstance(edit, torch.Tensor)
    assert torch.equal(edit, change.half())


def test_directions_that_nothing_reads_cost_nothing() -> None:
    change, weight, _ = problem(0)
    read = torch.zeros(10, 10, dtype=torch.float64)
    read[0, 0] = 1.0
    stored = store({"w": change}, {"w": weight}, {"w": read}, StoredAs(error=1e-3, share=1.0), PLENTY)
    edit = stored.edits["w"]
    assert isinstance(edit, Factors) and len(edit.down) == 1
    torch.testing.assert_close(dense(edit)[:, 0], change[:, 0], rtol=2e-3, atol=2e-3)


def test_without_a_way_to_store_it_the_edit_is_kept_to_the_last_bit() -> None:
    change, weight, moment = problem(0)
    stored = store({"w": change, "still": torch.zeros(2)}, {"w": weight}, {"w": moment}, None, PLENTY)
    assert list(stored.edits) == ["w"]
    assert torch.equal(dense(stored.edits["w"]), change)
    assert stored.error == 0


@pytest.mark.parametrize("wild", [float("nan"), float("inf"), 1e6])
def test_what_has_diverged_is_kept_as_it_is(wild: float) -> None:
    change, weight, moment = problem(0)
    change[0, 0] = wild
    stored = store({"w": change}, {"w": weight}, {"w": moment}, StoredAs(error=0.1, share=0.01), 1000)
    torch.testing.assert_close(dense(stored.edits["w"]), change, equal_nan=True, rtol=0, atol=0)


def test_weights_without_rows_and_columns_are_stored_as_differences_within_the_share() -> None:
    change, weight, moment = problem(0)
    bias, kernel = torch.ones(6), torch.ones(2, 3, 3, 3)
    changes = {"w": change, "bias": bias, "kernel": kernel}
    weights = {"w": weight, "bias": bias, "kernel": kernel}
    stored = store(changes, weights, {"w": moment}, StoredAs(error=0.0, share=1.0), 200)
    assert torch.equal(dense(stored.edits["kernel"]), kernel)
    assert torch.equal(dense(stored.edits["bias"]), bias)
    assert sum(map(bytes_of, stored.edits.values())) <= 200


def test_same_edit_is_stored_in_the_same_bytes() -> None:
    change, weight, moment = problem(3)
    stored = [store({"w": change}, {"w": weight}, {"w": moment}, StoredAs(error=0.3, share=1), PLENTY) for _ in "ab"]
    assert torch.equal(stored[0].edits["w"].up, stored[1].edits["w"].up)
    assert torch.equal(stored[0].edits["w"].down, stored[1].edits["w"].down)
