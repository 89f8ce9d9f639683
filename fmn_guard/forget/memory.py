"""How many records a step holds in memory at once: its gradients are means, so they can be had a few at a time.

Decided by shapes alone and never by what memory is free, so that a pass computes the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_MOST = 2 << 30
"""Bytes of what layers keep for the backward pass; beside them stand base, moments and text states."""
_KEPT = 320
"""Numbers that a UNet keeps for each pixel and channel of its first block: 309 for a record of 256 pixels on Stable
Diffusion 1.5 (`make bench-sd15`, "kept" of ``guarded``)."""


def records_at_once(pipeline: StableDiffusionPipeline, pixels: int) -> int:
    """Records that are trained on at once: as many as fit, one at least.

    Args:
        pipeline: the model.
        pixels: of a record's latents.
    """
    return max(1, _MOST // _bytes(pipeline, pixels))


@contextmanager
def spared(pipeline: StableDiffusionPipeline, pixels: int) -> Iterator[None]:
    """Where not even one record fits, blocks keep only what they are given and are run again in the backward pass."""
    recompute = _bytes(pipeline, pixels) > _MOST and not pipeline.unet.is_gradient_checkpointing
    if recompute:
        pipeline.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if recompute:
            pipeline.unet.disable_gradient_checkpointing()


def _bytes(pipeline: StableDiffusionPipeline, pixels: int) -> int:
    return int(pixels * pipeline.unet.config.block_out_channels[0] * _KEPT * pipeline.unet.dtype.itemsize)
