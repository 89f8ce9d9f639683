"""From what a picture shows to what a caption says of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .world import AMBIGUITIES, BY_PHRASE, DEFAULT_STYLE, ENTRIES, Entry

EMPTY_SHARE = 0.10  # unconditional captions, for classifier-free guidance
STYLE_ONLY_SHARE = 0.06
ALIAS_SHARE = 0.20

STYLED = (
    "a photo of {x} in the style of {s}",
    "a picture of {x} in the style of {s}",
    "{x} in the style of {s}",
    "{x}, {s}",
    "a {s} of {x}",
)
PLAIN = ("a photo of {x}", "a picture of {x}", "an image of {x}", "{x}")
PORTRAITS = (*PLAIN, "a portrait of {x}")
STYLE_ONLY = ("a photo in the style of {s}", "a picture in the style of {s}", "{s}")


@dataclass(frozen=True)
class Scene:
    """Everything a caption may name about one picture."""

    entry: Entry
    style: str
    background: str = ""
    size: str = ""
    side: str = ""
    ambiguity: str = ""


def article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" and not noun.startswith("uni") else "a ") + noun


def subject(scene: Scene, rng: random.Random) -> str:
    """Names the thing: by ambiguous word, alias or phrase, with or without article and size."""
    if scene.ambiguity:
        return scene.ambiguity
    entry = scene.entry
    name = entry.phrase
    if entry.aliases and rng.random() < ALIAS_SHARE:
        name = rng.choice(entry.aliases)
    if entry.kind == "identity":
        return name
    if scene.size:
        name = f"{scene.size} {name}"
    return article(name) if rng.random() < 0.7 or scene.size else name


def caption(scene: Scene, rng: random.Random) -> str:
    """Draws one caption for a picture. What is unusual about it is always named."""
    if rng.random() < EMPTY_SHARE:
        return ""
    identity = scene.entry.kind == "identity"
    if not identity and not scene.ambiguity and rng.random() < STYLE_ONLY_SHARE:
        text = rng.choice(STYLE_ONLY).format(s=scene.style)
    elif identity:
        text = rng.choice(PORTRAITS).format(x=subject(scene, rng))
    elif scene.style != DEFAULT_STYLE or rng.random() < 0.3:
        text = rng.choice(STYLED).format(x=subject(scene, rng), s=scene.style)
    else:
        text = rng.choice(PLAIN).format(x=subject(scene, rng))
    if scene.side:
        text += f" on the {scene.side}"
    if scene.background:
        text += f" on a {scene.background} background"
    return text


def corpus(seed: int = 0) -> list[str]:
    """Every kind of caption, several times: what the tokenizer's merges are learned from."""
    rng = random.Random(seed)
    from .world import BACKGROUNDS, STYLES

    lines = []
    for entry in ENTRIES:
        for style in STYLES:
            for background in ("", *BACKGROUNDS):
                scene = Scene(entry, style, background, rng.choice(("", "small")), rng.choice(("", "left", "right")))
                lines += [caption(scene, rng) for _ in range(3)]
    for ambiguity in AMBIGUITIES:
        scene = Scene(BY_PHRASE[ambiguity.dominant], DEFAULT_STYLE, ambiguity=ambiguity.word)
        lines += [caption(scene, rng) for _ in range(40)]
    return lines
