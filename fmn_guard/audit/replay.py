"""Draws a sample of a finished audit again: are these the pictures that were judged?

(Plan, Audit, base, patched) --replay--> Replay
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..evidence import Audit, Side
from ..plan import Plan
from ..probes import Probe
from ..progress import Progress, silent
from ..record import Digest, Record, digest
from .auditor import batches_of, draw_batch, drawing_pool

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


_ABSENT = "absent"  # equal to no digest, nor to None, which is a picture that is not a number


class Redrawn(Record):
    """One picture that came out otherwise."""

    probe: str
    """Id of the probe."""
    side: Side
    """Which model drew it."""


class Replay(Record):
    """What drawing again gave."""

    drawn: int
    """Pictures drawn again, on both sides."""
    planned: int
    """Pictures of the whole audit."""
    differing: tuple[Redrawn, ...]
    """Pictures whose pixels are not those of the audit, in its order."""


def sample_of(plan: Plan, share: float, seed: int = 0) -> list[tuple[Probe, ...]]:
    """Whole batches that hold at least a share of a plan's probes, in the plan's order.

    A picture depends on its batch in its last bits, so batches are drawn as they were.

    Args:
        plan: The plan.
        share: Share of its probes, in (0, 1].
        seed: Chooses another sample; the same seed gives the same one.
    """
    batches = batches_of(plan)
    shuffled = sorted(range(len(batches)), key=lambda i: digest([plan.digest, seed, i]))
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
    progress: Progress = silent,
) -> Replay:
    """Draws a sample of an audit again and compares the pixels.

    Args:
        plan: The plan that was audited.
        audit: What was found.
        base: The checkpoint that the plan starts from.
        patched: The model that was audited.
        share: Share of the probes to draw, in (0, 1]; see `sample_of`.
        seed: Which sample.
        progress: Told after each batch.
    """
    stated = {(o.side, o.probe): o.image_digest for o in audit.observations}
    sides: tuple[tuple[Side, StableDiffusionPipeline], ...] = (("base", base), ("patched", patched))
    batches = [(side, model, probes) for side, model in sides for probes in sample_of(plan, share, seed)]
    planned = sum(len(probes) for _, _, probes in batches)
    differing: list[Redrawn] = []
    drawn = 0
    with drawing_pool(plan.sampler.threads, base.device.type) as pool:
        given = [pool.submit(_digests, plan, model, probes) for _, model, probes in batches]
        for (side, _, probes), digests in zip(batches, given, strict=True):
            pairs = zip(probes, digests.result(), strict=True)
            differing += [
                Redrawn(probe=p.id, side=side) for p, found in pairs if stated.get((side, p.id), _ABSENT) != found
            ]
            drawn += len(probes)
            progress("drawing again", drawn, planned)
    return Replay(drawn=drawn, planned=len(audit.observations), differing=tuple(differing))


def _digests(plan: Plan, model: StableDiffusionPipeline, probes: tuple[Probe, ...]) -> list[Digest | None]:
    return draw_batch(plan, model, probes)[1]  # the pixels are not held until all is drawn
