"""Where a model looks for a name: the attention that plain processors have, and nothing where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from diffusers.models.attention_processor import Attention, AttnProcessor

from fmn_guard.audit import gaze
from fmn_guard.audit.gaze import SIDE, attention_of
from fmn_guard.model.attention import cross_attentions
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import draw_latents

from .test_auditor import plan_for, run


@pytest.fixture(scope="module")
def plan(tiny_checkpoint):
    return plan_for(tiny_checkpoint)


@pytest.fixture
def watched(plan):
    return [p for p in plan.probes if p.positions]


@pytest.fixture
def model(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


def test_map_is_the_mean_of_what_plain_processors_compute(plan, watched, model, monkeypatch):
    [probe] = watched
    [seen] = attention_of(plan, model, "base", watched)
    looks = []
    real = Attention.get_attention_scores

    def noted(self, query, key, mask=None):
        probs = real(self, query, key, mask)
        if probs.shape[-1] == model.tokenizer.model_max_length:
            guided = probs.unflatten(0, (2, -1))[1]
            look = guided[..., list(probe.positions)].sum(-1).mean(0).numpy()
            wide = math.isqrt(len(look))
            looks.append(np.kron(look.reshape(wide, wide), np.ones((SIDE // wide, SIDE // wide))))
        return probs

    monkeypatch.setattr(Attention, "get_attention_scores", noted)
    model.unet.set_attn_processor(AttnProcessor())
    sampler = plan.sampler
    draw_latents(model, [probe.prompt], [probe.seed], sampler)
    assert len(looks) == sampler.steps * len(cross_attentions(model.unet))
    expected = np.mean(looks, 0)
    assert seen.mass == pytest.approx(expected.mean(), abs=1e-5)
    assert seen.peak == pytest.approx(expected.max(), abs=1e-5)
    assert np.array(seen.places) == pytest.approx(expected, abs=seen.peak / 255)


def test_audit_records_both_sides_of_the_first_picture_of_each_concept(plan, tiny_checkpoint, tmp_path, monkeypatch):
    audit = run(plan, tiny_checkpoint, tmp_path, monkeypatch)
    base, patched = audit.attention
    assert (base.side, patched.side) == ("base", "patched")
    assert base.probe == next(p.id for p in plan.probes if p.role == "target")
    assert len(base.rows) == SIDE and {len(bytes.fromhex(row)) for row in base.rows} == {SIDE}
    assert base.rows == patched.rows  # the same weights


def test_models_are_given_back_as_they_were(plan, watched, model):
    before = [type(processor) for processor in model.unet.attn_processors.values()]
    attention_of(plan, model, "base", watched)
    assert [type(processor) for processor in model.unet.attn_processors.values()] == before


def test_what_is_not_a_number_is_no_map(plan, watched, model):
    model.unet.conv_in.weight.data.fill_(float("nan"))
    assert attention_of(plan, model, "patched", watched) == [None]


def test_map_that_is_not_a_number_is_left_out_of_the_audit(plan, tiny_checkpoint, tmp_path, monkeypatch):
    real = gaze._masses
    monkeypatch.setattr(gaze, "_masses", lambda *arguments: real(*arguments) * float("nan"))
    assert run(plan, tiny_checkpoint, tmp_path, monkeypatch).attention == ()


def test_plan_without_positions_costs_nothing(plan, tiny_checkpoint, tmp_path, monkeypatch):
    blind = plan.model_copy(update={"probes": tuple(p.model_copy(update={"positions": ()}) for p in plan.probes)})
    monkeypatch.setattr(gaze, "_masses", None)
    assert run(blind, tiny_checkpoint, tmp_path, monkeypatch).attention == ()
