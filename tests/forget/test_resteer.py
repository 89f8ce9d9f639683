"""One pass on a real, tiny model: what the loss does, where it acts, what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fmn_guard.errors import PassError
from fmn_guard.forget import memory
from fmn_guard.forget.reading import moments, noised, queries
from fmn_guard.forget.resteer import Descent, _Hold, anchored_states, resteer, watched_tokens
from fmn_guard.forget.retain import Retained
from fmn_guard.model.attention import edited_values
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import text_states
from fmn_guard.passes import PassSpec, RetainSpec, StopSpec, TrainingPrompt

PROMPTS = (
    TrainingPrompt(text="a photo of lion", anchor="a photo of", positions=(4,), away="a photo of lion"),
    TrainingPrompt(text="middle finger", anchor="", positions=(1, 2), away="middle finger"),
)


def spec(**changes) -> PassSpec:
    values = {
        "index": 0,
        "slug": "lion",
        "kind": "object",
        "names": ("lion",),
        "prompts": PROMPTS,
        "stand_ins": (("tiger", "dog"), ("dog", "tiger")),
        "pictured": PROMPTS[:1],
        "images": None,
        "images_digest": None,
        "image_count": 4,
        "preset": "guarded",
        "steps": 12,
        "batch": 8,
        "momentum": 0.8,
        "times": 4,
        "noisiest": 1.0,
        "stop": None,
        "learning_rate": 0.05,
        "projection": None,
        "preserve": 1e9,  # a closed-form solution that changes next to nothing
        "repulsion": 0.0,
        "redirect_weight": 0.0,
        "language_weight": 0.0,
        "loosened": 1.0,
        "retain": RetainSpec(excluded_words=(), kept=(), forgotten=(), kept_weight=2.0, sentences=12, pictures=2),
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
def retained(tiny_checkpoint):
    """The language of two words, and nothing forgotten before."""
    pipeline = load_pipeline(tiny_checkpoint)
    text = text_states(pipeline, ["a photo of tiger", "a dog", "tiger", ""] * 4)
    x_t, t = noised(pipeline, torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(2)), torch.Generator())
    asked = queries(pipeline, x_t, t, text, torch.Generator())
    language = {name: total / 16 for name, total in moments(pipeline, asked, text, 64)[0].items()}
    return Retained(language, {name: torch.zeros_like(moment) for name, moment in language.items()})


def run(pipeline, latents, retained, **changes):
    with edited_values(pipeline.unet) as layers:
        record = resteer(pipeline, layers, spec(**changes), latents, retained, SHOWN)
        return record, {name: layer.edit.clone() for name, layer in layers.items()}


def test_prompts_with_unequal_numbers_of_name_tokens_share_a_batch():
    wanted = watched_tokens(PROMPTS, 8)
    assert wanted.tolist() == [[0, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]


def test_attention_on_the_name_falls(pipeline, latents, retained):
    # values bear on attention in later layers only; the same records, untrained, are the measure
    still, _ = run(pipeline, latents, retained, steps=40, learning_rate=1e-9)
    record, _ = run(pipeline, latents, retained, steps=40, learning_rate=0.5)
    assert record.attention_mass[0] == still.attention_mass[0]
    assert sum(record.attention_mass[5:]) < 0.99 * sum(still.attention_mass[5:])


@pytest.mark.parametrize(("most", "at_once", "again"), [(2 * 4 * memory._KEPT * 64 * 16, 2, False), (1, 1, True)])
def test_records_seen_a_few_at_a_time_give_the_same_edit(
    pipeline, latents, retained, monkeypatch, most, at_once, again
):
    settings = {"steps": 3, "learning_rate": 1e-3, "redirect_weight": 10.0, "language_weight": 1.0, "batch": 7}
    whole, expected = run(pipeline, latents, retained, **settings)
    monkeypatch.setattr(memory, "_MOST", most)
    calls: list[tuple[int, bool]] = []
    watching = pipeline.unet.register_forward_pre_hook(
        lambda unet, args: (
            calls.append((len(args[0]), unet.is_gradient_checkpointing)) if torch.is_grad_enabled() else None
        )
    )
    record, edits = run(pipeline, latents, retained, **settings)
    watching.remove()
    assert max(calls) == (at_once, again) and not pipeline.unet.is_gradient_checkpointing
    assert record.attention_mass == pytest.approx(whole.attention_mass, rel=1e-4)
    assert record.redirect_error == pytest.approx(whole.redirect_error, rel=1e-4)
    for name, edit in expected.items():
        torch.testing.assert_close(edits[name], edit, rtol=1e-3, atol=1e-3 * edit.abs().max().item())


def test_redirection_alone_brings_the_prediction_to_the_anchor_s(pipeline, latents, retained):
    record, _ = run(pipeline, latents, retained, steps=60, redirect_weight=1000.0, learning_rate=1e-3)
    assert sum(record.redirect_error[-10:]) < 0.8 * sum(record.redirect_error[:10])


def test_only_values_change_and_the_model_comes_back_as_it_was(pipeline, latents, retained):
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    _, edits = run(pipeline, latents, retained)
    assert all(name.endswith("attn2.to_v.weight") for name in edits)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def delivered(weights, moments_):
    """Energy of what weights (heads * n, d) deliver of moments (heads, d, d), in plain loops."""
    total = 0.0
    for name, weight in weights.items():
        heads = moments_[name]
        for head, moment in enumerate(heads):
            rows = weight.double().chunk(len(heads))[head]
            total += torch.trace(rows @ moment @ rows.T).item()
    return total


def test_what_the_first_solution_moves_most_is_held_by_the_second(pipeline, latents, retained):
    text = text_states(pipeline, ["a photo of tiger"])
    x_t, t = noised(pipeline, latents, torch.Generator().manual_seed(4))
    asked = queries(pipeline, x_t, t, text.expand(len(t), -1, -1), torch.Generator().manual_seed(4))
    of_tiger = moments(pipeline, asked, text, 64)[0]
    firm = {name: moment + 10 * of_tiger[name] for name, moment in retained.language.items()}
    started: list[dict[str, torch.Tensor]] = []

    def hold_nearest(before, _held):
        started.append(before)
        return ("tiger",), Retained(firm, retained.forgotten)

    edits = {}
    for held in (None, hold_nearest):
        with edited_values(pipeline.unet) as layers:
            record = resteer(
                pipeline,
                layers,
                spec(projection=1e-6, preserve=1.0, learning_rate=1e-9),
                latents,
                retained,
                SHOWN,
                hold_nearest=held,
            )
            edits[held] = {name: layer.edit.clone() for name, layer in layers.items()}
        assert record.nearest == (("tiger",) if held else ())
    assert all((edit == 0).all() for edit in started[0].values())
    assert delivered(edits[hold_nearest], of_tiger) < 0.5 * delivered(edits[None], of_tiger)


def test_a_step_shrinks_with_the_gradient_and_keeps_the_direction_of_those_before_it():
    trained = [torch.zeros(4), torch.zeros(2, 3)]
    descent = Descent(trained, momentum=0.5)
    steep = [torch.full_like(part, 2.0) for part in trained]
    descent.step(steep, stride=0.1)
    assert all((part == -0.1).all() for part in trained)
    descent.step([part / 10 for part in steep], stride=0.1)
    torch.testing.assert_close(trained, [torch.full_like(part, -0.11) for part in steep])
    descent.rest()
    descent.step([-part for part in steep], stride=0.1)
    torch.testing.assert_close(trained, [torch.full_like(part, -0.01) for part in steep])


def test_the_first_step_moves_what_is_delivered_of_the_language_by_the_learning_rate(pipeline, latents, retained):
    _, edits = run(pipeline, latents, retained, steps=1, learning_rate=0.01, projection=1e-6)
    weights = dict(pipeline.unet.named_parameters())
    damped = {name: moment + 1e-6 * torch.eye(32) for name, moment in retained.language.items()}
    relative = {
        name: delivered({name: edit}, damped) / delivered({name: weights[name]}, damped) for name, edit in edits.items()
    }
    coordinates = sum(edit.numel() for edit in edits.values())
    moved = sum(relative[name] * edit.numel() for name, edit in edits.items()) / coordinates
    assert moved**0.5 == pytest.approx(0.01, rel=0.05)


def test_drift_is_how_far_all_passes_moved_what_is_delivered_relative_to_its_size(pipeline, latents, retained):
    record, edits = run(pipeline, latents, retained, redirect_weight=10.0)
    weights = dict(pipeline.unet.named_parameters())
    size = delivered({name: weights[name] for name in edits}, retained.language)
    assert record.drift == pytest.approx((delivered(edits, retained.language) / size) ** 0.5, rel=1e-3)


def test_weight_on_the_language_keeps_it_nearer_to_the_base(pipeline, latents, retained):
    settings = {"steps": 30, "learning_rate": 0.01, "projection": 1e-4, "redirect_weight": 10.0}
    free, _ = run(pipeline, latents, retained, **settings)
    held, _ = run(pipeline, latents, retained, language_weight=100.0, **settings)
    assert held.drift < 0.5 * free.drift


def test_what_was_forgotten_before_is_held_where_it_is_and_not_where_the_base_had_it(pipeline, latents, retained):
    # a later pass that does nothing but hold: first of a language, then of the same sentences once forgotten
    later = {"steps": 40, "learning_rate": 0.01, "projection": 1e-6, "language_weight": 1e4}
    nothing = {name: torch.zeros_like(moment) for name, moment in retained.language.items()}
    ends = {}
    for what, kept in (
        ("language", retained),
        ("forgotten", Retained({name: 1e-9 * m for name, m in retained.language.items()}, retained.language)),
    ):
        with edited_values(pipeline.unet) as layers:
            resteer(pipeline, layers, spec(redirect_weight=10.0), latents, Retained(retained.language, nothing), SHOWN)
            first = {name: layer.edit.clone() for name, layer in layers.items()}
            resteer(pipeline, layers, spec(**later), latents, kept, SHOWN)
            change = {name: layer.edit - first[name] for name, layer in layers.items()}
            now = {name: layer.edit for name, layer in layers.items()}
            ends[what] = [delivered(e, retained.language) for e in (first, now, change)]
    first, now, _ = ends["language"]
    assert now < 0.7 * first  # drawn back to the base
    first, _, change = ends["forgotten"]
    assert change < 0.1 * first


def test_the_closed_form_start_alone_brings_the_prediction_near_the_anchor_s(pipeline, latents, retained):
    settings = {"steps": 1, "learning_rate": 1e-4, "projection": 1e-3, "redirect_weight": 10.0}
    without, _ = run(pipeline, latents, retained, **settings)
    begun, _ = run(pipeline, latents, retained, preserve=1.0, **settings)
    assert begun.redirect_error[0] < 0.5 * without.redirect_error[0]


def test_no_steps_means_no_change_and_says_so(pipeline, latents, retained):
    record, edits = run(pipeline, latents, retained, steps=0, projection=1e-3, preserve=1.0)
    assert record.stopped == "no-steps"
    assert record.drift == 0
    assert not any(edit.any() for edit in edits.values())


def test_a_loss_that_is_no_number_is_recorded_as_diverged_not_as_a_crash(pipeline, latents, retained):
    record, edits = run(pipeline, latents * float("inf"), retained, steps=30, redirect_weight=10.0)
    assert record.stopped == "diverged"
    assert record.steps == 1
    assert not any(edit.any() for edit in edits.values())


def test_the_same_seed_gives_the_same_edit_bit_for_bit(pipeline, latents, retained):
    (first, a), (second, b) = run(pipeline, latents, retained), run(pipeline, latents, retained)
    assert first == second
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_watching_no_token_is_an_error_not_a_silent_no_op(pipeline, latents, retained):
    empty = (TrainingPrompt(text="a photo of lion", anchor="", positions=(), away="a photo of lion"),)
    with pytest.raises(PassError, match="no attention"):
        run(pipeline, latents, retained, prompts=empty)


def test_a_second_pass_adds_to_the_first(pipeline, latents, retained):
    with edited_values(pipeline.unet) as layers:
        resteer(pipeline, layers, spec(), latents, retained, SHOWN)
        first = {name: layer.edit.clone() for name, layer in layers.items()}
        resteer(pipeline, layers, spec(steps=1, learning_rate=1e-6), latents, retained, SHOWN)
        for name, layer in layers.items():  # a tiny second pass: what the first did is still there
            torch.testing.assert_close(layer.edit, first[name], rtol=0, atol=1e-4)
        assert any(not torch.equal(layer.edit, first[name]) for name, layer in layers.items())


STOP = StopSpec(
    recogniser="emoji-clip",
    shown="lion",
    others=("dog",),
    prompts=("lion",),
    frames=("{x}",),
    every=4,
    gone=0.01,
)


def looking(pipeline, latents, retained, *shares, **changes):
    seen = iter(shares)
    with edited_values(pipeline.unet) as layers:
        return resteer(
            pipeline, layers, spec(stop=STOP, **changes), latents, retained, SHOWN, still_shown=lambda: next(seen)
        )


def test_a_pass_ends_at_the_first_look_that_shows_nothing(pipeline, latents, retained):
    record = looking(pipeline, latents, retained, 0.1, 0.005, projection=1e-3)
    assert (record.stopped, record.steps) == ("forgotten", 8)
    assert record.still_shown == (0.1, 0.005)


def test_a_pass_that_never_clears_ends_at_its_ceiling(pipeline, latents, retained):
    record = looking(pipeline, latents, retained, *[0.5] * 3, projection=1e-3)
    assert (record.stopped, record.steps) == ("ceiling", 12)


def test_a_correction_is_anchored_beyond_the_expected_reading_away_from_the_dominant_one(pipeline):
    prompt = TrainingPrompt(text="a photo of lion", anchor="a photo of tiger", positions=(4,), away="a photo of dog")
    expected, dominant = text_states(pipeline, ["a photo of tiger", "a photo of dog"])
    (states,) = anchored_states(pipeline, spec(prompts=(prompt,), repulsion=0.5))
    torch.testing.assert_close(states, 1.5 * expected - 0.5 * dominant)


def test_a_concept_is_anchored_beyond_the_mean_of_its_stand_ins_away_from_itself(pipeline):
    prompt = TrainingPrompt(text="a photo of lion", anchor="a photo of {x}", positions=(4,), away="a photo of lion")
    own, *others = text_states(pipeline, ["a photo of lion", "a photo of tiger", "a photo of dog"])
    (states,) = anchored_states(pipeline, spec(prompts=(prompt,), repulsion=0.5))
    torch.testing.assert_close(states, 1.5 * sum(others) / 2 - 0.5 * own)


def test_the_hold_loosens_once_a_look_still_shows_the_concept_and_not_before(pipeline, latents, retained):
    hard = {"steps": 8, "projection": 1e-3, "preserve": 40.0, "language_weight": 1e4, "redirect_weight": 1e3}
    held = looking(pipeline, latents, retained, *[0.9] * 3, loosened=1.0, **hard)
    loosened = looking(pipeline, latents, retained, *[0.9] * 3, loosened=0.01, **hard)
    first = STOP.every + 1  # its weight bears on the step after
    assert held.redirect_error[:first] == loosened.redirect_error[:first]
    assert held.redirect_error[first:] != loosened.redirect_error[first:]
    assert loosened.drift > held.drift


def test_the_closed_form_alone_is_solved_and_takes_no_step(pipeline, latents, retained):
    record, edits = run(pipeline, latents, retained, stages=("closed-form",), steps=0, projection=1e-3, preserve=1.0)
    assert (record.stopped, record.steps, record.still_shown) == ("solved", 0, ())
    assert any(edit.any() for edit in edits.values())


def test_a_look_at_the_closed_form_may_end_a_pass_before_its_first_step(pipeline, latents, retained):
    first = {"stages": ("closed-form", "look", "re-steering"), "projection": 1e-3, "preserve": 1.0}
    nothing = looking(pipeline, latents, retained, 0.005, **first)
    assert (nothing.stopped, nothing.steps, nothing.still_shown) == ("forgotten", 0, (0.005,))
    something = looking(pipeline, latents, retained, 0.5, 0.005, **first)
    assert (something.stopped, something.steps, something.still_shown) == ("forgotten", STOP.every, (0.5, 0.005))


def test_what_a_pass_may_change_of_what_is_delivered_is_the_projection_of_numpy(pipeline, latents, retained):
    # with a damping far below the language's moments, training can hardly move what is delivered of it: in its
    # coordinates D = F L^-1, |D C D^T| is |F|^2 for every F, where unprojected it grows with C
    damping = 1e-3
    with edited_values(pipeline.unet) as layers:
        hold = _Hold(layers, retained, damping)
        trained = hold.unfold()
        generator = torch.Generator().manual_seed(0)
        for free in trained:
            free.data = torch.randn(free.shape, generator=generator)
        for (name, layer), free in zip(layers.items(), trained, strict=True):
            weight = layer.by_head(layer.frozen.weight).numpy()
            moment = retained.language[name].numpy() + damping * np.eye(32)
            root = np.linalg.cholesky(moment)
            size = np.sqrt(np.mean((weight @ root) ** 2))
            expected = free.detach().double().numpy() @ (size * np.linalg.inv(root))
            layer.settle()
            np.testing.assert_allclose(layer.by_head(layer.edit).numpy(), expected, rtol=1e-3, atol=1e-3)
            energy = np.einsum("hij,hjk,hik->", expected, moment, expected)
            assert energy == pytest.approx(size**2 * free.double().square().sum().item(), rel=1e-6)
