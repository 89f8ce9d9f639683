"""What `mscore` and `attack` measure: a model beside its base, and the run it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..attacks.measured import read_attacks
from ..chain import read_files
from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..facts import Checkpoint
from ..gate import check_run
from ..mscore import read_mscore
from ..plan import Plan
from ..policy import ReleasePolicy
from ..record import Digest, read_record
from ..report import Report, judge
from ..review import read_review
from .console import Talk, shown
from .models import described
from .run import check_folder, index, list_files, reports, write_report


class Audited(NamedTuple):
    """What is measured."""

    run: Path
    plan: Plan
    original: Checkpoint
    patched_digest: Digest
    report: Report | None
    """The run's report, which gets a section; None where nothing was judged yet."""


def audited_run(run: Path, base: str | None) -> Audited:
    """A finished run.

    Args:
        run: its folder.
        base: where the base is now, if not where the manifest said.

    Raises:
        BrokenChain: the run is not of one piece.
        RefusedArtefact: the base is another one.
    """
    report = check_run(run)
    plan, audit = read_record(run / "plan.json", Plan), read_record(run / "audit.json", Audit)
    original = described(base or plan.base.reference, plan.base.identity, "--base")
    return Audited(run, plan, original, audit.patched_digest, report)


def audited_beside(run: Path, plan: Plan, original: Checkpoint, identity: Digest) -> Audited:
    """A model that may have been audited in a folder already.

    Args:
        run: the folder.
        plan: what is asked of it.
        original: its base.
        identity: of the model.

    Raises:
        InputError: the folder is of another plan or model.
    """
    check_folder(run, plan)
    if not (run / "audit.json").exists():
        return Audited(run, plan, original, identity, None)
    if read_record(run / "audit.json", Audit).patched_digest != identity:
        raise InputError(f"{shown(run)} holds the run of another checkpoint", hint="give another --out")
    return Audited(run, plan, original, identity, check_run(run) if (run / "report.json").exists() else None)


def tell(audited: Audited, measured: Path, say: Talk) -> Report | None:
    """Judges a run again by its own policy, as of the day on which it was, with what was just measured beside it.

    Args:
        audited: what was measured.
        measured: the file that tells it.
        say: where talk goes.

    Returns:
        The report; None where nothing was judged yet.
    """
    run, before = audited.run, audited.report
    if before is None:
        say(f"wrote {shown(measured)}")
        return None
    audit, rules = read_record(run / "audit.json", Audit), read_record(run / "policy.json", ReleasePolicy)
    passes = read_record(run / "passes.json", PassRecords) if audit.passes_digest is not None else None
    report = judge(
        audited.plan,
        audit,
        rules,
        passes,
        mscore=read_mscore(run),
        attacks=read_attacks(run),
        review=read_review(run),
        judged_on=before.judged_on,
    )
    if report != before:
        listed = read_files(run)
        write_report(run, rules, report, audited.plan, audit, passes, say)
        list_files(run, listed, [measured, *reports(run)], say)
        index(run, report, say)
    return report
