"""How many records a step holds in memory at once: its gradients are means, so they can be had a few at a time.

Decided by shapes alone and never by what memory is free, so that a pass computes the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..model.conditioning import denoiser

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_MOST = 2 << 30
"""Bytes of what layers keep for the backward pass; beside them stand base, moments and text states."""
_KEPT = 320
"""Numbers that a UNet keeps for each pixel and channel of its first block: 309 for a record of 256 pixels on Stable
Diffusion 1.5 (`make bench-sd15`, "kept" of ``guarded``)."""
_KEPT_BY_BLOCK = 12
"""Numbers that a block of PixArt keeps for each patch and channel while values alone are trained: counted by autograd's
hooks on small ones."""


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
    part = denoiser(pipeline)
    recompute = _bytes(pipeline, pixels) > _MOST and not part.is_gradient_checkpointing
    if recompute:
        part.enable_gradient_checkpointing()
    try:
        yield
    finally:
        if recompute:
            part.disable_gradient_checkpointing()


def _bytes(pipeline: StableDiffusionPipeline, pixels: int) -> int:
    part = denoiser(pipeline)
    if "block_out_channels" in part.config:
        kept = pixels * part.config.block_out_channels[0] * _KEPT
    else:
        patches = pixels / part.config.patch_size**2
        kept = patches * part.inner_dim * part.config.num_layers * _KEPT_BY_BLOCK
    return int(kept * part.dtype.itemsize)
