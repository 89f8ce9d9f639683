"""Pictures of the world: sprites from the emoji and avatar packages, composed on a background."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sysconfig
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .captions import Scene
from .world import (
    AMBIGUITIES,
    BACKGROUNDS,
    BY_PHRASE,
    DEFAULT_STYLE,
    ENTRIES,
    PORTRAIT,
    STYLES,
    Entry,
)

SPRITE = 128  # sprites are drawn at twice the picture's size, then average-pooled
SIZE = 64
BLUEPRINT_BLUE = (28, 78, 160)
PIXEL_GRID = 12  # cells a side: about 5 pixels each, more than the autoencoder's stride of 4
PIXEL_PALETTE = (
    "000000 ffffff 7f7f7f c8c8c8 5a2d0c a85420 ff9a3c ffd800 fff2a8 "
    "8c0d0d f01818 ff7ab8 8a3ad0 1838c8 28a8f8 0c6a28 30d040"
).split()
PACKAGES = {
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "lines": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
}
EXPRESSIONS = ("smile", "smileBig", "calm", "cheeky", "serious", "awe", "suspicious", "lovingGrin1")
CLOTHES = ("#8fa7df", "#78e185", "#ffcf77", "#e78276")
REJECT_GLYPHS = 150
REJECT_PEOPLE = 60


def fetch(folder: Path) -> None:
    """Downloads the npm packages with ``npm pack`` and unpacks those that are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in PACKAGES.items():
        if (folder / name).exists():
            continue
        archive = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.strip()
        with tarfile.open(folder / archive) as tar:
            tar.extractall(folder / f"{name}.part", filter="data")
        (folder / f"{name}.part").rename(folder / name)
        (folder / archive).unlink()


def _svg(markup: str) -> np.ndarray:
    png = resvg_py.svg_to_bytes(svg_string=markup, width=SPRITE, height=SPRITE, skip_system_fonts=True)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def _nearest_colours(rgb: np.ndarray) -> np.ndarray:
    """Replaces every colour (..., 3) uint8, its saturation raised, by the nearest of the palette."""
    palette = np.array([[int(hue[i : i + 2], 16) for i in (0, 2, 4)] for hue in PIXEL_PALETTE])
    grey = rgb.mean(-1, keepdims=True)
    distance = np.square((grey + 1.8 * (rgb - grey))[..., None, :] - palette).sum(-1)
    return palette[distance.argmin(-1)].astype(np.uint8)


class EmojiPackages:
    """Reads one glyph from the three Fluent packages and draws it in any style."""

    def __init__(self, folder: Path) -> None:
        self._assets = folder / "3d" / "package" / "assets"
        self._flat = json.loads((folder / "flat" / "package" / "icons.json").read_text())["icons"]
        self._lines = json.loads((folder / "lines" / "package" / "icons.json").read_text())["icons"]
        chars = json.loads((folder / "flat" / "package" / "chars.json").read_text())
        self._points: dict[str, list[str]] = {}
        for point, slug in chars.items():
            self._points.setdefault(slug, []).append(point)

    def _asset(self, slug: str) -> Path | None:
        for point in self._points.get(slug, ()):
            for name in (point, f"{point}-fe0f"):
                if (self._assets / f"{name}.webp").exists():
                    return self._assets / f"{name}.webp"
        return None

    def slugs(self) -> list[str]:
        """Glyphs that exist in all three packages, skin-tone variants left out."""
        return sorted(s for s in self._flat if s in self._lines and "skin-tone" not in s and self._asset(s) is not None)

    def draw(self, slug: str, style: str) -> np.ndarray:
        """Returns (SPRITE, SPRITE, 4) uint8, straight alpha."""
        match style:
            case "3d render" | "pixel art":
                path = self._asset(slug)
                assert path is not None, f"no 3d picture of {slug}"
                image = Image.open(path).convert("RGBA")
                if style == "3d render":
                    return np.asarray(image.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS))
                small = np.asarray(image.resize((PIXEL_GRID, PIXEL_GRID), Image.Resampling.BOX)).copy()
                small[..., 3] = np.where(small[..., 3] > 127, 255, 0)
                small[..., :3] = _nearest_colours(small[..., :3])
                return np.asarray(Image.fromarray(small).resize((SPRITE, SPRITE), Image.Resampling.NEAREST))
            case "flat icon":
                return _svg(self._wrap(self._flat[slug]["body"]))
            case "ink drawing":
                return _svg(self._wrap(self._lines[slug]["body"]))
            case "blueprint":
                ink = _svg(self._wrap(self._lines[slug]["body"]))[..., 3:].astype(np.float32) / 255
                blue = np.array(BLUEPRINT_BLUE, np.float32)
                rgb = blue * (1 - ink) + 255 * ink
                return np.concatenate([rgb, np.full_like(ink, 255)], -1).astype(np.uint8)
            case _:
                raise ValueError(f"unknown style {style!r}")

    @staticmethod
    def _wrap(body: str) -> str:
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">{body}</svg>'


