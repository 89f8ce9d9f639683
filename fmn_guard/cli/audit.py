"""``fmn-guard audit``: measure and judge a checkpoint that fmn-guard may not have made."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..assembly import Shard
from ..errors import InputError
from ..facts import describe_checkpoint
from ..lint import lint_manifest, lint_policy
from ..manifest import CheckpointRef
from ..plan import compile_plan
from ..shipped import find, policies
from .beside import measured_beside
from .console import emit_json, keep_quiet, shown, talk
from .device import Precision, device_option, dtype_option
from .output import Outputs, output_options, read_frameworks
from .pictures import Embed
from .plan import warn_of_limits
from .run import check_folder, conclude, default_folder, finished_audit, lacks_instrument, open_folder, unlist
from .spread import spread_options


@click.command()
@click.argument("checkpoint")
@click.option("--manifest", required=True, type=click.Path(path_type=Path), help="What it must not draw.")
@click.option("--base", help="Checkpoint to compare with, in place of the manifest's.")
@click.option("--policy", default="default", show_default=True, help="Name or file of the policy that judges.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; named after plan and checkpoint by default.")
@device_option
@dtype_option
@click.option("--measure-only", is_flag=True, help="Stop at audit.json, without a verdict.")
@spread_options
@click.option("--no-images", is_flag=True, help="Do not keep the pictures that were judged.")
@output_options
@click.option("--json", "as_json", is_flag=True, help="Print the report, or the audit, as one JSON document.")
@click.option("--quiet", is_flag=True, help="No talk and no progress.")
def audit(
    checkpoint: str,
    manifest: Path,
    base: str | None,
    policy: str,
    out: Path | None,
    device: str,
    precision: Precision,
    measure_only: bool,
    store: Path | None,
    shard: Shard | None,
    executor: str,
    address: str | None,
    no_images: bool,
    outputs: tuple[Path, ...],
    github: bool,
    embed_samples: Embed,
    frameworks: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Audit a diffusers folder against a manifest, and exit by the verdict.

    The checkpoint may come from anywhere: no passes are asked for, only its pictures count. Killed at any moment, the
    same command goes on after the last finished batch.
    """
    say = keep_quiet if quiet else talk
    document, original = lint_manifest(manifest, CheckpointRef(checkpoint=base) if base else None)
    rules, suite = lint_policy(find(policy, policies(), Path()))
    plan = compile_plan(document, suite, original)
    suspect = describe_checkpoint(CheckpointRef(checkpoint=checkpoint), Path())
    run = out or default_folder(plan, suspect.facts.identity)
    asked = Outputs(outputs, github, embed_samples, run, read_frameworks(frameworks), as_json)
    if (measure_only or shard) and (outputs or github or frameworks):
        raise InputError(
            f"{'--shard' if shard else '--measure-only'} gives no verdict to write",
            hint="leave out -o, --github and --framework, or judge",
        )
    check_folder(run, plan)
    measured = finished_audit(run, plan, patched_digest=suspect.facts.identity)
    if measured is None and any((run / name).exists() for name in ("passes.json", "audit.json")):
        raise InputError(f"{shown(run)} holds the run of another checkpoint", hint="give another --out")
    warn_of_limits(plan, rules, say)
    if measured is not None and lacks_instrument(measured):
        measured = None
    if measured is None:
        from ..model.fit import refuse_misfits
        from ..model.placement import available_device

        if executor == "inline" or device == "auto":  # workers have devices of their own, but all of one sort
            device = str(available_device(device))
        for each in (original, suspect):  # while nothing is written yet
            refuse_misfits(each.folder)
    open_folder(run, plan)
    say(f"run folder: {shown(run)}")
    if measured is not None:
        say(f"re-using {shown(run / 'audit.json')}")
    else:
        unlist(run)
        measured = measured_beside(
            plan,
            original,
            suspect,
            run,
            quiet,
            device=device,
            precision=precision,
            keep_images=not no_images,
            kept_store=store,
            shard=shard,
            on_ray=executor == "ray",
            address=address,
        )
    if measured is None:
        say(f"shard {shard} is drawn; `fmn-guard audit-merge` puts all of them together")
        return
    if not measure_only:
        conclude(run, rules, plan, measured, None, asked, say)
    elif as_json:
        emit_json(measured)
    else:
        click.echo(shown(run / "audit.json"))
