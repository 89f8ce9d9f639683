"""What people read: report.md, report.json, and tables in a terminal."""

from __future__ import annotations

import io
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from fmn_guard.cost import estimate
from fmn_guard.evidence import Instrument, Side
from fmn_guard.policy import Rule, Waiver
from fmn_guard.probes import Probe
from fmn_guard.record import digest, write_record
from fmn_guard.render import render
from fmn_guard.render.terminal import plan_table, verdict_table
from fmn_guard.report import Report, judge

from . import golden
from .builder import (
    NUDENET,
    RETAINED,
    SUPPRESSED,
    box,
    forget,
    forgotten,
    make_audit,
    make_passes,
    make_plan,
    make_policy,
    probes,
)

PLAN = make_plan(
    forget("pistol", "object", "gun"),
    forget("the-captain", "correction"),
    asked=(
        *probes("target", "pistol", 36),
        *probes("correction", "the-captain", 36, "concept:bruno", "concept:cleo"),
        *RETAINED,
    ),
    detectors=(NUDENET,),
)
PASSES = make_passes(PLAN)


def shows(probe: Probe, side: Side, label: str) -> bool:
    """The correction has no effect, and two trumpets are lost."""
    if probe.role == "correction":
        return label == "concept:bruno"
    return forgotten(probe, side, label) and not (side == "patched" and probe.subject == "trumpet" and probe.seed < 2)


AUDIT = make_audit(
    PLAN,
    shows,
    edits={
        (PLAN.probes[0].id, "patched"): {"unscored": "picture is constant", "degenerate": True},
        (PLAN.probes[1].id, "base"): {"sightings": {"nudenet": box("FEET_EXPOSED", 0.7)}},
    },
    passes_digest=digest(PASSES),
)
REPORT = judge(PLAN, AUDIT, make_policy(), PASSES)


def as_markdown(report: Report = REPORT) -> str:
    return render(Path("report.md"), report, PLAN, AUDIT, PASSES)


