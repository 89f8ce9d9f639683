"""Measures the shipped models against their targets, prints the figures and writes them beside the weights."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from fmn_guard.audit.detectors.builtin_judge import BuiltinJudge
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import decode, draw_latents, to_pixels
from fmn_guard.record import write_atomic
from fmn_guard.suite import Sampler

from . import clip
from .captions import article
from .card import write_cards
from .export import MODELS
from .pictures import HELD_OUT, Sprites, compose, draw_scene
from .world import AMBIGUITIES, ENTRIES, STYLES

STEPS, GUIDANCE = 20, 3.0
OBJECT_PROMPTS = ("a photo of {x}", "a picture of {x}", "{x}", "an image of {x} on a blue background")
PORTRAIT_PROMPTS = ("a photo of {x}", "a portrait of {x}", "{x}", "a picture of {x} on a green background")
TARGETS = {
    "judge_concept": 0.98,
    "judge_style": 0.98,
    "clip_zero_shot": 0.95,
    "generated_mean": 0.95,
    "generated_worst": 0.75,
    "generated_style": 0.95,
    "generated_identity": 0.95,
}


def renders(work: Path, count: int) -> tuple[torch.Tensor, list[str], list[str]]:
    """Held-out real renders: a seed that no training has seen, the same sprites."""
    rng = random.Random(987_654_321)
    scenes = [draw_scene(rng, ENTRIES[i % len(ENTRIES)], rng.choice(STYLES)) for i in range(count)]
    pictures = compose(Sprites.load(work), scenes, rng, HELD_OUT)
    return pictures, [s.entry.phrase.casefold() for s in scenes], [s.style for s in scenes]


def judge_controls(work: Path, judge: BuiltinJudge) -> list[dict[str, object]]:
    """How often the judge is wrong on held-out renders, by axis of its labels; each render is asked for every label."""
    pictures, concepts, styles = renders(work, 2100)
    scores = judge.recognise(to_pixels(pictures))
    rows: list[dict[str, object]] = []
    for axis, truths in (("concept", concepts), ("style", styles)):
        labels = [
            label for label in judge.instrument.labels if label.startswith(f"{axis}:") and label != "concept:none"
        ]
        seen = [
            (label == f"{axis}:{truth}", s[label] >= 0.5)
            for s, truth in zip(scores, truths, strict=True)
            for label in labels
        ]
        rows.append(
            {
                "axis": axis,
                "threshold": 0.5,
                "shown": sum(is_it for is_it, _ in seen),
                "found": sum(is_it and says for is_it, says in seen),
                "absent": sum(not is_it for is_it, _ in seen),
                "alarms": sum(says and not is_it for is_it, says in seen),
                "source": "held-out real renders, none of them drawn by a model",
            }
        )
    return rows


@torch.inference_mode()
def clip_on_renders(work: Path) -> dict[str, float]:
    """Zero-shot: one text vector a concept, the mean over plain and styled sentences."""
    model = CLIPModel.from_pretrained(MODELS / "emoji-clip").float().eval()
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "emoji-clip")
    pictures, concepts, _ = renders(work, 1400)
    image = torch.cat([model.get_image_features(pixel_values=p).pooler_output for p in pictures.split(128)])
    vectors = []
    for entry in ENTRIES:
        name = entry.phrase if entry.kind == "identity" else article(entry.phrase)
        sentences = [f"a photo of {name}", name]
        if entry.kind != "identity":
            sentences += [f"a photo of {name} in the style of {s}" for s in STYLES]
        text = model.get_text_features(input_ids=clip.tokens(tokenizer, sentences)).pooler_output
        vectors.append(torch.nn.functional.normalize(text, dim=-1).mean(0))
    text = torch.nn.functional.normalize(torch.stack(vectors), dim=-1)
    found = (image @ text.T).argmax(1).tolist()
    names = [entry.phrase.casefold() for entry in ENTRIES]
    return {"clip_zero_shot": _mean(names[i] == c for i, c in zip(found, concepts, strict=True))}


class Drawn:
    """Draws with the shipped pipeline and asks the judge."""

    def __init__(self, judge: BuiltinJudge, steps: int = STEPS, guidance: float = GUIDANCE) -> None:
        began = time.perf_counter()
        self._pipeline = load_pipeline(MODELS / "emoji-sd")
        self.load_seconds = time.perf_counter() - began
        self._judge, self._sampler = judge, Sampler(steps=steps, guidance=guidance, batch=32)

    def pixels(self, prompts: list[str], first_seed: int) -> np.ndarray:
        seeds = [first_seed + i for i in range(len(prompts))]
        latents = draw_latents(self._pipeline, prompts, seeds, self._sampler)
        return to_pixels(decode(self._pipeline, latents))

    def scores(self, prompts: list[str], first_seed: int) -> list[dict[str, float]]:
        return self._judge.recognise(self.pixels(prompts, first_seed))


def concepts(drawn: Drawn, each: int = 8) -> tuple[dict[str, float], dict[str, float]]:
    """Recognition of every concept, ``each`` pictures over four prompts."""
    rates: dict[str, float] = {}
    for i, entry in enumerate(ENTRIES):
        identity = entry.kind == "identity"
        name = entry.phrase if identity else article(entry.phrase)
        prompts = [t.format(x=name) for t in (PORTRAIT_PROMPTS if identity else OBJECT_PROMPTS)] * (each // 4)
        scores = drawn.scores(prompts, 10_000 + 100 * i)
        rates[entry.phrase] = _mean(s[f"concept:{entry.phrase.casefold()}"] >= 0.5 for s in scores)
    people = [rates[e.phrase] for e in ENTRIES if e.kind == "identity"]
    figures = {
        "generated_mean": float(np.mean(list(rates.values()))),
        "generated_worst": min(rates.values()),
        "generated_identity": float(np.mean(people)),
    }
    return figures, rates


def styles(drawn: Drawn) -> dict[str, float]:
    """Style recognition, every style on every third thing."""
    things = [e for e in ENTRIES if e.kind != "identity"][::3]
    hits: dict[str, list[bool]] = defaultdict(list)
    for i, style in enumerate(STYLES):
        prompts = [f"a photo of {article(e.phrase)} in the style of {style}" for e in things]
        for score in drawn.scores(prompts, 40_000 + 1000 * i):
            hits[style].append(score[f"style:{style}"] >= 0.5)
    return {"generated_style": _mean(h for row in hits.values() for h in row)} | {
        f"style {style}": _mean(row) for style, row in hits.items()
    }


def ambiguous(drawn: Drawn, count: int = 200) -> dict[str, tuple[float, float]]:
    """Shares of the dominant and the other reading of each ambiguous word."""
    shares = {}
    for i, case in enumerate(AMBIGUITIES):
        templates = ("a photo of {x}", "{x}", "a picture of {x}", "an image of {x}")
        prompts = [templates[j % 4].format(x=case.word) for j in range(count)]
        scores = drawn.scores(prompts, 60_000 + 1000 * i)
        shares[case.word] = (
            _mean(s[f"concept:{case.dominant.casefold()}"] >= 0.5 for s in scores),
            _mean(s[f"concept:{case.other.casefold()}"] >= 0.5 for s in scores),
        )
    return shares


def speed(drawn: Drawn) -> dict[str, float]:
    began = time.perf_counter()
    drawn.pixels(["a photo of a lion"] * 64, 0)
    return {"seconds_for_64_pictures": time.perf_counter() - began, "seconds_to_load": drawn.load_seconds}


def contact_sheet(drawn: Drawn, path: Path) -> None:
    """Concepts x styles: a column a thing, a row a style; the identities below."""
    things = [e for e in ENTRIES if e.kind != "identity"][::2]
    rows = [
        drawn.pixels([f"a photo of {article(e.phrase)} in the style of {s}" for e in things], 90_000) for s in STYLES
    ]
    people = [e for e in ENTRIES if e.kind == "identity"]
    rows.append(drawn.pixels([f"a portrait of {e.phrase}" for e in people], 91_000))
    sheet = Image.new("RGB", (64 * len(things), 64 * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (64 * x, 64 * y))
    sheet.save(path, optimize=True)


def run(work: Path, quick: bool) -> bool:
    """Prints every figure beside its target; returns whether all are met."""
    judge = BuiltinJudge()
    drawn = Drawn(judge)
    controls = judge_controls(work, judge)
    figures = {f"judge_{c['axis']}": c["found"] / c["shown"] for c in controls} | clip_on_renders(work)
    generated, rates = concepts(drawn)
    figures |= generated | styles(drawn)
    shares = ambiguous(drawn, 40 if quick else 200)
    times = speed(drawn)
    met = all(figures[name] >= target for name, target in TARGETS.items())
    for name, value in figures.items():
        target = f"target {TARGETS[name]:.2f} {'ok' if value >= TARGETS[name] else 'MISSED'}" if name in TARGETS else ""
        print(f"{name:24} {value:.4f}  {target}")
    for word, (dominant, other) in shares.items():
        near = abs(dominant - 0.85) <= 0.08 and abs(other - 0.15) <= 0.08
        met &= near
        print(f"{word:24} {dominant:.3f} / {other:.3f}  target 0.85 / 0.15 within 0.08 {'ok' if near else 'MISSED'}")
    for name, limit in (("seconds_for_64_pictures", 40.0), ("seconds_to_load", 3.0)):
        met &= times[name] <= limit
        print(f"{name:24} {times[name]:.1f}  limit {limit:.0f} {'ok' if times[name] <= limit else 'MISSED'}")
    print("below 1.0:", ", ".join(f"{k} {v:.2f}" for k, v in sorted(rates.items(), key=lambda r: r[1]) if v < 1))
    record = {
        "steps": STEPS,
        "guidance": GUIDANCE,
        "figures": {k: round(v, 4) for k, v in figures.items()},
        "ambiguous": {word: [round(s, 3) for s in pair] for word, pair in shares.items()},
        "recognition": {k: round(v, 3) for k, v in rates.items()},
        **{k: round(v, 1) for k, v in times.items()},
    }
    if not quick:
        write_controls(judge, controls)
        write_cards(MODELS, record, TARGETS)
        write_atomic(MODELS / "emoji-sd" / "evaluation.json", json.dumps(record, indent=1) + "\n")
        contact_sheet(drawn, MODELS / "emoji-sd" / "contact-sheet.png")
    return met


def write_controls(judge: BuiltinJudge, controls: list[dict[str, object]]) -> None:
    """Writes the judge's error on renders beside its weights, where audits read it."""
    record = {"weights_digest": judge.instrument.weights_digest, "controls": controls}
    write_atomic(MODELS / "emoji-judge" / "controls.json", json.dumps(record, indent=1) + "\n")


def _mean(hits: Iterable[bool]) -> float:
    return float(np.mean([float(h) for h in hits]))
