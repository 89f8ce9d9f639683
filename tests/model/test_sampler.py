"""Sampling against diffusers' own pipeline, and its determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    LMSDiscreteScheduler,
)

from fmn_guard.errors import InputError
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import text_states
from fmn_guard.model.sampler import decode, draw, draw_latents, encode, starting_noise, threads, to_pixels
from fmn_guard.suite import Sampler
from tests.tiny import save_tiny_family


@pytest.fixture(scope="module")
def pipeline(tiny_checkpoint):
    return load_pipeline(tiny_checkpoint)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_latents_equal_those_of_the_stock_pipeline(pipeline, guidance):
    noise = starting_noise(pipeline, [3])
    ours = draw_latents(pipeline, ["a photo of a lion"], [3], Sampler(steps=4, guidance=guidance))
    stock = pipeline(
        "a photo of a lion", num_inference_steps=4, guidance_scale=guidance, latents=noise, output_type="latent"
    ).images
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


STOCK = {
    # what another scheduler's configuration leaves open is as Stable Diffusion has it, not as diffusers' default
    "ddim": lambda own: (
        DDIMScheduler.from_config(own.config)
        if isinstance(own, DDIMScheduler)
        else DDIMScheduler.from_config(own.config, clip_sample=False, set_alpha_to_one=False)
    ),
    "lms": lambda own: LMSDiscreteScheduler.from_config(own.config),
    "own": lambda own: type(own).from_config(own.config),
}


@pytest.mark.parametrize("scheduler", STOCK)
@pytest.mark.parametrize("family", ["sd1", "sd2-v"])
def test_schedulers_of_published_protocols_draw_what_the_stock_pipeline_draws_with_them(family, scheduler, tmp_path):
    pipeline = load_pipeline(save_tiny_family(tmp_path, family))
    noise, prompts = starting_noise(pipeline, [3, 4]), ["a photo of a lion", "a rose"]
    ours = draw_latents(pipeline, prompts, [3, 4], Sampler(scheduler=scheduler, steps=4, guidance=3.5))
    pipeline.scheduler = STOCK[scheduler](pipeline.scheduler)
    stock = pipeline(prompts, num_inference_steps=4, guidance_scale=3.5, latents=noise, output_type="latent").images
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_whose_own_sampler_draws_noise_is_refused(tmp_path):
    pipeline = load_pipeline(save_tiny_family(tmp_path, "sd1"))
    asked = ["a lion"], [3], Sampler(scheduler="own", steps=2, guidance=3.5)
    pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(pipeline.scheduler.config)
    with pytest.raises(InputError, match="EulerAncestralDiscreteScheduler, may draw noise"):
        draw_latents(pipeline, *asked)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, algorithm_type="sde-dpmsolver++"
    )
    with pytest.raises(InputError, match="may draw noise"):
        draw_latents(pipeline, *asked)


def test_last_steps_without_guidance_take_the_prompt_s_own_prediction(pipeline, monkeypatch):
    asked, forward = [], pipeline.unet.forward

    def counted(x, t, text, **settings):
        asked.append(len(x))
        return forward(x, t, text, **settings)

    monkeypatch.setattr(pipeline.unet, "forward", counted)
    noise, states = starting_noise(pipeline, [3]), text_states(pipeline, ["", "a photo of a lion"])
    sampler = Sampler(steps=3, guidance=4.0, unguided=2)
    ours = draw_latents(pipeline, ["a photo of a lion"], [3], sampler)
    assert asked == [2, 1, 1] and sum(asked) == sampler.evaluations

    scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, final_sigmas_type="zero")
    scheduler.set_timesteps(3)
    x = noise * scheduler.init_noise_sigma
    for scale, t in zip((4.0, 1.0, 1.0), scheduler.timesteps, strict=True):
        with torch.no_grad():
            free, named = (forward(x, t, state[None]).sample for state in states)
        x = scheduler.step(free + scale * (named - free), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_starting_noise_depends_on_the_picture_s_own_seed_alone(pipeline):
    together = starting_noise(pipeline, [1, 2, 3])
    assert torch.equal(together[1:2], starting_noise(pipeline, [2]))


def test_same_prompts_seeds_and_batch_give_the_same_pixels(pipeline):
    prompts, seeds = ["a lion", "a rose", ""], [5, 6, 7]
    first, second = (draw(pipeline, prompts, seeds, Sampler(steps=3, guidance=3.0, batch=2)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_seed_and_prompt_both_matter(pipeline):
    pictures = draw(pipeline, ["a lion", "a lion", "a rose"], [5, 6, 5], Sampler(steps=3, guidance=3.0))
    a, b, c = (np.asarray(p) for p in pictures)
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_not_a_number_survives_decoding_to_be_noticed(pipeline):
    latents = torch.full((1, 4, 8, 8), float("nan"))
    assert not decode(pipeline, latents).isfinite().all()


def test_pixels_cover_the_whole_range():
    pictures = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert to_pixels(pictures)[:, 0, 0, 0].tolist() == [0, 128, 255]


def test_encoding_uses_the_scale_that_decoding_undoes(pipeline):
    picture = torch.zeros(1, 3, 16, 16)
    scaled = encode(pipeline, picture)
    raw = pipeline.vae.encode(picture).latent_dist.mean
    torch.testing.assert_close(scaled, raw * pipeline.vae.config.scaling_factor)


def test_threads_are_those_asked_for_and_given_back_even_on_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