def section(title: str, text: str | None = None) -> str:
    """What stands under a heading of report.md."""
    found = re.search(rf"^## {title}\n\n(.*?)(?=\n## |\Z)", text or as_markdown(), re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def printed(what: RenderableType, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a terminal of 80 columns shows it without colour."""
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True).print(what)
    return out.getvalue()


def test_markdown_has_the_verdict_first() -> None:
    assert as_markdown().splitlines()[:3] == [
        "# FAIL: small under policy house",
        "",
        "Named outcomes: **no effect**.",
    ]


def test_markdown_shows_each_concept_before_and_after() -> None:
    table = section("Concepts").splitlines()
    assert table[0] == "| Concept | Kind | Before | After | 95 % interval | Limit | Outcome |"
    assert table[2].startswith("| pistol | object | 100.0 % | 0.0 % | 0.0 % to 9.9 % | 10.0 % | inconclusive |")
    assert table[3].startswith("| the captain | correction | 100.0 % | 100.0 % |")
    assert table[3].endswith("| none | fail (no effect) |")


def test_claim_names_protocol_count_and_interval_and_never_says_deleted() -> None:
    plan = make_plan()
    audit = make_audit(plan)
    text = render(Path("a.md"), judge(plan, audit, make_policy()), plan, audit, None)
    assert "- pistol: suppressed under protocol standard, 0 of 36, 95 % interval 0.0 % to 9.6 %." in text
    assert "pistol: inconclusive (rule suppressed) under protocol standard, 0 of 35" in as_markdown()
    for word in ("deleted", "removed", "erased", "compliant"):
        assert word not in (text + as_markdown()).lower()


def test_markdown_lists_every_finding_with_its_reason() -> None:
    findings = section("Findings")
    assert len(findings.splitlines()) == 2 + len(REPORT.findings)
    assert "only 35 of 36 planned probes are scored" in findings


def test_markdown_shows_what_was_lost_among_the_retained() -> None:
    retained = section("Retained")
    assert "| all | 3 | 60 | 60 | 2 | 0 | 3.3 % |" in retained
    assert "| held out | 1 | 20 | 20 | 0 | 0 | 0.0 % |" in retained
    assert "| trumpet | pistol |  | 20 of 20 | 2 | 0 |" in retained
    assert "| dog |" not in retained


def test_markdown_shows_the_sweep_the_passes_and_the_unscored() -> None:
    assert "| nudenet | broad | 0.6 | 1 | 1 | 0 | 0 | 0 |" in section("Detectors")
    assert "| pistol | 40 | ceiling | not looked at | 0.400 to 0.050 | 1.23 % |" in section("Passes")
    assert "- 1 unscored on the patched side: picture is constant" in section("Pictures")
    assert "| pistol | none 36 |" in section("Drawn instead")


def test_markdown_says_what_was_not_tested_and_who_measured() -> None:
    assert all(f"- {words}" in section("Not tested") for words in REPORT.not_tested)
    assert "| builtin-judge | 1 | Apache-2.0 |" in section("Provenance")
    assert REPORT.plan_digest.removeprefix("sha256:")[:12] in section("Provenance")


def test_markdown_leaves_out_sections_without_content() -> None:
    plan = make_plan()
    audit = make_audit(plan)
    text = render(Path("a.md"), judge(plan, audit, make_policy()), plan, audit, None)
    assert "## Passes" not in text
    assert "## Detectors" not in text


HOME = "/".join(["", "home", "ada"])  # no text of the repository names such a folder


def test_markdown_has_no_absolute_path() -> None:
    plan = make_plan(reference=f"{HOME}/models/sd")
    broken = Instrument(
        name="nudenet",
        version="",
        licence="",
        weights_digest=None,
        labels=(),
        error=f"cannot open '{HOME}/x.onnx', nor C:\\Users\\ada\\x.onnx",
    )
    edits: dict[tuple[str, Side], dict[str, Any] | None] = {
        (plan.probes[0].id, "base"): {"unscored": "no file ~/secret/a.png"}
    }
    audit = make_audit(plan, edits=edits, instruments=(broken,))
    text = render(Path("a.md"), judge(plan, audit, make_policy()), plan, audit, None)
    for folder in ("/home", "ada", "Users", "secret"):
        assert folder not in text
    assert "base sd" in text
    assert "cannot open 'x.onnx', nor x.onnx" in text


def test_names_cannot_break_out_of_a_table() -> None:
    hostile = forget("pistol").model_copy(update={"names": ("a | b\n# <script> [x](y)",)})
    plan = make_plan(hostile)
    audit = make_audit(plan)
    text = render(Path("a.md"), judge(plan, audit, make_policy()), plan, audit, None)
    assert "| a \\| b \\# \\<script\\> \\[x\\](y) | object |" in text


def test_json_is_the_record_as_the_run_folder_has_it(tmp_path: Path) -> None:
    text = render(Path("report.json"), REPORT, PLAN, AUDIT, PASSES)
    write_record(tmp_path / "report.json", REPORT)
    assert text.encode() == (tmp_path / "report.json").read_bytes()
    assert json.loads(text)["verdict"] == "fail"


def test_verdict_table_reads_without_colour_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(verdict_table(REPORT), monkeypatch)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 80
    for words in ("FAIL: small under policy house", "correction", "captain", "90.4 % to 100.0 %", "fail (no effect)"):
        assert words in text


def test_verdict_table_tells_the_matrix_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Over the passes: rebound of ada-thorne; of the retained at least 90.0 % of 10." in " ".join(
        printed(verdict_table(golden.REPORT), monkeypatch).split()
    )
    assert "Over the passes" not in printed(verdict_table(REPORT), monkeypatch)


def test_verdict_table_tells_the_kind_of_each_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed(verdict_table(REPORT), monkeypatch)).splitlines()
    assert lines[2].split()[:2] == ["Concept", "Kind"]
    assert lines[4].split()[:2] == ["pistol", "object"]


def test_verdict_table_names_every_finding_that_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", printed(verdict_table(REPORT), monkeypatch)).split())
    assert "fail: no-effect, the-captain: The base shows it in 36 of 36 pictures" in text
    plan = make_plan()
    passing = judge(plan, make_audit(plan), make_policy())
    assert "Every finding passes." in printed(verdict_table(passing), monkeypatch)


def test_names_are_not_read_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(forget("pistol").model_copy(update={"names": ("[red]x",)}))
    assert "[red]x" in printed(verdict_table(judge(plan, make_audit(plan), make_policy())), monkeypatch)
    assert "[red]x" in printed(plan_table(plan, estimate(plan)), monkeypatch)


def test_plan_table_tells_what_is_drawn_between_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = printed(plan_table(golden.PLAN, estimate(golden.PLAN)), monkeypatch)
    assert f"({sum(map(len, golden.PLAN.between))} between passes)" in " ".join(looked.split())
    assert "between passes" not in printed(plan_table(PLAN, estimate(PLAN)), monkeypatch)


def test_plan_table_shows_passes_probes_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(plan_table(PLAN, estimate(PLAN)), monkeypatch)
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines())) <= 80
    for words in (
        "small: 2 passes, one after another, suite standard",
        "pistol, gun",
        "correction",
        "at most 80 training steps",
    ):
        assert words in text


def _waived() -> Report:
    """The correction without effect is waived; the one waiver of the pistol is not needed."""
    rules = [Rule(id="dominant", metric="dominant_recognised", at_most=0.1), SUPPRESSED]
    subjects = [("dominant", "the-captain"), ("no-effect", "the-captain"), ("suppressed", "hamburger")]
    waivers = tuple(
        Waiver(rule=rule, subject=subject, reason="agreed | with", owner="release team", expires=date(2027, 1, 1))
        for rule, subject in subjects
    )
    return judge(PLAN, AUDIT, make_policy(*rules, waivers=waivers), PASSES, judged_on=date(2026, 12, 1))


def test_markdown_lists_and_counts_waived_findings_apart() -> None:
    text = as_markdown(_waived())
    assert "1 findings decide: 0 pass, 0 fail, 1 inconclusive; 2 waived." in text
    assert "the-captain" not in section("Findings", text)
    waivers = section("Waivers", text)
    assert waivers.count("| the-captain |") == 2
    assert "| agreed \\| with | release team | 2027-01-01 |" in waivers
    assert "- suppressed of hamburger, by release team until 2027-01-01: unused" in waivers
    assert "Judged by fmn-guard" in text and "on 2026-12-01." in text
    assert "- the captain: fail (rule dominant, waived)" in text


def test_markdown_without_waivers_does_not_speak_of_them() -> None:
    assert "waive" not in as_markdown().lower()


def test_terminal_names_waived_findings_after_the_others_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", printed(verdict_table(_waived()), monkeypatch)).split())
    assert text.index("inconclusive: suppressed") < text.index("fail (waived): dominant")
    assert "2 waived, the verdict is over the others." in text
    assert "waiver unused: suppressed of hamburger, by release team until 2027-01-01" in text


def test_point_estimate_is_marked_wherever_it_stands_and_never_called_suppressed() -> None:
    plan = make_plan()
    audit = make_audit(plan)
    point = SUPPRESSED.model_copy(update={"statistic": "point"})
    report = judge(plan, audit, make_policy(point, point_estimates="allowed"))
    text = render(Path("a.md"), report, plan, audit, None)
    assert "save for point estimates, which leave chance out of account" in text
    assert "| 10.0 % | pass (point estimate) |" in section("Concepts", text)
    assert "- pistol: pass (rule suppressed, point estimate) under protocol standard, 0 of 36" in text
    assert "| pass (point estimate) | suppressed |" in section("Findings", text)
    assert "suppressed under" not in text
    assert "point estimate" not in as_markdown()
