"""Patches made by hand: random edits of a checkpoint's cross-attention values, as small as real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fmn_guard.facts import describe_checkpoint
from fmn_guard.forget.factors import Factors
from fmn_guard.forget.patch import Part, PartFacts, Patch
from fmn_guard.forget.tensorfile import read_header
from fmn_guard.manifest import CheckpointRef
from fmn_guard.record import digest
from fmn_guard.weights import WEIGHTS, part_bytes

PLAN = digest("plan")


def make_patch(checkpoint: str | Path, slugs: Sequence[str] = ("lion", "pistol"), rank: int = 2) -> Patch:
    """A patch of a checkpoint that is there, with a part for each slug; the last layer of each is whole differences."""
    base = describe_checkpoint(CheckpointRef(checkpoint=str(checkpoint)), Path())
    weights = base.folder / "unet" / "diffusion_pytorch_model.safetensors"
    shapes = {n: e.shape for n, e in read_header(weights).entries.items() if n.endswith("attn2.to_v.weight")}
    parts = []
    for slug in slugs:
        generator = torch.Generator().manual_seed(sum(map(ord, slug)))
        edits = {
            name: Factors(
                torch.randn(out, rank, generator=generator).half(), torch.randn(rank, width, generator=generator).half()
            )
            for name, (out, width) in sorted(shapes.items())
        }
        last = max(edits)
        whole = {last: torch.randn(shapes[last], generator=generator).half()}
        facts = PartFacts(concepts=(slug,), kind="object", plan_digest=PLAN, metrics={"error": 0.001, "drift": 0.05})
        parts.append(Part(facts, {**edits, **whole}))
    return Patch(base.facts.identity, part_bytes(base.folder / "unet", WEIGHTS["unet"]), tuple(parts))
