"""Draws the batches of a plan, with as many workers as the cores allow and always the same pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..model.sampler import decode, draw_latents, threads, to_pixels
from ..plan import Plan
from ..probes import Probe
from ..record import Digest, bytes_digest

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_MOST_WORKERS = 4  # each holds a batch in memory


@contextmanager
def drawing_pool(threads_each: int, device: str) -> Iterator[ThreadPoolExecutor]:
    """Workers for batches, as many as the cores allow: what a batch gives depends on its own threads alone."""
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    workers = min(max(1, cores // threads_each), _MOST_WORKERS)
    with (
        threads(threads_each),
        # torch counts threads for each thread that calls it
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads_each,)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def draw_batch(
    plan: Plan, model: StableDiffusionPipeline, probes: tuple[Probe, ...]
) -> tuple[np.ndarray, list[Digest | None]]:
    """Draws a batch.

    Args:
        plan: the plan.
        model: a model.
        probes: one of `fmn_guard.assembly.probe_batches` of the plan.

    Returns:
        Pixels (B, H, W, 3) uint8, and the digest of each picture's; None where it is not a number.
    """
    prompts, seeds = [p.prompt for p in probes], [p.seed for p in probes]
    latents = draw_latents(model, prompts, seeds, plan.sampler_of(probes[0]))
    pictures = decode(model, latents)
    broken = (~pictures.isfinite()).flatten(1).any(1).tolist()
    pixels = to_pixels(pictures.nan_to_num())
    digests = [None if bad else bytes_digest(p.tobytes()) for p, bad in zip(pixels, broken, strict=True)]
    return pixels, digests
