"""Drawing pictures: one generator per picture, fixed batches, so that the same plan draws the same pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from PIL import Image
from torch import Tensor

from ..errors import InputError, MissingDependency
from ..progress import Progress, silent
from ..suite import Sampler
from .conditioning import denoise, denoiser, text_states

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Schedulers of checkpoints that draw no noise on the way, whatever their settings.
_STEADY = (
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
_PIXELS = 4096  # of latents that the autoencoder is given at once: one picture of 512 pixels, which takes it 1 GB


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Computes on so many CPU threads, since their number changes the last bits; gives the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def starting_noise(pipeline: StableDiffusionPipeline, seeds: Sequence[int], size: int | None = None) -> Tensor:
    """Starting noise (len(seeds), C, h, w); each picture's depends on its own seed alone, drawn on the CPU."""
    config = denoiser(pipeline).config
    channels, side = config.in_channels, size // pipeline.vae_scale_factor if size else config.sample_size
    noise = [torch.randn(channels, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise)


@torch.inference_mode()
def draw_latents(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
    *,
    batch: int | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Samples latents with classifier-free guidance.

    Args:
        pipeline: the model.
        prompts: one a picture.
        seeds: one a picture.
        sampler: how; its threads are the caller's to set.
        batch: pictures at once, which changes the last bits of a picture; None for the sampler's.
        progress: told after each batch.

    Returns:
        (len(prompts), C, h, w), scaled as the denoiser sees them.
    """
    unique = list(dict.fromkeys(["", *prompts]))
    states = dict(zip(unique, text_states(pipeline, unique), strict=True))
    batch = batch or sampler.batch
    drawn = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        x = starting_noise(pipeline, seeds[part], sampler.size).to(pipeline.device)
        text = torch.stack([states[p] for p in prompts[part]])
        both_texts = torch.cat([states[""].expand_as(text), text])
        scheduler = _scheduler(pipeline, sampler)
        scheduler.set_timesteps(sampler.steps, device=pipeline.device)
        x = x * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t)
            # not of the steps that were asked for: PNDM takes one more
            if sampler.guidance > 1 and step < len(scheduler.timesteps) - sampler.unguided:
                free, named = denoise(pipeline, torch.cat([scaled, scaled]), t, both_texts).chunk(2)
                predicted = free + sampler.guidance * (named - free)
            else:
                predicted = denoise(pipeline, scaled, t, text)
            x = scheduler.step(predicted, t, x).prev_sample
        drawn.append(x)
        progress("drawing", min(start + batch, len(prompts)), len(prompts))
    return torch.cat(drawn)


def _scheduler(pipeline: StableDiffusionPipeline, sampler: Sampler) -> Any:
    """The scheduler that a sampler names, on the noise schedule of the model.

    Raises:
        InputError: it is to be the checkpoint's own, which draws noise on the way: from the global generator, so that
            pictures would not come out the same again.
    """
    config = pipeline.scheduler.config
    match sampler.scheduler:
        case "dpmsolver++":
            # stated in full: a checkpoint may ask for the stochastic variant, which draws from the global generator
            return DPMSolverMultistepScheduler.from_config(
                config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
            )
        case "ddim":
            # what a configuration of another scheduler does not say, diffusers would take to be as pixels want it
            said = {"clip_sample": False, "set_alpha_to_one": False} | dict(config)
            return DDIMScheduler.from_config(said)
        case "lms":
            try:
                from diffusers.schedulers.scheduling_lms_discrete import LMSDiscreteScheduler
            except ImportError as error:
                raise MissingDependency("scipy", "run") from error
            return LMSDiscreteScheduler.from_config(config)
        case "own":
            own = type(pipeline.scheduler).__name__
            steady = own in _STEADY or (
                own == "DPMSolverMultistepScheduler" and not config.algorithm_type.startswith("sde")
            )
            if not steady:
                raise InputError(
                    f"the checkpoint's own sampler, {own}, may draw noise on the way",
                    hint="ask for a prompt set that names its sampler, or save the checkpoint with PNDM or DDIM",
                )
            return type(pipeline.scheduler).from_config(config)
        case _:
            assert_never(sampler.scheduler)


@torch.inference_mode()
def decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> Tensor:
    """Decodes latents to pictures (B, 3, H, W) float32 in [-1, 1]; NaN where the latents are."""
    at_once = max(1, min(16, _PIXELS // (latents.shape[-2] * latents.shape[-1])))
    blocks = (latents / pipeline.vae.config.scaling_factor).split(at_once)
    return torch.cat([pipeline.vae.decode(block).sample for block in blocks]).clamp(-1, 1)


@torch.inference_mode()
def encode(pipeline: StableDiffusionPipeline, pictures: Tensor) -> Tensor:
    """Encodes pictures (B, 3, H, W) in [-1, 1] to latents, the posterior's mean, scaled as the denoiser sees them."""
    scale, area = pipeline.vae_scale_factor**2, pictures.shape[-2] * pictures.shape[-1]
    blocks = pictures.split(max(1, _PIXELS * scale // area))
    return torch.cat([pipeline.vae.encode(b).latent_dist.mean * pipeline.vae.config.scaling_factor for b in blocks])


def to_pixels(pictures: Tensor) -> np.ndarray:
    """Pictures (B, 3, H, W) in [-1, 1] as (B, H, W, 3) uint8."""
    pixels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def draw(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: Sampler,
) -> list[Image.Image]:
    """Draws pictures; see `draw_latents`."""
    latents = draw_latents(pipeline, prompts, seeds, sampler)
    return [Image.fromarray(pixels) for pixels in to_pixels(decode(pipeline, latents))]
