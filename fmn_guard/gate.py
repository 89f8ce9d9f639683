"""The last step of a release pipeline: is this run of one piece, and what does it say.

run folder --check_run--> Report --exit_code--> 0 pass, 3 fail, 4 inconclusive
run folder --gate_run--> Gated         the same, after every file that is there was checked, and the signature by a key
run folder --verify_run--> Verified    the same, and nothing is left unchecked
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, assert_never

from .attacks.measured import read_attacks
from .chain import PICTURES, SIGNATURE, absent_pictures, check_files, cleaned_files
from .errors import BrokenChain, InputError
from .evidence import Audit, PassRecords
from .findings import Outcome
from .index import check_index
from .mscore import read_mscore
from .plan import Plan
from .policy import ReleasePolicy
from .record import Digest, Record, digest, file_digest, read_record
from .render import render
from .report import Report, judge
from .review import read_review
from .signing import check_signature
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
            patch.safetensors where fmn-guard made the patch; mscore.json where inversion was tried; attacks.json where
            it was attacked; review.json where people reviewed it.
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
    judged = judge(
        plan,
        audit,
        policy,
        passes,
        mscore=read_mscore(run),
        attacks=read_attacks(run),
        review=read_review(run),
        judged_on=report.judged_on,
        tool_version=report.tool_version,
    )
    stated, again = report.model_dump(), judged.model_dump()
    if differing := [name for name in stated | again if stated.get(name) != again.get(name)]:
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


class Gated(NamedTuple):
    """What `gate_run` found in order."""

    report: Report
    """The report, recomputed from what was observed."""
    unchecked: tuple[str, ...]
    """What was not checked and why, a sentence each."""


def gate_run(run: Path, keys: Sequence[Path] = (), demanded: tuple[ReleasePolicy, AuditSuite] | None = None) -> Gated:
    """Checks what a verdict is released by: all that `verify_run` checks of what is there.

    Pictures may be absent, since a run is kept without them in git, and a signature that no key was given for is left
    alone, since it would say nothing about who made it. Both are told.

    Args:
        run: The run folder, with its ``files.json``.
        keys: Files of public keys, of which one must have signed.
        demanded: As for `check_run`.

    Raises:
        BrokenChain: the first file that differs.
        InputError: a file is missing or unreadable.
    """
    files = check_files(run, without_pictures=True)
    report = check_run(run, demanded)
    if keys:
        check_signature(run, report, files, keys)
    check_index(run, report)
    unchecked = []
    pictures = [name for name in files.files if name.startswith(PICTURES)]
    if absent := absent_pictures(run, files):
        unchecked.append(f"Not checked: {len(absent)} of {len(pictures)} pictures, which are not here.")
    if cleaned := cleaned_files(run):
        unchecked.append(f"Not checked: {len(cleaned)} files that were cleaned; their digests are known.")
    if not keys and (run / SIGNATURE).exists():
        unchecked.append(f"Not checked: {SIGNATURE}, since no --key was given.")
    return Gated(report, tuple(unchecked))


class Verified(Record):
    """What `verify_run` found in order."""

    verdict: Outcome
    """The verdict, recomputed from what was observed."""
    report_digest: Digest
    """Digest of report.json as a record."""
    files: dict[str, Digest]
    """Digest of the bytes of each file of the run."""
    cleaned: tuple[str, ...]
    """Those that were removed on purpose: only their digests are known."""
    signed_by: str | None
    """Id of the key that signed; None where there is no signature."""
    key_checked: bool
    """Whether the signature was checked against a key that was given; without, anybody may have made it."""

    index_lines: int | None
    """Lines of the index beside the run, each of which follows from the one before; None where there is no index."""

    @property
    def signature_words(self) -> str:
        """The signature in words."""
        if self.signed_by is None:
            return "none"
        return f"of this run, by key {self.signed_by[:12]}{'' if self.key_checked else ', not checked against a key'}"


def verify_run(run: Path, keys: Sequence[Path] = (), *, require_signature: bool = False) -> Verified:
    """Checks every byte of a run folder, judges its audit anew, and checks its signature and the index beside it.

    Args:
        run: The run folder, with its ``files.json``.
        keys: Files of public keys, of which one must have signed; without any, anybody may have signed this run.
        require_signature: Whether somebody must have signed, though no key tells who; a key implies it.

    Raises:
        BrokenChain: the first file that differs.
        InputError: a file is missing or unreadable.
    """
    files = check_files(run)
    report = check_run(run)
    signature = check_signature(run, report, files, keys, required=require_signature)
    lines = check_index(run, report)
    return Verified(
        verdict=report.verdict,
        report_digest=digest(report),
        files=files.files,
        cleaned=cleaned_files(run),
        signed_by=signature.keyid if signature else None,
        key_checked=bool(keys),
        index_lines=lines,
    )


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
