"""How textual inversion is done: settings that eraser and auditor state in what they write down."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .record import Record


class InversionSettings(Record):
    """Settings of one inversion: which embeddings make a model draw given pictures.

    Arithmetic is that of Gal et al. (arXiv 2208.01618). Forget-Me-Not's release takes 4 tokens, 500 steps of 1 picture
    at 1e-3, a weight decay of .1, and pulls norms to .4, which is the size of Stable Diffusion 2's own embeddings. It
    flips half of the pictures, which nothing here does.
    """

    tokens: Annotated[int, Field(ge=1, le=16)] = 1
    """Embeddings that stand for the concept, side by side."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field((0, 1, 2), min_length=1)
    """One inversion each, of other noise, timesteps and order of pictures; computed side by side."""
    steps: Annotated[int, Field(ge=1, le=100_000)] = 120
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=1, le=64)] = 2
    """Pictures that a seed sees in a step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.04
    """Of AdamW, in units of the embeddings, at the first step."""
    falls_to: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of learning rate and pull that is left at the end; they fall linearly, and not in the release. Embeddings
    wander while the rate is high: what they happen upon at the last step would be a matter of luck."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Of AdamW."""
    norm: Annotated[float, Field(gt=0)] | None = None
    """Norm that embeddings are pulled to; None for the mean norm of the model's own."""
    pull: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the way to that norm that an embedding is pulled after each step; in the release 100 learning rates."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads, which change the last bits."""
