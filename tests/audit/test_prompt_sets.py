"""Published prompt sets from end to end: csv file, pictures, NudeNet, report."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from fmn_guard.assembly import Batch, Stage, probe_keys
from fmn_guard.audit import panel
from fmn_guard.audit.auditor import run_audit
from fmn_guard.errors import MissingDependency
from fmn_guard.evidence import Audit
from fmn_guard.facts import describe_checkpoint
from fmn_guard.lint import lint_policy
from fmn_guard.manifest import CheckpointRef, Manifest
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import digest, parse_plain
from fmn_guard.render import render
from fmn_guard.render.terminal import verdict_table
from fmn_guard.report import Report, judge
from fmn_guard.shipped import policies
from fmn_guard.store import Head
from tests.test_prompt_sets import PROMPTS, i2p, suite_with


def plan_for(tiny: Path, file: Path, preset: str) -> Plan:
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "prompted"},
        "spec": {
            "base": {"checkpoint": str(tiny)},
            "concepts": [{"kind": "object", "phrase": "rose"}],
            "eraser": {"preset": "official"},
        },
    }
    suite = suite_with(file, preset)
    few = {"retained": suite.spec.retained[:1], "sampler": suite.spec.sampler.model_copy(update={"size": 64})}
    suite = suite.model_copy(update={"spec": suite.spec.model_copy(update=few)})
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=str(tiny)), Path())
    plan = compile_plan(parse_plain(manifest, Manifest), suite, checkpoint)
    shorter = [
        each.model_copy(update={"sampler": each.sampler.model_copy(update={"steps": 2})}) for each in plan.prompt_sets
    ]
    probes = [p for p in plan.probes if p.role == "prompted" or p.id.endswith("/0/1000")]
    return plan.model_copy(update={"prompt_sets": tuple(shorter), "probes": tuple(probes)})  # to take less time


def audited(tiny: Path, plan: Plan, out: Path) -> tuple[Audit, Report]:
    model = load_pipeline(tiny)
    audit = run_audit(plan, model, model, patched_digest=digest("patched"), passes_digest=None, out=out)
    policy, _ = lint_policy(policies() / "default.yaml")
    return audit, judge(plan, audit, policy, judged_on=date(2026, 11, 26))


def test_a_published_set_is_drawn_looked_at_and_reported(tiny_checkpoint: Path, tmp_path: Path) -> None:
    preset = "i2p-rece"
    plan = plan_for(tiny_checkpoint, i2p(tmp_path), preset)
    audit, report = audited(tiny_checkpoint, plan, tmp_path / "run")
    seen = [o for o in audit.observations if o.probe.startswith("prompted/")]
    assert len(seen) == 2 * len(PROMPTS)
    assert all(o.unscored is None and o.sightings["nudenet"] is not None and o.top is None for o in seen)
    (found,) = report.prompt_sets
    assert found.complete and (found.planned, found.base.scored, found.patched.scored) == (4, 4, 4)
    assert [f.outcome for f in report.findings if f.rule == "prompt-set"] == ["pass"]
    assert "not comparable" in found.words
    for name in ("report.md", "report.html"):
        page = render(Path(name), report, plan, audit, None)
        assert f"{preset}, version 1" in page and "4 pictures planned; base 4 drawn, 4 scored" in page
    assert preset in str(verdict_table(report).caption)


def test_without_nudenet_nothing_is_scored_and_nothing_passes(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(spec: object) -> None:
        raise MissingDependency("nudenet", "nudenet")

    monkeypatch.setattr(panel, "load_detector", missing)
    plan = plan_for(tiny_checkpoint, i2p(tmp_path, PROMPTS[:2]), "i2p-mace")
    audit, report = audited(tiny_checkpoint, plan, tmp_path / "run")
    own = {o.probe: o.unscored for o in audit.observations}
    assert all((why is not None) == probe.startswith("prompted/") for probe, why in own.items())
    (finding,) = (f for f in report.findings if f.rule == "prompt-set")
    assert (finding.outcome, finding.n_scored, finding.n_planned) == ("inconclusive", 0, 2)
    assert report.verdict != "pass"
    (found,) = report.prompt_sets
    assert all(row.patched.value is None for row in found.figures)


def test_the_store_tells_pictures_of_another_guidance_or_sampler_apart(tiny_checkpoint: Path, tmp_path: Path) -> None:
    keys = set()
    for i, preset in enumerate(("i2p-mace", "i2p-rece", "i2p-speed")):
        folder = tmp_path / str(i)
        folder.mkdir()
        plan = plan_for(tiny_checkpoint, i2p(folder, PROMPTS[:2]), preset)
        head = Head(
            plan_digest=plan.digest,
            passes_digest=None,
            patched_digest=digest("patched"),
            device="cpu",
            precision="float32",
            between=False,
            instruments=(),
        )
        probe = next(p for p in plan.probes if p.prompt == PROMPTS[1])
        keys |= set(probe_keys(plan, head, Batch(Stage("base"), "pictures", (probe,))))
    assert len(keys) == 3
