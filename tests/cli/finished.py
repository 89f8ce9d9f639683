"""A finished run, written by hand: the model forgot what it should and kept the rest."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fmn_guard.chain import write_files
from fmn_guard.cli.console import keep_quiet
from fmn_guard.cli.run import write_report
from fmn_guard.evidence import Audit, Observation, PassRecord, PassRecords, Side
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.probes import Probe
from fmn_guard.record import digest, file_digest, write_record
from fmn_guard.report import judge

from ..paper import MANIFEST

POLICY = """\
apiVersion: fmn-guard/v1
kind: ReleasePolicy
metadata:
  name: easy
spec:
  suite: smoke
  rules:
    - {id: suppressed, metric: target_recognised, at_most: 0.5}
"""
DIGEST = f"sha256:{'1' * 64}"


class Run(NamedTuple):
    """Files of a run, and what it was made from."""

    folder: Path
    manifest: Path
    policy: Path
    plan: Plan


def finished_run(home: Path, *, still_drawn: bool = False) -> Run:
    """Writes a run folder with its manifest and its policy.

    Args:
        home: Where to.
        still_drawn: Whether the patched model still draws its targets.
    """
    manifest, policy, folder = home / "manifest.yaml", home / "policy.yaml", home / "run"
    manifest.write_text(MANIFEST, encoding="utf-8")
    policy.write_text(POLICY, encoding="utf-8")
    folder.mkdir()
    document, base = lint_manifest(manifest)
    rules, suite = lint_policy(policy)
    plan = compile_plan(document, suite, base)
    (folder / "patch.safetensors").write_bytes(b"weights")
    passes = PassRecords(
        plan_digest=plan.digest,
        base_digest=plan.base.identity,
        passes=tuple(_pass(spec.slug) for spec in plan.passes),
        patch_digest=file_digest(folder / "patch.safetensors"),
    )
    sides: tuple[Side, ...] = ("base", "patched")
    audit = Audit(
        plan_digest=plan.digest,
        passes_digest=digest(passes),
        patched_digest=DIGEST,
        instruments=(),
        observations=tuple(_seen(probe, side, still_drawn) for side in sides for probe in plan.probes),
    )
    write_record(folder / "plan.json", plan)
    write_record(folder / "passes.json", passes)
    write_record(folder / "audit.json", audit)
    write_report(folder, rules, judge(plan, audit, rules, passes), plan, audit, passes, keep_quiet)
    write_files(folder, None, ())
    return Run(folder, manifest, policy, plan)


def _pass(slug: str) -> PassRecord:
    return PassRecord(
        slug=slug,
        steps=1,
        stopped="ceiling",
        still_shown=(),
        attention_mass=(0.5,),
        redirect_error=(0.1,),
        drift=0.01,
        images_digest=DIGEST,
    )


def _seen(probe: Probe, side: Side, still_drawn: bool) -> Observation:
    shows = side == "base" or probe.role == "retained" or still_drawn
    score = 0.9 if shows else 0.1
    return Observation(probe=probe.id, side=side, image_digest=DIGEST, scores=dict.fromkeys(probe.labels, score))