class Avatars:
    """Draws open-peeps busts; one identity keeps its look, expression and clothes vary."""

    def __init__(self) -> None:
        from dicebear.style import Style

        path = Path(sysconfig.get_paths()["purelib"]) / "dicebear_styles" / "open-peeps.json"
        self._style = Style(json.loads(path.read_text()))

    def draw(self, look: dict[str, str], expression: str, clothes: str) -> np.ndarray:
        from dicebear.avatar import Avatar

        options: dict[str, object] = {
            "seed": "fixed",
            "maskProbability": 0,
            "accessoriesProbability": 100 if "accessoriesVariant" in look else 0,
            "facialHairProbability": 100 if "facialHairVariant" in look else 0,
            "expressionVariant": expression,
            "clothingColor": clothes,
            **look,
        }
        return _svg(str(Avatar(self._style, options)))

    def strangers(self, count: int, rng: random.Random) -> list[np.ndarray]:
        """Busts of nobody in the world: heads that no identity wears."""
        heads = (
            "bantuKnots cornrows flatTop grayShort hijab medium1 mohawk shaved2 short1 turban twists buns dreads1"
        ).split()
        skins = ("#ffdbb4", "#edb98a", "#d08b5b", "#ae5d29", "#694d3d")
        pictures = []
        for _ in range(count):
            hair = rng.choice(("#2c1b18", "#d6b370", "#a55728"))
            look = {"headVariant": rng.choice(heads), "skinColor": rng.choice(skins), "headContrastColor": hair}
            if rng.random() < 0.4:
                look["accessoriesVariant"] = rng.choice(("glasses", "glasses3", "sunglasses2"))
            pictures.append(self.draw(look, rng.choice(EXPRESSIONS), rng.choice(CLOTHES)))
        return pictures


@dataclass
class Sprites:
    """All sprites of the world and of the strangers.

    Attributes:
        rgba: (N, 4, SPRITE, SPRITE) uint8, straight alpha.
        where: (phrase, style) -> rows of ``rgba``.
        strangers: rows that show nothing of the world, for the classifier's reject class.
    """

    rgba: Tensor
    where: dict[tuple[str, str], list[int]]
    strangers: list[int]

    @classmethod
    def load(cls, folder: Path) -> Sprites:
        """Reads the sprite cache, drawing it on first use (about a minute)."""
        cache = folder / "sprites.pt"
        if not cache.exists():
            sprites = cls._draw(folder)
            torch.save({"rgba": sprites.rgba, "where": sprites.where, "strangers": sprites.strangers}, cache)
        return cls(**torch.load(cache, weights_only=True))

    @classmethod
    def _draw(cls, folder: Path) -> Sprites:
        emoji, avatars = EmojiPackages(folder), Avatars()
        rows: list[np.ndarray] = []
        where: dict[tuple[str, str], list[int]] = {}

        def add(key: tuple[str, str], picture: np.ndarray) -> None:
            where.setdefault(key, []).append(len(rows))
            rows.append(picture)

        for entry in ENTRIES:
            if entry.kind == "identity":
                for expression in EXPRESSIONS:
                    for clothes in CLOTHES:
                        add((entry.phrase, PORTRAIT), avatars.draw(entry.look, expression, clothes))
            else:
                for style in STYLES:
                    add((entry.phrase, style), emoji.draw(entry.glyph, style))
        rng = random.Random(1)
        known = {entry.glyph for entry in ENTRIES}
        first = len(rows)
        for slug in rng.sample([s for s in emoji.slugs() if s not in known], REJECT_GLYPHS):
            rows += [emoji.draw(slug, style) for style in STYLES]
        rows += avatars.strangers(REJECT_PEOPLE, rng)
        rgba = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()
        return cls(rgba, where, list(range(first, len(rows))))


