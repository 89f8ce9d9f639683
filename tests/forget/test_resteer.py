"""One pass on a real, tiny model: what the loss does, where it acts, what is recorded."""

from __future__ import annotations

import pytest
import torch

from fmn_guard.errors import PassError
from fmn_guard.forget.resteer import resteer, watched_tokens
from fmn_guard.forget.retain import RetainedLanguage, directions
from fmn_guard.model.attention import edited_values
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import text_states
from fmn_guard.plan import PassSpec, RetainSpec, StopSpec, TrainingPrompt

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
        "stand_ins": (("tiger", "dog"), ("dog", "tiger")),
        "image_prompts": ("a photo of lion",),
        "images": None,
        "images_digest": None,
        "image_count": 4,
        "preset": "guarded",
        "steps": 12,
        "stop": None,
        "learning_rate": 0.05,
        "projection": None,
        "directions": 4,
        "preserve": (),
        "redirect_weight": 0.0,
        "retain": RetainSpec(excluded_words=(), kept=(), forgotten=()),
        "seed": 3,
        "threads": 1,
    }
    return PassSpec(**(values | changes))


@pytest.fixture
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


@pytest.fixture
def latents():
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))


SHOWN = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def covariance(tiny_checkpoint):
    return RetainedLanguage(load_pipeline(tiny_checkpoint), ("tiger", "dog"), 0).covariance(spec().retain)


def run(pipeline, latents, covariance, **changes):
    with edited_values(pipeline.unet) as layers:
        record = resteer(pipeline, layers, spec(**changes), latents, covariance, SHOWN)
        return record, {name: layer.edit.clone() for name, layer in layers.items()}


def test_prompts_with_unequal_numbers_of_name_tokens_share_a_batch():
    wanted = watched_tokens(PROMPTS, 8)
    assert wanted.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]


def test_attention_on_the_name_falls(pipeline, latents, covariance):
    record, _ = run(pipeline, latents, covariance, steps=40)
    assert sum(record.attention_mass[-5:]) < 0.8 * sum(record.attention_mass[:5])


def test_redirection_alone_brings_the_prediction_to_the_anchor_s(pipeline, latents, covariance):
    record, _ = run(pipeline, latents, covariance, steps=60, redirect_weight=1000.0, learning_rate=3e-4)
    assert sum(record.redirect_error[-10:]) < 0.8 * sum(record.redirect_error[:10])


def test_only_values_change_and_the_model_comes_back_as_it_was(pipeline, latents, covariance):
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    _, edits = run(pipeline, latents, covariance)
    assert all(name.endswith("attn2.to_v.weight") for name in edits)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_projected_edit_acts_in_its_directions_alone(pipeline, latents, covariance):
    texts = [t for p in PROMPTS for t in (p.text, p.anchor)]
    given, wanted = text_states(pipeline, texts).unflatten(0, (-1, 2)).unbind(1)
    basis = directions(covariance, (given - wanted).flatten(0, 1), 1e-3, 4)
    orthonormal, _ = torch.linalg.qr(basis.double())
    elsewhere = (torch.eye(len(basis)) - orthonormal @ orthonormal.T).float()
    _, edits = run(pipeline, latents, covariance, projection=1e-3)
    for edit in edits.values():
        assert (edit @ elsewhere).norm() <= 1e-3 * edit.norm()


def test_the_first_step_moves_the_retained_language_by_the_learning_rate(pipeline, latents, covariance):
    _, edits = run(pipeline, latents, covariance, steps=1, learning_rate=0.01, projection=1e-6, directions=32)
    weights = dict(pipeline.unet.named_parameters())
    moved = sum(torch.trace(e.double() @ covariance @ e.double().T) for e in edits.values())
    size = sum(torch.trace(weights[n].double() @ covariance @ weights[n].double().T) for n in edits)
    assert (moved / size).sqrt().item() == pytest.approx(0.01, rel=0.05)


