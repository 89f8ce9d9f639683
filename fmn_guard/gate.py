"""The last step of a release pipeline: is this run of one piece, and what does it say.

run folder --check_run--> Report --exit_code--> 0 pass, 3 fail, 4 inconclusive
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from .errors import BrokenChain
from .evidence import Audit, PassRecords
from .plan import Plan
from .record import Digest, digest, file_digest, read_record
from .report import Outcome, Report, verdict_of


def exit_code(verdict: Outcome) -> int:
    """What the command line exits with."""
    match verdict:
        case "pass":
            return 0
        case "fail":
            return 3
        case "inconclusive":
            return 4
        case _:
            assert_never(verdict)


def check_run(run: Path) -> Report:
    """Checks that the files of a run were made from each other. Judges nothing anew: the policy is not in the folder.

    Args:
        run: The run folder: plan.json, audit.json, report.json; passes.json and patch.safetensors where fmn-guard made
            the patch.

    Raises:
        BrokenChain: the first file, in the order in which they are made, that does not match what it was made from.
        InputError: a file is missing or unreadable.
    """
    plan = read_record(run / "plan.json", Plan)
    passes = read_record(run / "passes.json", PassRecords) if (run / "passes.json").exists() else None
    audit = read_record(run / "audit.json", Audit)
    report = read_record(run / "report.json", Report)
    plan_digest = plan.digest
    if passes:
        _same(run / "passes.json", "plan", passes.plan_digest, plan_digest)
        _same(run / "passes.json", "base", passes.base_digest, plan.base.identity)
        patch = run / "patch.safetensors"
        _same(patch, "patch", file_digest(patch) if patch.exists() else None, passes.patch_digest)
    passes_digest = digest(passes) if passes else None
    _same(run / "audit.json", "plan", audit.plan_digest, plan_digest)
    _same(run / "audit.json", "passes", audit.passes_digest, passes_digest)
    _same(run / "report.json", "plan", report.plan_digest, plan_digest)
    _same(run / "report.json", "passes", report.passes_digest, passes_digest)
    _same(run / "report.json", "audit", report.audit_digest, digest(audit))
    _same(run / "report.json", "base", report.base_digest, plan.base.identity)
    _same(run / "report.json", "patched model", report.patched_digest, audit.patched_digest)
    if report.verdict != verdict_of(report.findings):
        raise BrokenChain(
            f"{run / 'report.json'}: the verdict is {report.verdict}, its findings give {verdict_of(report.findings)}",
            hint="write the report again with `fmn-guard report`; if it was edited by hand, ask why",
        )
    return report


def _same(file: Path, what: str, stated: Digest | None, found: Digest | None) -> None:
    if stated != found:
        raise BrokenChain(
            f"{file}: digest of the {what} is {stated or 'missing'}, expected {found or 'none'}",
            hint="this file and what it was made from are not of one run: restore it, or make it again",
        )
