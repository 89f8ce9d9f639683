"""``fmn-guard conceptbench`` on a tiny checkpoint: alone, and beside another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from fmn_guard.audit.executors import inline
from fmn_guard.cli import main
from fmn_guard.conceptbench.summary import BenchSummary
from fmn_guard.evidence import Audit
from fmn_guard.record import read_record
from fmn_guard.shipped import suites


@pytest.fixture
def edition(tmp_path: Path) -> Path:
    """One concept of conceptbench-1, a picture a prompt."""
    yaml = YAML(typ="safe", pure=True)
    data = yaml.load((suites() / "conceptbench-1" / "suite.yaml").read_text())
    data["metadata"]["name"] = "short"
    data["spec"]["counts"]["target"] = 1
    bench = data["spec"]["bench"]
    bench["concepts"], bench["corrections"] = [c for c in bench["concepts"] if c["phrase"] == "rocket"], []
    path = tmp_path / "suite.yaml"
    yaml.dump(data, path)
    return path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["conceptbench", *arguments, "--quiet", "--no-images"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_a_checkpoint_alone_is_drawn_once_and_told_as_both_sides(
    tiny_checkpoint: Path, edition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = [], inline.draw_batch
    monkeypatch.setattr(inline, "draw_batch", lambda *given: drawn.append(len(given[2])) or draw(*given))
    out = tmp_path / "run"
    code, output = run(str(tiny_checkpoint), "--suite", str(edition), "--out", str(out), "--json")
    audit, found = read_record(out / "audit.json", Audit), read_record(out / "conceptbench.json", BenchSummary)
    assert json.loads(output) == found.model_dump(mode="json")
    assert sum(drawn) == 24 and len(audit.observations) == 48
    assert {row.task for row in found.rows} == {"presence"}
    assert code == (0 if found.status == "measured" else 4)
    assert run(str(tiny_checkpoint), "--suite", str(edition), "--out", str(out))[0] == code
    assert sum(drawn) == 24  # nothing is drawn again


def test_what_was_forgotten_is_told_beside_the_base_and_may_be_told_later(
    tiny_checkpoint: Path, edition: Path, tmp_path: Path
) -> None:
    out, asked = tmp_path / "run", ("--suite", str(edition), "--out", str(tmp_path / "run"))
    beside = ("builtin:emoji-sd", "--base", str(tiny_checkpoint), *asked)
    run(*beside)
    assert not any(row.task == "suppression" for row in read_record(out / "conceptbench.json", BenchSummary).rows)
    before = (out / "audit.json").read_bytes()
    code, _ = run(*beside, "--forgotten", "rocket")
    assert (out / "audit.json").read_bytes() == before
    found = read_record(out / "conceptbench.json", BenchSummary)
    assert {row.asked for row in found.rows if row.task == "suppression"} == {"name", "paraphrase", "description"}
    assert code == 4  # a model of random weights draws no rocket, so nothing can be said of forgetting it


def test_forgotten_without_a_base_is_refused(tiny_checkpoint: Path, edition: Path) -> None:
    assert run(str(tiny_checkpoint), "--suite", str(edition), "--forgotten", "rocket")[0] == 2