def test_the_closed_form_start_alone_brings_the_prediction_near_the_anchor_s(pipeline, latents, covariance):
    settings = {"steps": 1, "learning_rate": 1e-4, "projection": 1e-3, "redirect_weight": 10.0}
    without, _ = run(pipeline, latents, covariance, **settings)
    begun, _ = run(pipeline, latents, covariance, preserve=(1.0,), **settings)
    assert begun.redirect_error[0] < 0.5 * without.redirect_error[0]


def test_no_steps_means_no_change_and_says_so(pipeline, latents, covariance):
    record, edits = run(pipeline, latents, covariance, steps=0, projection=1e-3, preserve=(1.0,))
    assert record.stopped == "no-steps"
    assert record.drift == 0
    assert not any(edit.any() for edit in edits.values())


def test_a_loss_that_is_no_number_is_recorded_as_diverged_not_as_a_crash(pipeline, latents, covariance):
    record, edits = run(pipeline, latents * float("inf"), covariance, steps=30, redirect_weight=10.0)
    assert record.stopped == "diverged"
    assert record.steps == 1
    assert not any(edit.any() for edit in edits.values())


def test_the_same_seed_gives_the_same_edit_bit_for_bit(pipeline, latents, covariance):
    (first, a), (second, b) = run(pipeline, latents, covariance), run(pipeline, latents, covariance)
    assert first == second
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_watching_no_token_is_an_error_not_a_silent_no_op(pipeline, latents, covariance):
    empty = (TrainingPrompt(text="a photo of lion", anchor="", positions=()),)
    with pytest.raises(PassError, match="no attention"):
        run(pipeline, latents, covariance, prompts=empty)


def test_a_second_pass_adds_to_the_first(pipeline, latents, covariance):
    with edited_values(pipeline.unet) as layers:
        resteer(pipeline, layers, spec(), latents, covariance, SHOWN)
        first = {name: layer.edit.clone() for name, layer in layers.items()}
        resteer(pipeline, layers, spec(steps=1, learning_rate=1e-6), latents, covariance, SHOWN)
        for name, layer in layers.items():  # a tiny second pass: what the first did is still there
            torch.testing.assert_close(layer.edit, first[name], rtol=0, atol=1e-4)
        assert any(not torch.equal(layer.edit, first[name]) for name, layer in layers.items())


STOP = StopSpec(recogniser="emoji-clip", shown="lion", others=("dog",), prompts=("lion",), frames=("{x}",), every=4)


def looking(pipeline, latents, covariance, *shares, **changes):
    seen = iter(shares)
    with edited_values(pipeline.unet) as layers:
        return resteer(
            pipeline, layers, spec(stop=STOP, **changes), latents, covariance, SHOWN, still_shown=lambda: next(seen)
        )


def test_a_pass_takes_the_first_solution_after_which_nothing_is_shown(pipeline, latents, covariance):
    ladder = {"projection": 1e-3, "preserve": (100.0, 10.0, 1.0)}
    record = looking(pipeline, latents, covariance, 0.5, 0.0, **ladder)
    assert (record.stopped, record.solutions, record.steps) == ("forgotten", 2, 0)
    assert record.still_shown == (0.5, 0.0)
    _, alone = run(pipeline, latents, covariance, steps=1, learning_rate=1e-9, projection=1e-3, preserve=(10.0,))
    with edited_values(pipeline.unet) as layers:
        shares = iter((0.5, 0.0))
        resteer(
            pipeline, layers, spec(stop=STOP, **ladder), latents, covariance, SHOWN, still_shown=lambda: next(shares)
        )
        for name, layer in layers.items():
            torch.testing.assert_close(layer.edit, alone[name], rtol=1e-4, atol=1e-6)


def test_re_steering_takes_what_the_solutions_left_and_looks_every_so_many_steps(pipeline, latents, covariance):
    record = looking(pipeline, latents, covariance, 0.5, 0.5, 0.0, projection=1e-3, preserve=(10.0,))
    assert (record.stopped, record.solutions, record.steps) == ("forgotten", 1, 8)


def test_a_pass_that_never_clears_ends_at_its_ceiling(pipeline, latents, covariance):
    record = looking(pipeline, latents, covariance, *[0.5] * 4, projection=1e-3, preserve=(10.0,))
    assert (record.stopped, record.steps) == ("ceiling", 12)
