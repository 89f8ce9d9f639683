"""`-o` and `--github`: everything that is asked for is written, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.render import FORMATS
from fmn_guard.shipped import manifests

from .finished import Run, finished_run

QUICKSTART = manifests() / "quickstart.yaml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, outside of GitHub Actions."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    """A finished run of which a concept is still drawn."""
    return finished_run(home, still_drawn=True)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], prog_name="fmn-guard")


def _apply(run: Run, *options: object) -> Result:
    return _run("apply", run.manifest, "--policy", run.policy, "--out", run.folder, *options)


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_help_of_report_lists_every_format() -> None:
    shown = _run("report", "--help").stdout
    for ending, known in FORMATS.items():
        assert f"{ending} " in shown
        assert known.about in shown


@pytest.mark.parametrize("command", ["report", "apply"])
def test_every_format_is_written_at_once_and_named(command: str, home: Path, run: Run) -> None:
    options = ["--framework", "gdpr", *(part for ending in FORMATS for part in ("-o", f"r.{ending}"))]
    result = _run("report", run.folder, *options) if command == "report" else _apply(run, *options)
    assert result.exit_code == (0 if command == "report" else 3), result.stderr
    for ending, known in FORMATS.items():
        assert (home / f"r.{ending}").stat().st_size > 0
        assert f"wrote r.{ending}: {known.about}" in result.stderr
    [sarif] = json.loads((home / "r.sarif").read_text(encoding="utf-8"))["runs"]
    [place, *_] = (result["locations"][0]["physicalLocation"] for result in sarif["results"])
    assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("manifest.yaml", 10)


def test_framework_is_answered_in_a_line_and_in_full_where_it_is_asked_for(home: Path, run: Run) -> None:
    asked = ("--framework", "gdpr", "--framework", "eu-ai-act")
    shown = _run("report", run.folder, *asked).stdout.splitlines()
    assert [line.split(":")[0] for line in shown[-2:]] == ["gdpr (unverified)", "eu-ai-act (unverified)"]
    assert _run("report", run.folder, *asked, "-o", "r.md", "-o", "r.html", "-o", "r.controls.json").exit_code == 0
    told = json.loads((home / "r.controls.json").read_text(encoding="utf-8"))["frameworks"]
    for framework in told:
        for written in ("r.md", "r.html"):
            text = (home / written).read_text(encoding="utf-8").replace("\\", "")
            assert framework["title"] in text and framework["source"]["url"] in text
            assert all(control["id"] in text for control in framework["controls"])
    assert "Evidence for controls" not in (run.folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["report", "apply"])
def test_run_with_a_framework_asked_for_is_still_of_one_piece(command: str, run: Run) -> None:
    asked = ("--framework", "gdpr", "-o", run.folder / "page.html")
    result = _run("report", run.folder, *asked) if command == "report" else _apply(run, *asked)
    assert result.exit_code == (0 if command == "report" else 3), result.stderr
    assert _run("gate", run.folder).exit_code == 3


def test_report_goes_to_stdout_alone(run: Run) -> None:
    result = _run("report", run.folder, "-o", "-.csv")
    assert result.stdout_bytes.startswith(b"manifest,policy,rule,")
    assert result.stdout_bytes.endswith(b"\r\n")
    assert result.stderr == ""
    applied = _apply(run, "-o", "-.junit.xml", "--quiet")
    assert applied.stdout.startswith("<?xml")
    assert applied.stdout.endswith("</testsuites>\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "r.docx"), "r.docx: no report format ends so"),
        (("-o", "nowhere/r.sarif"), "no folder nowhere"),
        (("-o", "r.csv", "-o", "r.csv"), "-o r.csv is given twice"),
        (("-o", "-.csv", "-o", "-.sarif"), "two documents for stdout"),
        (("-o", "run/plan.json"), "run/plan.json is a stage of the run"),
        (("-o", "run/../run/audit.json"), "is a stage of the run"),
        (("-o", "folder.md"), "folder.md is a folder"),
        (("-o", "r.controls.json"), "r.controls.json: no framework is named"),
        (("--framework", "gdpr", "-o", "run/report.md"), "run/report.md is a file of the run"),
        (("--framework", "gdpr", "--framework", "gdpr"), "--framework gdpr is given twice"),
        (("--framework", "nowhere"), "no 'nowhere' among the frameworks"),
        (("--github",), "GITHUB_STEP_SUMMARY is not set"),
    ],
)
@pytest.mark.parametrize("command", ["report", "re-judge", "apply", "audit"])
def test_what_cannot_be_written_is_refused_before_anything_is(
    command: str, options: tuple[str, ...], said: str, home: Path, run: Run
) -> None:
    (home / "folder.md").mkdir()
    before = _files(home)
    on_manifest = ("--policy", run.policy, "--out", run.folder)
    arguments: dict[str, tuple[object, ...]] = {
        "report": ("report", run.folder),
        "re-judge": ("report", run.folder, "--policy", run.policy),
        "apply": ("apply", run.manifest, *on_manifest),
        "audit": ("audit", "builtin:emoji-sd", "--manifest", run.manifest, *on_manifest),
    }
    result = _run(*arguments[command], "-o", "good.md", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "hint: " in result.stderr
    assert result.stdout == ""
    assert _files(home) == before


def test_report_may_go_into_a_run_folder_that_is_yet_to_be_made(home: Path) -> None:
    into_run = ("--out", "runs/new", "-o", "runs/new/r.sarif")
    assert _run("apply", QUICKSTART, "--dry-run", *into_run).exit_code == 0
    assert _run("apply", QUICKSTART, "--dry-run", *into_run, "-o", "runs/other/r.sarif").exit_code == 2


def test_json_and_a_report_on_stdout_are_two_documents(run: Run) -> None:
    result = _apply(run, "--json", "-o", "-.csv")
    assert result.exit_code == 2
    assert "two documents for stdout" in result.stderr


def test_measuring_alone_gives_no_report_to_write(home: Path, run: Run) -> None:
    options = ("--manifest", run.manifest, "--policy", run.policy, "--measure-only", "-o", "r.md")
    result = _run("audit", "builtin:emoji-sd", *options)
    assert result.exit_code == 2
    assert "--measure-only" in result.stderr


def test_what_the_system_refuses_is_an_error_without_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    too_long = _run("report", run.folder, "-o", f"{'x' * 300}.md")
    assert too_long.exit_code == 2
    assert "cannot be written: File name too long" in too_long.stderr
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    full = _run("report", run.folder, "--github")
    assert full.exit_code == 2
    assert "GITHUB_STEP_SUMMARY cannot be written: No space left" in full.stderr


@pytest.mark.parametrize("command", ["report", "apply"])
def test_github_gets_the_summary_and_the_annotations_on_request(
    command: str, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = home / "step.md"
    step.write_text("Said before.\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    options = ("--github", "-o", "r.summary.md", "-o", "r.annotations.txt")
    result = _run("report", run.folder, *options) if command == "report" else _apply(run, *options, "--json")
    summary = (home / "r.summary.md").read_text(encoding="utf-8")
    assert step.read_text(encoding="utf-8") == f"Said before.\n{summary}"
    assert (home / "r.annotations.txt").read_text(encoding="utf-8") in result.stderr
    assert "::error file=manifest.yaml,line=10," in result.stderr
    if command == "apply":
        assert json.loads(result.stdout)["verdict"] == "fail"


def test_github_is_told_nothing_without_being_asked(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home / "step.md"))
    assert "::error" not in _run("report", run.folder, "-o", "r.md").stderr
    assert not (home / "step.md").exists()
