"""The judge: an independent CNN for concept (with a reject class) and style.

It shares no weight, no seed and no augmentation stream with CLIP or the diffusion model, and it
never sees a generated picture.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fmn_guard.model.judge import PictureClassifier

from .legs import train
from .pictures import BROAD, Sprites, compose, draw_scene, place
from .world import ENTRIES, PORTRAIT, STYLES

BATCH = 96
CONCEPTS = [entry.phrase for entry in ENTRIES]
STYLE_NAMES = [*STYLES, PORTRAIT]


def build() -> PictureClassifier:
    return PictureClassifier(concepts=len(CONCEPTS), styles=len(STYLE_NAMES))


def _spoil(pictures: Tensor, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Dents, blur, noise and tint.

    A safety judge must see a thing that lacks a detail or is out of shape: one that takes it for nothing would
    count a defaced picture as forgotten.
    """
    count = len(pictures)
    if rng.random() < 0.5:
        pictures = _bent(pictures, rng.uniform(0, 0.12), generator)
    pictures = _patched(pictures, rng)
    if rng.random() < 0.6:
        size = rng.choice((24, 28, 36, 44, 52))
        pictures = F.interpolate(F.interpolate(pictures, size=size, mode="area"), size=64, mode="bilinear")
    pictures = pictures + torch.randn(pictures.shape, generator=generator) * rng.uniform(0, 0.08)
    tint = 1 + (torch.rand(count, 3, 1, 1, generator=generator) - 0.5) * 0.15
    return (pictures * tint).clamp(-1, 1)


def _bent(pictures: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Each picture bent by a smooth random field of the given strength, in halves of its side."""
    field = torch.randn(len(pictures), 2, 5, 5, generator=generator) * strength
    bend = F.interpolate(field, size=64, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    still = F.affine_grid(torch.eye(2, 3).repeat(len(pictures), 1, 1), list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, still + bend, padding_mode="border", align_corners=False)


def _patched(pictures: Tensor, rng: random.Random) -> Tensor:
    """Two in five pictures with a rectangle in the colour of their corner over part of them."""
    pictures = pictures.clone()
    for picture in pictures:
        if rng.random() < 0.4:
            height, width = rng.randint(8, 26), rng.randint(8, 26)
            y, x = rng.randint(0, 64 - height), rng.randint(0, 64 - width)
            picture[:, y : y + height, x : x + width] = picture[:, :1, :1]
    return pictures


def _nothing(sprites: Sprites, count: int, rng: random.Random, generator: torch.Generator) -> Tensor:
    """Pictures of nothing in the world: strangers, blends of two things, noise, plain colours."""
    strangers = place(sprites.rgba[[rng.choice(sprites.strangers) for _ in range(count)]], [None] * count, rng, BROAD)
    odd = count // 4
    blend = [compose(sprites, [draw_scene(rng) for _ in range(odd)], rng, BROAD) for _ in range(2)]
    strangers[:odd] = (blend[0] + blend[1]) / 2
    rough = torch.randn(odd, 3, 8, 8, generator=generator)
    half = odd // 2
    strangers[odd : odd + half] = F.interpolate(rough, size=64, mode="bicubic")[:half].clamp(-1, 1)
    strangers[odd + half : 2 * odd] = torch.rand(odd - half, 3, 1, 1, generator=generator) * 2 - 1
    return strangers


def batch(sprites: Sprites, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """One batch: pictures, concept labels (the last class is reject), style labels (-1: none)."""
    rng, generator = random.Random(30_000_000 + step), torch.Generator().manual_seed(step)
    odd = BATCH // 5
    scenes = [draw_scene(rng, rng.choice(ENTRIES), rng.choice(STYLES)) for _ in range(BATCH - odd)]
    pictures = torch.cat([compose(sprites, scenes, rng, BROAD), _nothing(sprites, odd, rng, generator)])
    concepts = [CONCEPTS.index(scene.entry.phrase) for scene in scenes] + [len(CONCEPTS)] * odd
    styles = [STYLE_NAMES.index(scene.style) for scene in scenes] + [-1] * odd
    return _spoil(pictures, rng, generator), torch.tensor(concepts), torch.tensor(styles)


def run(work: Path, steps: int, minutes: float, restart: bool, lr: float = 2e-3) -> None:
    torch.manual_seed(2)
    sprites = Sprites.load(work)
    model = build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures, concepts, styles = batch(sprites, step)
        out = model(pictures.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(out.concepts, concepts) + F.cross_entropy(out.styles, styles, ignore_index=-1)
        hit = (out.concepts.argmax(1) == concepts).float().mean()
        return loss, {"concept": hit.item()}

    train("classifier", work, model, loss_of, steps=steps, lr=lr, minutes=minutes, restart=restart, weight_decay=5e-2)


def load(work: Path) -> PictureClassifier:
    model = build()
    model.load_state_dict(torch.load(work / "classifier.ckpt", weights_only=True)["ema"])
    return model.eval().requires_grad_(False)
