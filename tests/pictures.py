"""Pictures of a run written by hand."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image


def write_pictures(run: Path, names: tuple[str, ...] = ("a", "b")) -> list[str]:
    """Writes small PNGs of both sides, and returns their paths in the run folder, sorted."""
    draw = random.Random(0)
    written = []
    for side in ("base", "patched"):
        (run / "images" / side).mkdir(parents=True)
        for name in names:
            Image.frombytes("RGB", (8, 8), draw.randbytes(192)).save(run / "images" / side / f"{name}.png")
            written.append(f"images/{side}/{name}.png")
    return written
