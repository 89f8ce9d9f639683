"""A concluded run, written by hand: of one piece, and passing until a test spoils it."""

from __future__ import annotations

import json
from pathlib import Path

from fmn_guard.plan import Plan
from fmn_guard.record import digest, file_digest, write_record
from fmn_guard.render import render
from fmn_guard.report import judge

from .builder import make_audit, make_passes, make_plan, make_policy

PLAN, POLICY = make_plan(), make_policy()


def write_run(folder: Path, with_passes: bool = True, plan: Plan = PLAN) -> Path:
    """A finished run that passes."""
    passes = None
    if with_passes:
        (folder / "patch.safetensors").write_bytes(b"patch")
        passes = make_passes(plan, file_digest(folder / "patch.safetensors"))
        write_record(folder / "passes.json", passes)
    audit = make_audit(plan, passes_digest=digest(passes) if passes else None)
    write_record(folder / "plan.json", plan)
    write_record(folder / "audit.json", audit)
    report = judge(plan, audit, POLICY, passes)
    write_record(folder / "policy.json", POLICY)
    write_record(folder / "report.json", report)
    (folder / "report.md").write_text(render(folder / "report.md", report, plan, audit, passes), encoding="utf-8")
    return folder


def edit(file: Path, key: str, value: object) -> None:
    """Changes one field of a record behind the chain's back."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(plain | {key: value}), encoding="utf-8")
