"""A pass over its drift budget is taken back whole, and run again at a lower dose."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.evidence import PassRecord
from fmn_guard.forget.rollback import within_budget
from fmn_guard.model.attention import EditedLinear
from fmn_guard.passes import RollbackSpec
from fmn_guard.record import digest

from ..builder import forget

BEFORE = torch.tensor([[0.5, 0.0], [0.0, 0.0]])
LANGUAGE = {"v": torch.eye(2, dtype=torch.float64)[None]}


class Pass:
    """Changes an identity by as much as its learning rate, so that its drift is the learning rate."""

    def __init__(self, spoils=False):
        self.layer = EditedLinear(torch.nn.Linear(2, 2, bias=False))
        self.layer.frozen.weight.data = torch.eye(2)
        self.layer.edit = BEFORE.clone()
        self.doses, self.began_at, self.spoils = [], [], spoils

    def __call__(self, spec):
        self.doses.append((spec.learning_rate, spec.preserve))
        self.began_at.append(self.layer.edit.clone())
        change = spec.learning_rate * torch.eye(2)
        self.layer.edit = self.layer.edit + (change * float("nan") if self.spoils and len(self.doses) == 1 else change)
        return PassRecord(
            slug=spec.slug,
            steps=1,
            stopped="ceiling",
            still_shown=(),
            attention_mass=(),
            redirect_error=(),
            drift=0.0,
            images_digest=digest("images"),
        )

    def within(self, budget, retries=2):
        rollback = budget and RollbackSpec(drift=budget, retries=retries, gentler=2.0)
        spec = forget("lion").model_copy(update={"learning_rate": 0.4, "preserve": 30.0, "rollback": rollback})
        return within_budget({"v": self.layer}, spec, LANGUAGE, self)


def test_pass_within_its_budget_is_run_once():
    run = Pass()
    record = run.within(0.4001)
    assert run.doses == [(0.4, 30.0)]
    assert (record.own_drift, record.rolled_back) == (0.4, ())


def test_pass_over_its_budget_begins_again_where_it_began_at_a_lower_dose():
    run = Pass()
    record = run.within(0.15)
    assert run.doses == [(0.4, 30.0), (0.2, 60.0), (0.1, 120.0)]
    assert all(torch.equal(edit, BEFORE) for edit in run.began_at)
    assert torch.allclose(run.layer.edit, BEFORE + 0.1 * torch.eye(2))
    assert record.rolled_back == pytest.approx((0.4, 0.2))
    assert record.own_drift == pytest.approx(0.1)


def test_last_attempt_stands_and_its_record_says_what_it_costs():
    run = Pass()
    record = run.within(0.15, retries=1)
    assert len(run.doses) == 2
    assert record.rolled_back == pytest.approx((0.4,))
    assert record.own_drift == pytest.approx(0.2)


def test_pass_that_is_not_a_number_is_within_no_budget():
    run = Pass(spoils=True)
    record = run.within(10.0)
    assert record.rolled_back == (-1.0,)
    assert run.layer.edit.isfinite().all()


def test_pass_without_a_budget_is_never_taken_back():
    run = Pass()
    assert run.within(None).rolled_back == ()
    assert len(run.doses) == 1
