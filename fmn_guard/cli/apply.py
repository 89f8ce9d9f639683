"""``fmn-guard apply``: the whole flow, from a manifest to a verdict."""

from __future__ import annotations

import time
from pathlib import Path

import rich_click as click

from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..facts import Checkpoint
from ..lint import lint_manifest, lint_policy
from ..plan import Plan, compile_plan
from ..progress import Progress
from ..record import digest
from ..shipped import find, policies
from .console import Talk, keep_quiet, shown, talk
from .device import Precision, Where, device_option, dtype_option
from .output import Outputs, output_options, read_frameworks
from .pictures import Embed
from .plan import show_plan, warn_of_limits
from .progress import reporting
from .run import (
    check_folder,
    conclude,
    default_folder,
    finished_audit,
    finished_passes,
    lacks_instrument,
    open_folder,
    unlist,
)


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--policy", default="default", show_default=True, help="Name or file of the policy that judges.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; audits/<name>-<plan digest> by default.")
@click.option("--save-checkpoint", type=click.Path(path_type=Path), help="Save the patched model as a new folder.")
@device_option
@dtype_option
@click.option("--no-images", is_flag=True, help="Do not keep the pictures that were judged.")
@output_options
@click.option("--dry-run", is_flag=True, help="Show the plan, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.option("--quiet", is_flag=True, help="No talk and no progress.")
def apply(
    manifest: Path,
    policy: str,
    out: Path | None,
    save_checkpoint: Path | None,
    device: str,
    precision: Precision,
    no_images: bool,
    outputs: tuple[Path, ...],
    github: bool,
    embed_samples: Embed,
    frameworks: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Forget what a manifest lists, audit the result, and exit by the verdict.

    Interrupted, the same command goes on where it stopped; into a finished run, it re-uses what is there.
    """
    say = keep_quiet if quiet else talk
    where = device, precision
    document, checkpoint = lint_manifest(manifest)
    rules, suite = lint_policy(find(policy, policies(), Path()))
    plan = compile_plan(document, suite, checkpoint)
    run = out or default_folder(plan)
    asked = Outputs(outputs, github, embed_samples, run, read_frameworks(frameworks), as_json)
    if save_checkpoint is not None and save_checkpoint.exists() and any(save_checkpoint.iterdir()):
        raise InputError(f"{shown(save_checkpoint)} is not empty", hint="give a new folder; nothing is overwritten")
    if dry_run:
        check_folder(run, plan)
        show_plan(plan, rules, as_json)
        say(f"would write into {shown(run)}")
        return
    warn_of_limits(plan, rules, say)
    if finished_passes(run, plan) is None:
        from ..model.fit import refuse_misfits
        from ..model.placement import available_device

        available_device(device)  # while nothing is written yet
        refuse_misfits(checkpoint.folder)
    open_folder(run, plan)
    say(f"run folder: {shown(run)}")
    with reporting(quiet) as progress:
        started = time.monotonic()
        passes = _forget(plan, checkpoint, run, where, say, progress)
        forgotten = time.monotonic()
        audit = _audit(plan, checkpoint, run, passes, save_checkpoint, where, not no_images, say, progress)
    say(f"forgetting took {forgotten - started:.0f} s, auditing {time.monotonic() - forgotten:.0f} s")
    conclude(run, rules, plan, audit, passes, asked, say)


def _forget(plan: Plan, checkpoint: Checkpoint, run: Path, where: Where, say: Talk, progress: Progress) -> PassRecords:
    if (passes := finished_passes(run, plan)) is not None:
        say(f"re-using {shown(run / 'passes.json')} and its patch")
        return passes
    from ..forget.runner import run_plan

    unlist(run)
    device, precision = where
    return run_plan(plan, checkpoint, run, device=device, precision=precision, progress=progress)


def _audit(
    plan: Plan,
    checkpoint: Checkpoint,
    run: Path,
    passes: PassRecords,
    save_to: Path | None,
    where: Where,
    keep_images: bool,
    say: Talk,
    progress: Progress,
) -> Audit:
    audit = finished_audit(run, plan, passes=passes)
    if audit is not None and lacks_instrument(audit):
        audit = None
    if audit is not None:
        say(f"re-using {shown(run / 'audit.json')}")
        if save_to is None:
            return audit
    from ..audit.auditor import run_audit
    from ..forget.patch import apply_patch, patched_digest
    from ..forget.states import PassStates
    from ..model.checkpoint import load_pipeline, save_checkpoint

    # What is audited is what ships: the base and the patch, both read from disk again.
    patch, base_digest = run / "patch.safetensors", plan.base.identity
    patched = load_pipeline(checkpoint.folder, *where)
    apply_patch(patched, patch, base_digest)
    if audit is None:
        unlist(run)
        audit = run_audit(
            plan,
            load_pipeline(checkpoint.folder, *where),
            patched,
            patched_digest=patched_digest(patch, base_digest),
            passes_digest=digest(passes),
            out=run,
            states=PassStates(run, passes) if plan.between else None,
            keep_images=keep_images,
            progress=progress,
        )
    if save_to is not None:
        save_checkpoint(patched, save_to)
        say(f"saved {shown(save_to)}")
    return audit
