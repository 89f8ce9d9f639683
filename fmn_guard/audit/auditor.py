"""Draws base and patched pictures from the same probes and seeds, and notes what is seen in each.

Fails closed: a picture that is constant or not a number, or that breaks the recogniser or a detector, is
recorded as unscored, with the reason; it is never dropped and never counted as safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ..assembly import (
    Batch,
    Shard,
    batches_of,
    finish,
    is_known,
    partial_store,
    partial_stores,
    probe_keys,
    remove_partial_stores,
)
from ..evidence import Audit
from ..model.conditioning import denoiser
from ..plan import Plan
from ..progress import Progress, silent
from ..record import Digest
from ..store import Head, Store, merged
from .distances import distances_of
from .executors import Executor, Job
from .executors.inline import Inline
from .executors.on_ray import OnRay
from .panel import Panel
from .stages import Models, States

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def run_audit(
    plan: Plan,
    base: StableDiffusionPipeline,
    patched: StableDiffusionPipeline,
    *,
    patched_digest: Digest,
    passes_digest: Digest | None,
    out: Path,
    states: States | None = None,
    keep_images: bool = True,
    progress: Progress = silent,
) -> Audit:
    """Measures every probe of a plan on both models, and some between passes, in this process.

    Killed at any moment, the same call goes on after the last finished batch. Batches are drawn side by side on
    as many cores as there are, to the same pictures.

    Args:
        plan: from `compile_plan`.
        base: the checkpoint the plan starts from.
        patched: the artefact that ships, reloaded from disk.
        patched_digest: its identity.
        passes_digest: digest of passes.json, None for a checkpoint fmn-guard did not make.
        out: run folder; receives ``audit.json`` and, when wanted, ``images/<side>/<probe>.png``; what is drawn between
            passes is on a side of its own, ``after-<passes>``.
        states: the model after each pass; without, nothing is looked at between passes.
        keep_images: whether to write the pictures.
        progress: told after each batch.
    """
    audit = measure(
        plan,
        Models(lambda: base, lambda: patched, states),
        patched_digest=patched_digest,
        passes_digest=passes_digest,
        device=base.device.type,
        precision=str(denoiser(base).dtype).removeprefix("torch."),
        out=out,
        keep_images=keep_images,
        progress=progress,
    )
    assert audit is not None  # it is of no shard
    return audit


def measure(
    plan: Plan,
    models: Models,
    *,
    patched_digest: Digest,
    passes_digest: Digest | None,
    device: str = "cpu",
    precision: str = "float32",
    out: Path,
    keep_images: bool = True,
    kept_store: Path | None = None,
    shard: Shard | None = None,
    on_ray: bool = False,
    address: str | None = None,
    progress: Progress = silent,
) -> Audit | None:
    """Measures a plan, or a shard of it: draws what the store does not know, and puts the audit together.

    Args:
        plan: From `compile_plan`.
        models: Who draws; none is loaded unless something has to be drawn.
        patched_digest: Identity of the patched model.
        passes_digest: Digest of passes.json; None for a checkpoint that fmn-guard did not make.
        device: The device that they draw on: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: That of their weights: ``float32``, ``bfloat16`` or ``float16``.
        out: Run folder; see `run_audit`.
        keep_images: Whether to write the pictures.
        kept_store: A store of several audits, which is kept; None uses one in ``out``. What earlier calls and shards
            left there is taken up in either case, and removed at the end.
        shard: Draw no more than this part, and put nothing together.
        on_ray: Whether actors of Ray draw and look, rather than this process.
        address: Of the Ray cluster; None starts one here.
        progress: Told after each batch.

    Returns:
        The audit; None of a shard.

    Raises:
        BrokenChain: a picture comes out otherwise than the store knows it.
        InputError: the store cannot be used.
    """
    panel = Panel(plan)
    head = Head(
        plan_digest=plan.digest,
        passes_digest=passes_digest,
        patched_digest=patched_digest,
        device=device.partition(":")[0],
        precision=precision,
        between=models.between and bool(plan.between),
        instruments=panel.instruments,
    )
    out.mkdir(parents=True, exist_ok=True)
    path = kept_store or partial_store(out, shard)
    shards = [] if shard else [each for each in partial_stores(out) if each != path]
    with merged(path, shards) as store:
        store.begin(head)
        store.add(panel.read(store.seen))
        batches: Sequence[Batch] = batches_of(plan, between=head.between)
        if shard is not None:
            batches = shard.share(batches)
        jobs = [
            _job(plan, head, store, batch)
            for batch in batches
            if not is_known(plan, head, store, batch, keep_images=keep_images)
        ]
        jobs = list({job.keys: job for job in jobs}.values())  # a checkpoint that is its own base is drawn once
        total = sum(len(batch.probes) for batch in batches)
        done = total - sum(len(job.keys) for job in jobs)
        executor: Executor = OnRay(head, address) if on_ray else Inline(panel)
        running = executor.run(plan, models, jobs, keep_images=keep_images)
        with closing(running):
            for results in running:
                store.add(results)
                done += len(results.drawings) + len(results.maps)
                progress("auditing", done, total)
        if shard is not None:
            return None
        audit = finish(plan, head, store, out, keep_images=keep_images, distances=distances_of)
    remove_partial_stores(out)
    return audit


def _job(plan: Plan, head: Head, store: Store, batch: Batch) -> Job:
    """What is missing of a batch: to be drawn whole, or looked at again if all of its pictures were kept."""
    keys = tuple(probe_keys(plan, head, batch))
    drawn = [store.drawing(key) for key in keys]
    if batch.purpose == "attention" or not all(drawn):
        return Job(batch, keys)
    pictures = [store.picture(each.picture) if each and each.picture else None for each in drawn]
    kept = all(png is not None or (each and each.picture is None) for png, each in zip(pictures, drawn, strict=True))
    return Job(batch, keys, tuple(pictures) if kept else None)
