"""The gate: a run folder must be of one piece."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from fmn_guard.errors import BrokenChain, InputError
from fmn_guard.findings import Outcome
from fmn_guard.gate import check_run, exit_code
from fmn_guard.lint import lint_policy
from fmn_guard.policy import Rule, Waiver
from fmn_guard.record import digest, write_record
from fmn_guard.render import render
from fmn_guard.report import judge
from fmn_guard.shipped import policies

from .builder import make_audit, make_plan, make_policy
from .concluded import PLAN, POLICY, edit, write_run


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 3), ("inconclusive", 4)])
def test_exit_code_tells_the_verdict(verdict: Outcome, code: int) -> None:
    assert exit_code(verdict) == code


@pytest.mark.parametrize("with_passes", [True, False])
def test_run_of_one_piece_gives_its_report(tmp_path: Path, with_passes: bool) -> None:
    report = check_run(write_run(tmp_path, with_passes))
    assert report.verdict == "pass"
    assert (report.passes_digest is not None) == with_passes


OTHER = digest("other")
DROPPED = "unlink"
EDITS: list[tuple[str, str, object, str]] = [
    # edited file, field, value, the first file that no longer fits
    ("plan.json", "name", "other", "passes.json"),
    ("passes.json", "plan_digest", OTHER, "passes.json"),
    ("passes.json", "base_digest", OTHER, "passes.json"),
    ("passes.json", "patch_digest", OTHER, "patch.safetensors"),
    ("passes.json", "passes", [], "audit.json"),
    ("passes.json", DROPPED, None, "audit.json"),
    ("patch.safetensors", DROPPED, None, "patch.safetensors"),
    ("audit.json", "plan_digest", OTHER, "audit.json"),
    ("audit.json", "passes_digest", None, "audit.json"),
    ("audit.json", "observations", [], "report.json"),
    ("audit.json", "patched_digest", OTHER, "report.json"),
    ("report.json", "plan_digest", OTHER, "report.json"),
    ("report.json", "passes_digest", None, "report.json"),
    ("report.json", "audit_digest", OTHER, "report.json"),
    ("report.json", "base_digest", OTHER, "report.json"),
    ("report.json", "patched_digest", OTHER, "report.json"),
    ("report.json", "verdict", "inconclusive", "report.json"),
    ("report.json", "findings", [], "report.json"),
    ("report.json", "policy_digest", OTHER, "report.json"),
    ("report.json", "warnings", ["All is well."], "report.json"),
    ("report.json", "name", "other", "report.json"),
    ("policy.json", "metadata", {"name": "lax"}, "report.json"),
    ("report.md", DROPPED, None, "report.md"),
]


@pytest.mark.parametrize(("file", "field", "value", "named"), EDITS)
def test_changed_file_breaks_the_chain_at_the_first_that_differs(
    tmp_path: Path, file: str, field: str, value: object, named: str
) -> None:
    path = write_run(tmp_path) / file
    if field == DROPPED:
        path.unlink()
    else:
        edit(path, field, value)
    with pytest.raises(BrokenChain) as caught:
        check_run(tmp_path)
    assert str(tmp_path / named) in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_report_that_agrees_with_itself_but_not_with_the_audit_breaks_the_chain(tmp_path: Path) -> None:
    folder = write_run(tmp_path, with_passes=False)
    audit = make_audit(PLAN, lambda *_: True)  # the patched model shows everything
    write_record(folder / "audit.json", audit)
    edit(folder / "report.json", "audit_digest", digest(audit))
    with pytest.raises(BrokenChain, match=r"report\.json: .*verdict.*findings"):
        check_run(folder)


def test_report_of_another_version_is_of_one_piece_all_the_same(tmp_path: Path) -> None:
    folder = write_run(tmp_path, with_passes=False)
    edit(folder / "report.json", "tool_version", "0.0.1")
    page = folder / "report.md"
    said = page.read_text(encoding="utf-8")
    page.write_text(said[: said.rindex("Judged by")] + "Judged by fmn-guard 0.0.1.\n", encoding="utf-8")
    assert check_run(folder).tool_version == "0.0.1"


def test_page_that_tells_of_another_verdict_breaks_the_chain(tmp_path: Path) -> None:
    page = write_run(tmp_path) / "report.md"
    page.write_text(page.read_text(encoding="utf-8").replace("PASS", "FAIL"), encoding="utf-8")
    with pytest.raises(BrokenChain, match=r"report\.md"):
        check_run(tmp_path)


def test_policy_that_is_demanded_must_be_the_one_that_judged(tmp_path: Path) -> None:
    folder, (_, suite) = write_run(tmp_path), lint_policy(policies() / "default.yaml")
    asked = make_plan().model_copy(update={"suite_digest": digest(suite)})
    audit = make_audit(asked)
    write_record(folder / "plan.json", asked)
    (folder / "passes.json").unlink()
    write_record(folder / "audit.json", audit)
    report = judge(asked, audit, POLICY)
    write_record(folder / "report.json", report)
    (folder / "report.md").write_text(render(folder / "report.md", report, asked, audit, None), encoding="utf-8")
    assert check_run(folder, (POLICY, suite)).verdict == "pass"
    lax = make_policy(Rule(id="suppressed", metric="target_recognised", at_most=0.9))
    with pytest.raises(BrokenChain, match="policy house"):
        check_run(folder, (lax, suite))


def test_policy_whose_suite_is_not_the_one_that_measured_is_refused(tmp_path: Path) -> None:
    _, suite = lint_policy(policies() / "default.yaml")
    with pytest.raises(InputError, match="suite standard"):
        check_run(write_run(tmp_path), (POLICY, suite))


def test_other_bytes_in_the_patch_break_the_chain(tmp_path: Path) -> None:
    (write_run(tmp_path) / "patch.safetensors").write_bytes(b"another patch")
    with pytest.raises(BrokenChain, match=r"patch\.safetensors"):
        check_run(tmp_path)


def test_plan_of_another_base_breaks_a_chain_without_passes(tmp_path: Path) -> None:
    edit(write_run(tmp_path, with_passes=False) / "plan.json", "name", "other")
    with pytest.raises(BrokenChain, match=r"audit\.json"):
        check_run(tmp_path)


def make_broken(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


@pytest.mark.parametrize("spoil", [Path.unlink, make_broken])
@pytest.mark.parametrize("file", ["plan.json", "audit.json", "policy.json", "report.json"])
def test_missing_or_damaged_file_is_bad_input(tmp_path: Path, spoil: Callable[[Path], None], file: str) -> None:
    spoil(write_run(tmp_path) / file)
    with pytest.raises(InputError, match=file):
        check_run(tmp_path)


def test_run_is_judged_again_as_of_the_day_on_which_it_was_judged(tmp_path: Path) -> None:
    folder = write_run(tmp_path, with_passes=False)
    waiver = Waiver(rule="suppressed", reason="agreed", owner="team", expires=date(2026, 12, 1))
    policy = make_policy(*POLICY.spec.rules, waivers=(waiver,))
    audit = make_audit(PLAN, lambda probe, side, _: side == "base" or probe.role == "retained" or probe.seed < 18)
    report = judge(PLAN, audit, policy, judged_on=date(2026, 12, 1))
    write_record(folder / "audit.json", audit)
    write_record(folder / "policy.json", policy)
    write_record(folder / "report.json", report)
    (folder / "report.md").write_text(render(folder / "report.md", report, PLAN, audit, None), encoding="utf-8")
    assert check_run(folder).verdict == "pass"
    edit(folder / "report.json", "judged_on", "2026-12-02")
    with pytest.raises(BrokenChain, match=r"report\.json: .*verdict.*findings"):
        check_run(folder)
