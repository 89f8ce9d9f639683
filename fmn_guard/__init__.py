"""fmn-guard: make a text-to-image checkpoint forget what it must not draw, and prove it.

The whole flow, one call a stage, each leaving one file::

    from pathlib import Path
    import fmn_guard as fg

    manifest, base = fg.lint_manifest(Path("manifests/quickstart.yaml"))     # what to forget
    policy = fg.load_policy(Path("policies/default.yaml"))                   # how well
    suite = fg.load_suite(Path("audits/suites/standard"))                    # how it is measured
    plan = fg.compile_plan(manifest, suite, base)                            # plan.json
    passes = fg.run_plan(plan, base, out)                                    # passes.json, patch.safetensors
    patched = fg.load_pipeline(base.folder)
    fg.apply_patch(patched, out / "patch.safetensors", base.facts.identity)
    found = fg.run_audit(plan, fg.load_pipeline(base.folder), patched, ...)      # audit.json
    report = fg.judge(plan, found, policy, passes)                           # report.json

Everything up to the plan, and everything after the audit, needs no torch. ``fmn-guard apply`` is all
of it on the command line.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("fmn-guard")
except PackageNotFoundError:  # run from a folder that was never installed
    __version__ = "0+unknown"

if TYPE_CHECKING:
    from .audit.auditor import run_audit
    from .errors import FmnGuardError
    from .evidence import Audit, PassRecords
    from .facts import Checkpoint, describe_checkpoint
    from .forget.patch import apply_patch
    from .forget.runner import run_plan
    from .gate import check_run, verify_run
    from .lint import lint_manifest
    from .manifest import Manifest, load_manifest
    from .model.checkpoint import load_pipeline, save_checkpoint
    from .plan import Plan, compile_plan
    from .policy import ReleasePolicy, load_policy
    from .report import Report, judge
    from .suite import AuditSuite, load_suite

_HOME = {
    "Audit": "evidence",
    "AuditSuite": "suite",
    "Checkpoint": "facts",
    "FmnGuardError": "errors",
    "Manifest": "manifest",
    "PassRecords": "evidence",
    "Plan": "plan",
    "ReleasePolicy": "policy.rules",
    "Report": "report",
    "apply_patch": "forget.patch",
    "check_run": "gate",
    "compile_plan": "plan",
    "describe_checkpoint": "facts",
    "judge": "report",
    "lint_manifest": "lint",
    "load_manifest": "manifest",
    "load_pipeline": "model.checkpoint",
    "load_policy": "policy.inheritance",
    "load_suite": "suite",
    "run_audit": "audit.auditor",
    "run_plan": "forget.runner",
    "save_checkpoint": "model.checkpoint",
    "verify_run": "gate",
}

__all__ = [
    "Audit",
    "AuditSuite",
    "Checkpoint",
    "FmnGuardError",
    "Manifest",
    "PassRecords",
    "Plan",
    "ReleasePolicy",
    "Report",
    "apply_patch",
    "check_run",
    "compile_plan",
    "describe_checkpoint",
    "judge",
    "lint_manifest",
    "load_manifest",
    "load_pipeline",
    "load_policy",
    "load_suite",
    "run_audit",
    "run_plan",
    "save_checkpoint",
    "verify_run",
]


def __getattr__(name: str) -> Any:
    # Names are fetched when first used, so that reading a manifest never imports torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
