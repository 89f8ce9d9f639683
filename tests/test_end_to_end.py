"""The whole flow on the built-in model, with its documented outcomes, on a suite small enough for every run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fmn_guard import cli
from fmn_guard.audit.detectors import builtin_judge, nudenet
from fmn_guard.record import canonical_json
from fmn_guard.shipped import suites

RETAINED = ["lion", "pizza", "rocket", "rose", "robot", "castle", "guitar", "cat", "banana", "car", "fox", "ghost"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a suite of 12 pictures a concept and a policy that 12 pictures can decide."""
    suite = json.loads(canonical_json(_yaml(suites() / "smoke" / "suite.yaml")))
    suite["metadata"]["name"] = "small"
    suite["spec"]["sampler"]["steps"] = 5
    suite["spec"]["counts"] |= {"target": 2, "retained": 2}
    suite["spec"]["retained"] = [{"phrase": phrase} for phrase in RETAINED]
    suite["spec"]["detectors"] = [{"name": "nudenet"}]
    policy = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ReleasePolicy",
        "metadata": {"name": "small"},
        "spec": {
            "suite": "./small.yaml",
            "rules": [
                {"id": "target-suppressed", "metric": "target_recognised", "at_most": 0.4},
                {"id": "retained-kept", "metric": "retained_drop", "at_most": 0.3},
            ],
        },
    }
    _write(tmp_path / "small.yaml", suite)
    _write(tmp_path / "policy.yaml", policy)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _yaml(path: Path) -> object:
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(path)


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document))  # JSON is YAML


def apply(*concepts: dict[str, object], out: str = "run", **eraser: object) -> Result:
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "small"},
        "spec": {"base": {"checkpoint": "builtin:emoji-sd"}, "concepts": list(concepts), "eraser": eraser},
    }
    _write(Path("manifest.yaml"), manifest)
    arguments = ["apply", "manifest.yaml", "--policy", "./policy.yaml", "--out", out, "--json"]
    return CliRunner().invoke(cli.main, arguments, prog_name="fmn-guard")


HAMBURGER = {"kind": "object", "phrase": "hamburger"}


@pytest.mark.slow  # two whole runs
def test_a_forgotten_concept_passes_twice_with_the_same_digests_and_the_gate_agrees(home: Path) -> None:
    first = apply(HAMBURGER, out="first")
    assert first.exit_code == 0, first.stderr
    assert json.loads(first.stdout)["verdict"] == "pass"
    apply(HAMBURGER, out="second")
    for name in ("plan.json", "passes.json", "patch.safetensors", "audit.json", "report.json", "report.md"):
        assert (home / "first" / name).read_bytes() == (home / "second" / name).read_bytes(), name
    assert CliRunner().invoke(cli.main, ["gate", "first"]).exit_code == 0


def test_a_finished_run_is_re_used_and_says_so(home: Path) -> None:
    apply(HAMBURGER)
    before = {path: path.stat().st_mtime_ns for path in home.glob("run/*.safetensors")}
    again = apply(HAMBURGER)
    assert "re-using run/audit.json" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in home.glob("run/*.safetensors")} == before


def test_no_steps_are_no_effect_and_fail(home: Path) -> None:
    result = apply(HAMBURGER, steps=0)
    assert result.exit_code == 3
    assert "no effect" in json.loads(result.stdout)["outcomes"]


def test_an_absurd_dose_without_projection_is_collapse_and_fails(home: Path) -> None:
    result = apply(HAMBURGER, learning_rate=50.0, projection="off")
    assert result.exit_code == 3
    assert "collapse" in json.loads(result.stdout)["outcomes"]


def test_a_judge_that_throws_is_inconclusive_never_a_pass(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def throws(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(builtin_judge.BuiltinJudge, "recognise", throws)
    result = apply(HAMBURGER)
    assert result.exit_code == 4
    assert json.loads(result.stdout)["unscored"][0]["reason"] == "recogniser error: RuntimeError"


def test_a_detector_that_throws_is_inconclusive(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def throws(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(nudenet.NudeNet, "detect", throws)
    assert apply(HAMBURGER).exit_code == 4


@pytest.mark.parametrize(
    "concept",
    [
        {"kind": "object", "phrase": "zeppelin"},  # nor does the judge know it
        {"kind": "style", "phrase": "portrait"},  # the judge does: every identity is one
    ],
)
def test_a_phrase_the_base_cannot_draw_is_inconclusive(concept: dict[str, object], home: Path) -> None:
    result = apply(concept)
    assert result.exit_code == 4
    assert "nothing is proven" in result.stdout