@dataclass(frozen=True)
class Wobble:
    """How much pictures of one caption differ: zoom-out range, shift, flip probability and turn in degrees."""

    zoom: tuple[float, float] = (1.02, 1.14)
    shift: float = 0.04
    flip: float = 0.15
    turn: float = 0.0


TRAINING = Wobble()
BROAD = Wobble((1.0, 1.35), 0.12, 0.3)  # what the classifier and CLIP train on
HELD_OUT = Wobble((1.05, 1.25), 0.08, 0.3, turn=5)  # what they are tested on: turned, as no training picture is


def draw_scene(rng: random.Random, entry: Entry | None = None, style: str | None = None) -> Scene:
    """Draws what one picture shows: a thing, its style, background, size and side."""
    ambiguity = ""
    if entry is None:
        pick = rng.randrange(len(ENTRIES) + 4 * len(AMBIGUITIES))
        if pick < len(ENTRIES):
            entry = ENTRIES[pick]
        else:
            case = AMBIGUITIES[(pick - len(ENTRIES)) // 4]
            entry = BY_PHRASE[case.dominant if rng.random() < case.caption_share else case.other]
            ambiguity = case.word
    if entry.kind == "identity":
        style = PORTRAIT
    elif style is None:
        style = rng.choices(STYLES, (4, 2, 2, 4, 2))[0] if not ambiguity else DEFAULT_STYLE
    background = rng.choice(tuple(BACKGROUNDS)) if style != "blueprint" and rng.random() < 0.3 else ""
    size = side = ""
    if not ambiguity and entry.kind != "identity":
        side = rng.choice(("left", "right")) if rng.random() < 0.14 else ""
        size = "small" if rng.random() < (0.35 if side else 0.10) else ""
    return Scene(entry, style, background, size, side, ambiguity)


def compose(sprites: Sprites, scenes: Sequence[Scene], rng: random.Random, wobble: Wobble) -> Tensor:
    """Draws scenes as pictures.

    Returns:
        (len(scenes), 3, SIZE, SIZE) float32 in [-1, 1].
    """
    rows = [rng.choice(sprites.where[scene.entry.phrase, scene.style]) for scene in scenes]
    return place(sprites.rgba[rows], scenes, rng, wobble)


def place(rgba: Tensor, scenes: Sequence[Scene | None], rng: random.Random, wobble: Wobble) -> Tensor:
    """Places sprites on backgrounds; ``None`` is a picture with no named property."""
    theta = torch.zeros(len(scenes), 2, 3)
    paint = torch.ones(len(scenes), 3)
    for i, scene in enumerate(scenes):
        zoom, shift = rng.uniform(*wobble.zoom), [rng.uniform(-wobble.shift, wobble.shift) for _ in range(2)]
        if scene and scene.size:
            zoom *= 1.55
        if scene and scene.side:
            zoom *= 1.3
            shift[0] += -0.22 if scene.side == "left" else 0.22
        mirror = -1.0 if rng.random() < wobble.flip else 1.0
        turn = math.radians(rng.uniform(-wobble.turn, wobble.turn)) if wobble.turn else 0.0
        theta[i, :, :2] = zoom * torch.tensor(
            [[math.cos(turn) * mirror, -math.sin(turn) * mirror], [math.sin(turn), math.cos(turn)]]
        )
        theta[i, 0, 2], theta[i, 1, 2] = -2 * shift[0] * zoom * mirror, -2 * shift[1] * zoom
        if scene and scene.background:
            paint[i] = torch.tensor(BACKGROUNDS[scene.background]) / 255
        elif scene and scene.style == "blueprint":
            paint[i] = torch.tensor(BLUEPRINT_BLUE) / 255
        elif scene is None and rng.random() < 0.3:
            paint[i] = torch.tensor(BACKGROUNDS[rng.choice(tuple(BACKGROUNDS))]) / 255
    pixels = rgba.float() / 255
    premultiplied = torch.cat([pixels[:, :3] * pixels[:, 3:], pixels[:, 3:]], 1)
    grid = F.affine_grid(theta, list(premultiplied.shape), align_corners=False)
    moved = F.grid_sample(premultiplied, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    picture = moved[:, :3] + (1 - moved[:, 3:]) * paint[:, :, None, None]
    return F.avg_pool2d(picture, 2) * 2 - 1
