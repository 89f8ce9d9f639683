"""``fmn-guard attack``: can what was forgotten by name be had all the same?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ..attacks.measured import FILE, Attacks, read_attacks
from ..attacks.protocol import Protocol, estimate, plan_attacks
from ..attacks.suite import load_attacks
from ..errors import InputError
from ..evidence import Audit
from ..facts import Checkpoint, describe_checkpoint
from ..lint import lint_manifest, lint_policy
from ..manifest import CheckpointRef
from ..plan import compile_plan
from ..policy import ReleasePolicy
from ..record import read_record
from ..shipped import attacks as shipped
from ..shipped import find, policies
from .audited import Audited, audited_beside, audited_run, tell
from .console import emit, emit_json, keep_quiet, shown, talk
from .device import device_option
from .models import audited_model
from .progress import reporting
from .run import default_folder, open_folder

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

_USUAL = "standard"


@click.command()
@click.argument("run_or_checkpoint", metavar="RUN|CHECKPOINT")
@click.option("--manifest", type=click.Path(path_type=Path), help="What was to be forgotten, with CHECKPOINT.")
@click.option("--base", help="Base of CHECKPOINT, in place of the manifest's; of RUN, where it is now.")
@click.option("--policy", default="default", show_default=True, help="Whose suite's sentences are asked of CHECKPOINT.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder, with CHECKPOINT.")
@click.option("--checkpoint", help="The audited checkpoint, of a run of `fmn-guard audit`.")
@click.option(
    "--attacks",
    "named",
    help=f"Name or file of the attack suite; by default the one that the run's policy asks for, or {_USUAL}.",
)
@device_option
@click.option("--dry-run", is_flag=True, help="Tell the budget, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print attacks.json, or the budget.")
@click.option("--quiet", is_flag=True, help="No talk and no progress.")
def attack(
    run_or_checkpoint: str,
    manifest: Path | None,
    base: str | None,
    policy: str,
    out: Path | None,
    checkpoint: str | None,
    named: str | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Attack the concepts of a finished run, or of a CHECKPOINT beside its base.

    Other seeds and guidance, descriptions that name nothing, words searched for before the prompt: how often each shows
    the concept on the base, on the patched model without it, and under it. The run is judged again, for its policy may
    limit it; `fmn-guard gate` exits by the verdict. Interrupted, the same command goes on.
    """
    say = keep_quiet if quiet else talk
    suspect = None
    if manifest is None:
        if out is not None:
            raise InputError("--out goes with CHECKPOINT and --manifest", hint="a run's attacks go into its folder")
        audited = audited_run(Path(run_or_checkpoint), base)
    else:
        if checkpoint is not None:
            raise InputError("--checkpoint goes with RUN", hint="the checkpoint is the argument already")
        suspect = describe_checkpoint(CheckpointRef(checkpoint=run_or_checkpoint), Path())
        document, original = lint_manifest(manifest, CheckpointRef(checkpoint=base) if base else None)
        plan = compile_plan(document, lint_policy(find(policy, policies(), Path()))[1], original)
        identity = suspect.facts.identity
        audited = audited_beside(out or default_folder(plan, identity), plan, original, identity)
    suite = load_attacks(find(named or _asked_for(audited.run), shipped(), Path()))
    protocol = plan_attacks(audited.plan, suite, audited.original)
    say(f"attack suite {protocol.suite}, {protocol.suite_digest}")
    cost = estimate(protocol, audited.plan)
    if dry_run:
        emit_json(cost) if as_json else click.echo(cost.words)
        return
    found = _known(audited, protocol)
    if found is None:
        say(cost.words)
        found = _attack(audited, protocol, suspect, checkpoint, device, quiet)
    else:
        say(f"re-using {shown(audited.run / FILE)}")
    report = tell(audited, audited.run / FILE, say)
    if as_json:
        emit_json(found)
    else:
        from ..render.attacks import attacks_table, summary_of

        emit(attacks_table(summary_of(found, audited.plan, report)))


def _asked_for(run: Path) -> str:
    """The attack suite that a run's policy asks for."""
    if not (run / "policy.json").exists():
        return _USUAL
    asked = read_record(run / "policy.json", ReleasePolicy).spec.attacks
    return asked.suite if asked else _USUAL


def _known(audited: Audited, protocol: Protocol) -> Attacks | None:
    """What was found before, if it was of the same and nothing failed."""
    found = read_attacks(audited.run)
    same = found is not None and found.protocol == protocol and found.patched_digest == audited.patched_digest
    return found if found is not None and same and found.whole else None


def _attack(
    audited: Audited,
    protocol: Protocol,
    suspect: Checkpoint | None,
    checkpoint: str | None,
    device: str,
    quiet: bool,
) -> Attacks:
    from ..audit.attacks import run_attacks
    from ..model.checkpoint import load_pipeline

    original = load_pipeline(audited.original.folder, device)
    model: StableDiffusionPipeline
    if suspect is not None:
        model = load_pipeline(suspect.folder, device)
    else:
        audit = read_record(audited.run / "audit.json", Audit)
        model = audited_model(audited.run, audit, audited.original, checkpoint, (device, "float32"))
    open_folder(audited.run, audited.plan)
    began = time.monotonic()
    with reporting(quiet) as progress:
        found = run_attacks(
            protocol,
            audited.plan,
            original,
            model,
            patched_digest=audited.patched_digest,
            out=audited.run,
            progress=progress,
        )
    if not quiet:
        talk(f"attacked in {time.monotonic() - began:.0f} s")
    return found
