"""Draws a sample of a finished audit again: are these the pictures that were judged?

(Plan, Audit, base, patched) --replay--> Replay

On the machine and with the versions of the audit, pictures come out bit for bit. Elsewhere the last bits of a step
differ, and denoising can make more of it: there, pictures are held against those that the run kept, with a tolerance.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..assembly import probe_batches
from ..evidence import Audit, Side
from ..plan import Plan
from ..probes import Probe
from ..progress import Progress, silent
from ..record import Digest, Record, bytes_digest, digest
from .drawing import draw_batch, drawing_pool

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


_ABSENT = "absent"  # equal to no digest, nor to None, which is a picture that is not a number


class Redrawn(Record):
    """One picture that came out otherwise."""

    probe: str
    """Id of the probe."""
    side: Side
    """Which model drew it."""
    difference: float | None
    """Mean absolute difference of its pixels from the picture that was judged, in grey levels of 0 to 255; None where
    that one was not kept, or nothing could be drawn."""


class Replay(Record):
    """What drawing again gave."""

    drawn: int
    """Pictures drawn again, on both sides."""
    planned: int
    """Pictures of the whole audit."""
    within: tuple[Redrawn, ...]
    """Pictures whose pixels are not those of the audit, and which the tolerance lets pass, in its order."""
    differing: tuple[Redrawn, ...]
    """Those which it does not let pass, in its order."""


def sample_of(plan: Plan, share: float, seed: int = 0) -> list[tuple[Probe, ...]]:
    """Whole batches that hold at least a share of a plan's probes, in the plan's order.

    A picture depends on its batch in its last bits, so batches are drawn as they were.

    Args:
        plan: The plan.
        share: Share of its probes, in (0, 1].
        seed: Chooses another sample; the same seed gives the same one.
    """
    batches = probe_batches(plan)
    plan_digest = plan.digest
    shuffled = sorted(range(len(batches)), key=lambda i: digest([plan_digest, seed, i]))
    chosen: list[int] = []
    for i in shuffled:
        if sum(len(batches[j]) for j in chosen) >= share * len(plan.probes):
            break
        chosen.append(i)
    return [batches[i] for i in sorted(chosen)]


def replay(
    plan: Plan,
    audit: Audit,
    base: StableDiffusionPipeline,
    patched: StableDiffusionPipeline,
    *,
    share: float,
    seed: int = 0,
    run: Path | None = None,
    tolerance: float = 0.0,
    progress: Progress = silent,
) -> Replay:
    """Draws a sample of an audit again and compares the pixels.

    What is not the same bit for bit passes only if the picture that was judged is still there to be held against: a
    kept picture whose pixels are not those of the audit counts as gone.

    Args:
        plan: The plan that was audited.
        audit: What was found.
        base: The checkpoint that the plan starts from.
        patched: The model that was audited.
        share: Share of the probes to draw, in (0, 1]; see `sample_of`.
        seed: Which sample.
        run: The run folder, where pictures may have been kept; None compares digests alone.
        tolerance: Mean absolute difference up to which a picture passes, in grey levels of 0 to 255; 0 lets none pass
            that is not the same.
        progress: Told after each batch.
    """
    stated = {(o.side, o.probe): o.image_digest for o in audit.observations}
    sides: tuple[tuple[Side, StableDiffusionPipeline], ...] = (("base", base), ("patched", patched))
    batches = [(side, model, probes) for side, model in sides for probes in sample_of(plan, share, seed)]
    planned = sum(len(probes) for _, _, probes in batches)
    others: list[Redrawn] = []
    drawn = 0
    with drawing_pool(plan.sampler.threads, base.device.type) as pool:
        given = [pool.submit(_redrawn, plan, model, side, probes, stated, run) for side, model, probes in batches]
        for (_, _, probes), found in zip(batches, given, strict=True):
            others += found.result()
            drawn += len(probes)
            progress("drawing again", drawn, planned)
    # Where digests differ a difference is above 0, and a tolerance of 0 lets none pass.
    close = [each.difference is not None and each.difference <= tolerance for each in others]
    return Replay(
        drawn=drawn,
        planned=len(audit.observations),
        within=tuple(each for each, lets in zip(others, close, strict=True) if lets),
        differing=tuple(each for each, lets in zip(others, close, strict=True) if not lets),
    )


def _redrawn(
    plan: Plan,
    model: StableDiffusionPipeline,
    side: Side,
    probes: tuple[Probe, ...],
    stated: dict[tuple[Side, str], Digest | None],
    run: Path | None,
) -> list[Redrawn]:
    """Those of a batch that are not the same bit for bit; their pixels are not held until all is drawn."""
    pixels, digests = draw_batch(plan, model, probes)
    others = []
    for probe, picture, found in zip(probes, pixels, digests, strict=True):
        judged = stated.get((side, probe.id), _ABSENT)
        if found != judged:
            kept = _kept(run / "images" / side / probe.picture_name, judged) if run and found else None
            comparable = kept is not None and kept.shape == picture.shape
            difference = float(np.abs(picture.astype(np.int16) - kept).mean()) if comparable else None
            others.append(Redrawn(probe=probe.id, side=side, difference=difference))
    return others


def _kept(path: Path, judged: Digest | None) -> np.ndarray | None:
    """Pixels of a picture that was kept, if it is the one that was judged."""
    try:
        pixels = np.asarray(Image.open(path, formats=["PNG"]).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return pixels if bytes_digest(pixels.tobytes()) == judged else None
