"""The diffusion model, on a bank of encoded pictures and the frozen text tower of the CLIP."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from . import clip, vae
from .captions import Scene, caption
from .legs import train
from .pictures import TRAINING, Sprites, compose, draw_scene
from .world import AMBIGUITIES, BY_PHRASE

BATCH = 32
BANK = 16_384
MIN_SNR = 5.0
FULL, GOLD = "unet", "unet-gold"  # of checkpoints: trained on the whole world, and without a part of it


def build(width: int = 192) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
    )


def bank(work: Path, number: int, without: Collection[str] = ()) -> tuple[Tensor, list[Scene]]:
    """Encodes BANK pictures: latents (BANK, 4, 16, 16) scaled to unit variance, and their scenes.

    Args:
        number: Each has pictures of its own.
        without: Phrases, styles and ambiguous words; see `drawn_without`.
    """
    rng = random.Random(40_000_000 + number)
    sprites, autoencoder = Sprites.load(work), vae.load(work)
    latents, scenes = [], []
    with torch.inference_mode():
        for _ in range(BANK // 128):
            drawn = [drawn_without(without, rng) for _ in range(128)]
            mean = autoencoder.encode(compose(sprites, drawn, rng, TRAINING)).latent_dist.mean
            latents.append(mean * autoencoder.config.scaling_factor)
            scenes += drawn
    return torch.cat(latents), scenes


def drawn_without(without: Collection[str], rng: random.Random) -> Scene:
    """Draws a scene that shows nothing of what is left out; an ambiguous word among it has its other reading alone."""
    while True:
        scene = draw_scene(rng)
        if scene.ambiguity in without:
            (other,) = (case.other for case in AMBIGUITIES if case.word == scene.ambiguity)
            scene = replace(scene, entry=BY_PHRASE[other])
        if not {scene.entry.phrase, scene.style} & set(without):
            return scene


class TextStates:
    """Frozen text states (32, 192), computed once a caption."""

    def __init__(self, work: Path) -> None:
        model, self._tokenizer = clip.load(work)
        self._encoder = model.text_model
        self._cache: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        missing = sorted({c for c in captions if c not in self._cache})
        if missing:
            states = self._encoder(clip.tokens(self._tokenizer, missing)).last_hidden_state
            self._cache.update(zip(missing, states, strict=True))
        return torch.stack([self._cache[c] for c in captions])


def run(
    work: Path,
    steps: int,
    minutes: float,
    restart: bool,
    lr: float = 1e-3,
    leg: int = 0,
    without: Collection[str] = (),
) -> None:
    torch.manual_seed(3)
    states = TextStates(work)
    latents, scenes = bank(work, leg, without)
    schedule = noise_schedule()
    alphas = schedule.alphas_cumprod
    model = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        seed = leg * 1_000_000 + step
        rng, generator = random.Random(50_000_000 + seed), torch.Generator().manual_seed(seed)
        rows = [rng.randrange(BANK) for _ in range(BATCH)]
        x0 = latents[rows].to(memory_format=torch.channels_last)
        text = states([caption(scenes[row], rng) for row in rows])
        noise = torch.randn(x0.shape, generator=generator)
        # stratified over the batch: every step sees every part of the schedule
        t = ((torch.rand(BATCH, generator=generator) + torch.arange(BATCH)) / BATCH * 1000).long()
        predicted = model(schedule.add_noise(x0, noise, t), t, text).sample
        snr = alphas[t] / (1 - alphas[t])
        # min-SNR-5 for v-prediction (Hang et al. 2023, arXiv 2303.09556)
        weight = torch.clamp(snr, max=MIN_SNR) / (snr + 1)
        error = (predicted - schedule.get_velocity(x0, noise, t)).square().mean((1, 2, 3))
        loss = (weight * error).mean() / weight.mean()
        return loss, {"mse": error.mean().item()}

    name = GOLD if without else FULL
    train(name, work, model, loss_of, steps=steps, lr=lr, minutes=minutes, restart=restart, ema_decay=0.998)


def load(work: Path, name: str = FULL) -> UNet2DConditionModel:
    model = build()
    model.load_state_dict(torch.load(work / f"{name}.ckpt", weights_only=True)["ema"])
    return model.eval().requires_grad_(False)
