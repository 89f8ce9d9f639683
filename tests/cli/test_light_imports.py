"""Paper commands start without torch, seen in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fmn_guard.render import FORMATS
from fmn_guard.shipped import manifests, policies

from .finished import finished_run

HEAVY = (
    "torch diffusers transformers matplotlib numpy huggingface_hub lxml cyclonedx PIL jinja2 cryptography "
    "securesystemslib"
).split()
SCRIPT = f"""
import json, sys
from fmn_guard.cli import main
try:
    main(json.loads(sys.argv[1]), prog_name="fmn-guard")
finally:
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    print(json.dumps(loaded), file=open(sys.argv[2], "w"))
"""


def _loaded_by(arguments: list[str], folder: Path) -> list[str]:
    told = folder / "loaded.json"
    script = [sys.executable, "-c", SCRIPT, json.dumps(arguments), str(told)]
    run = subprocess.run(script, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr  # a command that ends early imports little
    loaded: list[str] = json.loads(told.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["apply", "--help"],
        ["lint", str(manifests() / "quickstart.yaml")],
        ["plan", str(manifests() / "quickstart.yaml")],
        ["apply", str(manifests() / "quickstart.yaml"), "--dry-run"],
        ["policy", "show", "default"],
        ["policy", "list"],
        ["policy", "show", "default", "--resolved"],
        ["policy", "explain", "target-suppressed"],
        ["policy", "test", str(policies() / "tests" / "default.yaml")],
        ["policy", "frameworks"],
        ["schema", "release-policy"],
        ["doctor"],
        ["no-pickle", str(policies() / "default.yaml")],
        ["completion", "zsh"],
    ],
    ids=" ".join,
)
def test_command_never_imports_torch(arguments: list[str], tmp_path: Path) -> None:
    assert _loaded_by(arguments, tmp_path) == []


@pytest.mark.parametrize("command", ["gate", "verify", "clean", "migrate", "report", "re-judge", "apply"])
def test_command_on_a_finished_run_never_imports_torch(command: str, tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    written = [f"-o{tmp_path}/r.{ending}" for ending in FORMATS if ending != "html"]
    arguments = {
        "gate": ["gate", str(run.folder)],
        "verify": ["verify", str(run.folder)],
        "clean": ["clean", str(run.folder)],
        "report": ["report", str(run.folder), "--framework=gdpr", *written],
        "re-judge": ["report", str(run.folder), "--policy", str(run.policy)],
        "apply": ["apply", str(run.manifest), "--policy", str(run.policy), "--out", str(run.folder)],
        "migrate": ["migrate", str(run.folder)],
    }
    assert _loaded_by(arguments[command], tmp_path) == []


def test_command_imports_no_other_command(tmp_path: Path) -> None:
    told = tmp_path / "loaded.json"
    script = SCRIPT.replace(repr(HEAVY), "[name for name in sys.modules if name.startswith('fmn_guard.cli.')]")
    arguments = json.dumps(["no-pickle", str(policies() / "default.yaml")])
    subprocess.run([sys.executable, "-c", script, arguments, str(told)], check=True, capture_output=True)
    loaded = {name.removeprefix("fmn_guard.cli.") for name in json.loads(told.read_text(encoding="utf-8"))}
    assert loaded == {"program", "no_pickle"}


def test_page_needs_a_template_and_pillow_only_for_pictures(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    assert _loaded_by(["report", str(run.folder), "-o", str(tmp_path / "r.html")], tmp_path) == ["jinja2"]
