"""One pass on a real, tiny model: what the loss does, what the projector protects, what is recorded."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.errors import PassError
from fmn_guard.forget.resteer import resteer, watched_tokens
from fmn_guard.model.attention import edited_keys_and_values
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import PassSpec, RetainSpec, TrainingPrompt

PROMPTS = (
    TrainingPrompt(text="a photo of lion", anchor="a photo of", positions=(4,)),
    TrainingPrompt(text="middle finger", anchor="", positions=(1, 2)),
)


def spec(**changes) -> PassSpec:
    values = {
        "index": 0,
        "slug": "lion",
        "kind": "object",
        "names": ("lion",),
        "prompts": PROMPTS,
        "image_prompts": ("a photo of lion",),
        "images": None,
        "images_digest": None,
        "image_count": 4,
        "preset": "guarded",
        "steps": 12,
        "learning_rate": 0.05,
        "projection": None,
        "redirect_weight": 0.0,
        "repulsion": 0.0,
        "retain": RetainSpec(excluded_words=(), kept=(), forgotten=()),
        "seed": 3,
    }
    return PassSpec(**(values | changes))


@pytest.fixture
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


@pytest.fixture
def latents():
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def run(pipeline, latents, projector=None, **changes):
    with edited_keys_and_values(pipeline.unet) as layers:
        record = resteer(pipeline, layers, spec(**changes), latents, projector, "sha256:" + "0" * 64)
        return record, {name: layer.edit.clone() for name, layer in layers.items()}


def test_prompts_with_unequal_numbers_of_name_tokens_share_a_batch():
    wanted = watched_tokens(PROMPTS, 8)
    assert wanted.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]


def test_attention_on_the_name_falls(pipeline, latents):
    record, _ = run(pipeline, latents, steps=40)
    assert sum(record.attention_mass[-5:]) < 0.8 * sum(record.attention_mass[:5])


def test_redirection_alone_brings_the_prediction_to_the_anchor_s(pipeline, latents):
    record, _ = run(pipeline, latents, steps=60, redirect_weight=1000.0, learning_rate=3e-4)
    assert sum(record.redirect_error[-10:]) < 0.8 * sum(record.redirect_error[:10])


def test_only_keys_and_values_change_and_the_model_comes_back_as_it_was(pipeline, latents):
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    _, edits = run(pipeline, latents)
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in edits)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_projected_edit_cannot_leave_the_projector_s_range(pipeline, latents):
    projector = torch.diag(torch.cat([torch.zeros(16), torch.ones(16)]))
    _, edits = run(pipeline, latents, projector)
    for name, edit in edits.items():
        assert torch.equal(edit[:, :16], torch.zeros_like(edit[:, :16])), name
    assert any(edit[:, 16:].abs().sum() > 0 for edit in edits.values())


def test_no_steps_means_no_change_and_says_so(pipeline, latents):
    record, edits = run(pipeline, latents, steps=0)
    assert record.stopped == "no-steps"
    assert record.weight_change == 0
    assert not any(edit.any() for edit in edits.values())


def test_a_loss_that_is_no_number_is_recorded_as_diverged_not_as_a_crash(pipeline, latents):
    record, edits = run(pipeline, latents * float("inf"), steps=30, redirect_weight=10.0)
    assert record.stopped == "diverged"
    assert record.steps == 1
    assert not any(edit.any() for edit in edits.values())


def test_the_same_seed_gives_the_same_edit_bit_for_bit(pipeline, latents):
    (first, a), (second, b) = run(pipeline, latents), run(pipeline, latents)
    assert first == second
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_watching_no_token_is_an_error_not_a_silent_no_op(pipeline, latents):
    empty = (TrainingPrompt(text="a photo of lion", anchor="", positions=()),)
    with pytest.raises(PassError, match="no attention"):
        run(pipeline, latents, prompts=empty)


def test_a_second_pass_adds_to_the_first(pipeline, latents):
    with edited_keys_and_values(pipeline.unet) as layers:
        resteer(pipeline, layers, spec(), latents, None, "sha256:" + "0" * 64)
        first = {name: layer.edit.clone() for name, layer in layers.items()}
        resteer(pipeline, layers, spec(steps=1, learning_rate=1e-6), latents, None, "sha256:" + "0" * 64)
        for name, layer in layers.items():  # a tiny second pass: what the first did is still there
            torch.testing.assert_close(layer.edit, first[name], rtol=0, atol=1e-4)
        assert any(not torch.equal(layer.edit, first[name]) for name, layer in layers.items())


def test_the_first_step_moves_coordinates_by_the_learning_rate_in_root_mean_square(pipeline, latents):
    _, edits = run(pipeline, latents, steps=1, learning_rate=0.01)
    moved = torch.cat([edit.flatten() for edit in edits.values()])
    assert moved.square().mean().sqrt().item() == pytest.approx(0.01, rel=1e-4)
