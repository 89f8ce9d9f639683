"""What pre-commit lets into a commit, seen by pre-commit itself with the hooks as they are committed."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from .paper import MANIFEST, write_safetensors
from .workflow import ROOT, SCRIPTS

HOOKS = ROOT / ".pre-commit-hooks.yaml"


def _git(home: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false")
    run = subprocess.run(["git", *identity, *arguments], cwd=home, check=True, capture_output=True, text=True)
    return run.stdout.strip()


def _environment(tmp_path: Path) -> dict[str, str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PRE_COMMIT_HOME": str(tmp_path / "cache")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A repository that takes the hooks from another one, which holds nothing else, and fmn-guard from this one."""
    hooks, home = tmp_path / "hooks", tmp_path / "home"
    for repository in (hooks, home):
        repository.mkdir()
        _git(repository, "init", "--quiet")
    shutil.copy(HOOKS, hooks)
    _git(hooks, "add", "--all")
    _git(hooks, "commit", "--quiet", "--message", "hooks")
    ids = [hook["id"] for hook in YAML(typ="safe", pure=True).load(HOOKS)]
    listed = "\n".join(f"      - {{id: {name}, language: system}}" for name in ids)
    config = f"repos:\n  - repo: {hooks}\n    rev: {_git(hooks, 'rev-parse', 'HEAD')}\n    hooks:\n{listed}\n"
    (home / ".pre-commit-config.yaml").write_text(config, encoding="utf-8")
    return home


def _pre_commit(home: Path) -> subprocess.CompletedProcess[str]:
    _git(home, "add", "--all")
    command = [SCRIPTS / "pre-commit", "run", "--color", "never"]
    return subprocess.run(command, cwd=home, env=_environment(home.parent), capture_output=True, text=True)


def test_sound_manifest_and_safetensors_may_be_committed(home: Path) -> None:
    (home / "manifests").mkdir()
    (home / "manifests" / "release.yaml").write_text(MANIFEST, encoding="utf-8")
    write_safetensors(home / "patch.safetensors", {"weight": b"\0" * 8})
    run = _pre_commit(home)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("Passed") == 2


@pytest.mark.parametrize("name", ["manifests/release.yaml", "policies/release.yml", "audits/suites/mine/suite.yaml"])
def test_document_with_a_problem_is_refused_at_its_line(name: str, home: Path) -> None:
    file = home / name
    file.parent.mkdir(parents=True)
    file.write_text("kind: ConceptManifest\napiVersion: fmn-guard/v0\n", encoding="utf-8")
    run = _pre_commit(home)
    assert run.returncode == 1
    assert f"{name}:2:13: wrong-api-version: " in run.stdout
    assert "exit code: 2" in run.stdout


@pytest.mark.parametrize("name", ["model.bin", "unet/model.safetensors"])
def test_pickle_is_refused_with_a_way_out(name: str, home: Path) -> None:
    file = home / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps({"weight": [1.0]}))
    run = _pre_commit(home)
    assert run.returncode == 1
    assert f"{name}:1:1: pickle: this is " in run.stdout
    assert "hint: save weights as safetensors" in run.stdout
    assert "exit code: 2" in run.stdout


def test_every_pickle_is_named_and_what_cannot_be_read_too(tmp_path: Path) -> None:
    for name in ("a.pt", "b.dat"):
        (tmp_path / name).write_bytes(pickle.dumps([1]))
    (tmp_path / "fine.txt").write_text("fine", encoding="utf-8")
    command = [SCRIPTS / "fmn-guard", "no-pickle", "fine.txt", "a.pt", "b.dat", "gone"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2
    found = [line.split(" ")[:2] for line in run.stderr.splitlines() if ":1:1: " in line]
    assert found == [["a.pt:1:1:", "pickle:"], ["b.dat:1:1:", "pickle:"], ["gone:1:1:", "unreadable-file:"]]


@pytest.mark.slow  # pre-commit makes an environment of its own and installs this repository into it
def test_hooks_install_themselves(tmp_path: Path) -> None:
    _git(tmp_path, "init", "--quiet")
    write_safetensors(tmp_path / "fine.safetensors", {"weight": b"\0" * 8})
    _git(tmp_path, "add", "--all")
    command = [SCRIPTS / "pre-commit", "try-repo", ROOT, "fmn-guard-no-pickle", "--all-files", "--color", "never"]
    environment = {**_environment(tmp_path), "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Passed" in run.stdout
