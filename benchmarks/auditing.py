"""What looking at a picture costs beside drawing it, in one process on one thread, as an audit's workers do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fmn_guard.audit.detectors import load_detector, load_recogniser
from fmn_guard.lint import lint_policy
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.sampler import decode, draw_latents, to_pixels
from fmn_guard.shipped import shipped_model

REPEATS = 5
NAMES = ("lion", "pizza", "rocket", "robot", "castle", "guitar", "fox", "ghost")


@torch.no_grad()
def run() -> None:
    """Prints the median milliseconds a picture takes in each step of the default policy's audit, and its share."""
    torch.set_num_threads(1)
    suite = lint_policy(Path("policies/default.yaml"))[1].spec
    pipeline = load_pipeline(shipped_model("emoji-sd"), "cpu")
    recogniser = load_recogniser(suite.recogniser)
    sampler = suite.sampler
    prompts = [f"a photo of a {NAMES[i % len(NAMES)]}" for i in range(sampler.batch)]

    def draw() -> torch.Tensor:
        seeds = range(sampler.batch)
        return draw_latents(pipeline, prompts, seeds, sampler)

    latents = draw()
    pixels = to_pixels(decode(pipeline, latents))
    steps: dict[str, Callable[[], object]] = {
        f"draw in {sampler.steps} steps": draw,
        "decode": lambda: decode(pipeline, latents),
        suite.recogniser.name: lambda: recogniser.recognise(pixels),
    }
    for spec in suite.detectors:
        detector = load_detector(spec)
        steps[spec.name] = lambda detector=detector: [detector.detect(picture) for picture in pixels]
    medians = {name: _median(step) * 1000 / sampler.batch for name, step in steps.items()}
    print(f"auditing a picture, median of {REPEATS}")
    for name, milliseconds in medians.items():
        print(f"  {name:24} {milliseconds:6.1f} ms  {milliseconds / sum(medians.values()):6.0%}")


def _median(step: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
