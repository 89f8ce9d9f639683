"""The autoencoder: 64 x 64 x 3 pixels <-> 16 x 16 x 4 latents."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from .legs import train
from .pictures import BROAD, Sprites, compose, draw_scene, place

BATCH = 12
KL_WEIGHT = 1e-3


def build() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )


def _edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def run(work: Path, steps: int, minutes: float, restart: bool) -> None:
    torch.manual_seed(0)
    sprites = Sprites.load(work)
    model = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(10_000_000 + step)
        # a fifth of the pictures are strangers: the latent space must not only hold the world
        strange = BATCH // 5
        scenes = [draw_scene(rng) for _ in range(BATCH - strange)]
        x = compose(sprites, scenes, rng, BROAD)
        odd = sprites.rgba[[rng.choice(sprites.strangers) for _ in range(strange)]]
        x = torch.cat([x, place(odd, [None] * strange, rng, BROAD)]).to(memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        y = model.decode(posterior.mean + posterior.std * noise).sample
        l1 = (x - y).abs().mean()
        edge = sum((a - b).abs().mean() for a, b in zip(_edges(x), _edges(y), strict=True))
        # the averaged picture carries the colours, which the L1 term alone lets collapse
        colour = F.mse_loss(F.avg_pool2d(y, 4), F.avg_pool2d(x, 4))
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        loss = l1 + 0.5 * edge + 3 * colour + KL_WEIGHT * kl
        return loss, {"l1": l1.item(), "colour": colour.item(), "kl": kl.item()}

    train("vae", work, model, loss_of, steps=steps, lr=2e-3, minutes=minutes, restart=restart, weight_decay=0.0)


def load(work: Path) -> AutoencoderKL:
    """The averaged autoencoder of the last checkpoint, its latent scale measured on pictures."""
    model = build()
    model.load_state_dict(torch.load(work / "vae.ckpt", weights_only=True)["ema"])
    model.eval().requires_grad_(False)
    rng = random.Random(7)
    sprites = Sprites.load(work)
    with torch.inference_mode():
        pictures = compose(sprites, [draw_scene(rng) for _ in range(256)], rng, BROAD)
        scale = 1 / model.encode(pictures).latent_dist.mean.std().item()
    model.register_to_config(scaling_factor=round(scale, 4))
    return model
