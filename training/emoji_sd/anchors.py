"""Anchor pictures of ConceptBench: renders of its concepts, as the judge's held-out ones are drawn."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

from fmn_guard.record import slugify
from fmn_guard.shipped import suites
from fmn_guard.suite import load_suite

from .pictures import HELD_OUT, Sprites, compose, draw_scene
from .world import BY_PHRASE, OBJECTS

EACH = 8  # what `fmn-guard mscore` asks for at least
SEED = 20261126


def write(work: Path, edition: str = "conceptbench-1") -> list[Path]:
    """Draws the anchors of an edition into the folder that it names.

    Args:
        work: Where the artwork is.
        edition: The suite.

    Returns:
        The files.
    """
    folder = suites() / edition
    bench = load_suite(folder).spec.bench
    assert bench is not None and bench.anchors is not None
    sprites, written = Sprites.load(work), []
    for concept in bench.concepts:
        rng = random.Random(f"{SEED} {concept.phrase}")
        if concept.kind == "style":
            scenes = [draw_scene(rng, entry, concept.phrase) for entry in rng.sample(OBJECTS, EACH)]
        else:
            scenes = [draw_scene(rng, BY_PHRASE[concept.phrase]) for _ in range(EACH)]
        pictures = compose(sprites, scenes, rng, HELD_OUT)
        place = folder / bench.anchors / slugify(concept.phrase)
        place.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()):
            written.append(place / f"{i}.png")
            Image.fromarray(picture).save(written[-1], optimize=True)
    return written
