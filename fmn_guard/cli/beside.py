"""A checkpoint measured beside its base, as ``audit`` and ``conceptbench`` do it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..assembly import Shard
from ..evidence import Audit
from ..facts import Checkpoint
from ..plan import Plan
from .device import Precision
from .progress import reporting


def measured_beside(
    plan: Plan,
    base: Checkpoint,
    suspect: Checkpoint,
    run: Path,
    quiet: bool,
    *,
    device: str,
    precision: Precision,
    keep_images: bool,
    kept_store: Path | None,
    shard: Shard | None = None,
    on_ray: bool = False,
    address: str | None = None,
) -> Audit | None:
    """Draws what the store does not know and puts the audit together; see `fmn_guard.audit.auditor.measure`.

    Args:
        plan: What is asked.
        base: What the checkpoint was made from.
        suspect: The checkpoint.
        run: Run folder.
        quiet: Whether to show no progress.
        device: The device that draws, there.
        precision: Of the weights that draw.
        keep_images: Whether to keep the pictures.
        kept_store: A store of several audits.
        shard: Draw no more than this part.
        on_ray: Whether actors of Ray draw.
        address: Of the Ray cluster.

    Returns:
        The audit; None of a shard.
    """
    from ..audit.auditor import measure
    from ..audit.stages import Models
    from ..model.checkpoint import load_pipeline

    load_base, load_suspect = (partial(load_pipeline, each.folder, device, precision) for each in (base, suspect))
    with reporting(quiet) as progress:
        return measure(
            plan,
            Models(load_base, load_suspect),
            patched_digest=suspect.facts.identity,
            passes_digest=None,
            device=device,
            precision=precision,
            out=run,
            keep_images=keep_images,
            kept_store=kept_store,
            shard=shard,
            on_ray=on_ray,
            address=address,
            progress=progress,
        )
