"""The run folder: one file per stage. What a finished stage left is re-used if it was made from the same things."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from ..attacks.measured import read_attacks
from ..chain import FILES, SIGNATURE, Files, leftovers, read_files, remove, write_files
from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..gate import exit_code
from ..index import INDEX, append_line
from ..mscore import read_mscore
from ..plan import Plan
from ..policy import ReleasePolicy
from ..record import digest, file_digest, read_record, write_atomic, write_record
from ..report import Report, judge
from ..review import read_review
from .console import Talk, emit, emit_json, shown
from .output import Outputs
from .today import today

AUDITS = Path("audits")
"""Where runs go unless told otherwise; what is concluded there is kept in its index."""


def default_folder(plan: Plan, *parts: str) -> Path:
    """``audits/<name>-<digest>``, with eight digits of the plan's digest and of each further one."""
    digests = (part.removeprefix("sha256:")[:8] for part in (plan.digest, *parts))
    return AUDITS.joinpath("-".join([plan.name, *digests]))


def check_folder(run: Path, plan: Plan) -> None:
    """Refuses a folder that holds another plan's run.

    Raises:
        InputError: ``plan.json`` is of another digest.
    """
    held = run / "plan.json"
    if held.exists() and (other := read_record(held, Plan).digest) != plan.digest:
        raise InputError(
            f"{shown(run)} holds the run of plan {other[:19]}, this one is {plan.digest[:19]}",
            hint="give another --out, or leave it out: runs are then named after their plan",
        )


def open_folder(run: Path, plan: Plan) -> None:
    """Checks a run folder and writes its ``plan.json``.

    Raises:
        InputError: it holds another plan's run.
    """
    check_folder(run, plan)
    if not (run / "plan.json").exists():
        run.mkdir(parents=True, exist_ok=True)
        write_record(run / "plan.json", plan)


def finished_passes(run: Path, plan: Plan) -> PassRecords | None:
    """What the eraser left, if it followed this plan and its patch is the one it wrote."""
    patch = run / "patch.safetensors"
    if not ((run / "passes.json").exists() and patch.exists()):
        return None
    passes = read_record(run / "passes.json", PassRecords)
    return passes if passes.plan_digest == plan.digest and passes.patch_digest == file_digest(patch) else None


def finished_audit(
    run: Path, plan: Plan, *, passes: PassRecords | None = None, patched_digest: str | None = None
) -> Audit | None:
    """What the auditor left, if it measured this plan on the model that these passes made or that has this digest."""
    if not (run / "audit.json").exists():
        return None
    audit = read_record(run / "audit.json", Audit)
    same = (
        audit.plan_digest == plan.digest
        and audit.passes_digest == (digest(passes) if passes else None)
        and patched_digest in (None, audit.patched_digest)
    )
    return audit if same else None


def reports(run: Path) -> list[Path]:
    """What judging writes into a run folder."""
    return [run / name for name in ("policy.json", "report.json", "report.md")]


def unlist(run: Path) -> None:
    """Removes the list of files of a run of which a stage is about to be made anew."""
    (run / FILES).unlink(missing_ok=True)


def lacks_instrument(audit: Audit) -> bool:
    """Whether a recogniser or detector did not load: such an audit is not re-used, since by now it may be there."""
    return any(instrument.error for instrument in audit.instruments)


def write_report(
    run: Path, policy: ReleasePolicy, report: Report, plan: Plan, audit: Audit, passes: PassRecords | None, say: Talk
) -> None:
    """Writes the three `reports`, which must not tell of different verdicts."""
    from ..render import render

    write_record(run / "policy.json", policy)
    write_record(run / "report.json", report)
    write_atomic(run / "report.md", render(run / "report.md", report, plan, audit, passes))
    say(f"wrote {shown(run / 'report.json')} with its policy.json and report.md")


def list_files(run: Path, listed: Files | None, written: Iterable[Path], say: Talk) -> None:
    """Writes ``files.json``, last of all: digests of what was just written, and of everything if there was none.

    What killed commands left is removed: all that could go on from it is done.
    """
    remove(run, leftovers(run))
    if write_files(run, listed, written) and (run / SIGNATURE).exists():
        say(f"warning: {shown(run / SIGNATURE)} signs what was there before: sign again with `fmn-guard sign`")


def index(run: Path, report: Report, say: Talk) -> None:
    """Adds a conclusion to the index of the folder that the run is in, if that is `AUDITS` or has one already."""
    parent = run.resolve().parent
    if (parent == AUDITS.resolve() or (parent / INDEX).exists()) and append_line(run, report):
        say(f"added a line to {shown(parent / INDEX)}")


def conclude(
    run: Path,
    policy: ReleasePolicy,
    plan: Plan,
    audit: Audit,
    passes: PassRecords | None,
    outputs: Outputs,
    say: Talk,
) -> None:
    """Judges an audit as of today, writes the report and what else is asked for, prints the verdict, exits by it."""
    from ..render.terminal import verdict_table

    report = judge(
        plan,
        audit,
        policy,
        passes,
        mscore=read_mscore(run),
        attacks=read_attacks(run),
        review=read_review(run),
        judged_on=today(),
    )
    rendered = outputs.rendered(report, plan, audit, passes)
    listed = read_files(run)
    write_report(run, policy, report, plan, audit, passes, say)
    rendered.write(say)
    list_files(run, listed, [*reports(run), *rendered.paths], say)
    index(run, report, say)
    if outputs.as_json:
        emit_json(report)
    elif not outputs.to_stdout:
        emit(verdict_table(report, outputs.frameworks))
    click.get_current_context().exit(exit_code(report.verdict))
