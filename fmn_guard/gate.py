"""The last step of a release pipeline: is this run of one piece, and what does it say.

run folder --check_run--> Report --exit_code--> 0 pass, 3 fail, 4 inconclusive
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from .errors import BrokenChain, InputError
from .evidence import Audit, PassRecords
from .plan import Plan
from .policy import ReleasePolicy
from .record import Digest, digest, file_digest, read_record
from .render import render
from .report import Outcome, Report, judge
from .suite import AuditSuite


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


def check_suite(plan: Plan, policy: ReleasePolicy, suite: AuditSuite) -> None:
    """Checks that a plan was made for the suite of a policy, which may then judge its audit.

    Raises:
        InputError: it was made for another suite.
    """
    if digest(suite) != plan.suite_digest:
        raise InputError(
            f"policy {policy.metadata.name} asks suite {suite.metadata.name} ({digest(suite)[:19]}), "
            f"this run is of suite {plan.suite} ({plan.suite_digest[:19]})",
            hint="measure again under that policy, with `fmn-guard apply` or `fmn-guard audit`",
        )


def check_run(run: Path, demanded: tuple[ReleasePolicy, AuditSuite] | None = None) -> Report:
    """Checks that the files of a run were made from each other, and that its audit is judged anew as it was.

    Args:
        run: The run folder: plan.json, audit.json, policy.json, report.json, report.md; passes.json and
            patch.safetensors where fmn-guard made the patch.
        demanded: The policy that must have judged, and its suite.

    Raises:
        BrokenChain: the first file, in the order in which they are made, that does not match what it was made from; or
            another policy judged than the one demanded.
        InputError: a file is missing or unreadable, or the policy demanded is over another suite.
    """
    plan = read_record(run / "plan.json", Plan)
    passes = read_record(run / "passes.json", PassRecords) if (run / "passes.json").exists() else None
    audit = read_record(run / "audit.json", Audit)
    policy = read_record(run / "policy.json", ReleasePolicy)
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
    _same(run / "report.json", "policy", report.policy_digest, digest(policy))
    judged = judge(plan, audit, policy, passes, judged_on=report.judged_on, tool_version=report.tool_version)
    again = judged.model_dump()
    if differing := [name for name, value in report.model_dump().items() if value != again[name]]:
        raise BrokenChain(
            f"{run / 'report.json'}: {', '.join(differing)} are not what audit.json and policy.json give",
            hint="write it again with `fmn-guard report --policy`; if it was edited by hand, ask why",
        )
    page = run / "report.md"
    if not page.exists() or page.read_bytes() != render(page, report, plan, audit, passes).encode():
        raise BrokenChain(
            f"{page} is missing, or does not say what report.json says",
            hint="write it again with `fmn-guard report --policy`; if it was edited by hand, ask why",
        )
    if demanded is not None:
        _judged_by(run / "report.json", report, plan, *demanded)
    return report


def _judged_by(file: Path, report: Report, plan: Plan, policy: ReleasePolicy, suite: AuditSuite) -> None:
    check_suite(plan, policy, suite)
    if report.policy_digest != digest(policy):
        raise BrokenChain(
            f"{file} was judged by policy {report.policy} ({report.policy_digest[:19]}), "
            f"not by {policy.metadata.name} ({digest(policy)[:19]})",
            hint="judge it by that policy, with `fmn-guard report --policy`",
        )


def _same(file: Path, what: str, stated: Digest | None, found: Digest | None) -> None:
    if stated != found:
        raise BrokenChain(
            f"{file}: digest of the {what} is {stated or 'missing'}, expected {found or 'none'}",
            hint="this file and what it was made from are not of one run: restore it, or make it again",
        )
