"""A wheel, built and installed outside the clone, finds all that it ships."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .cli.finished import finished_run

ROOT = Path(__file__).parent.parent
SHIPPED = {"manifests": "manifests", "policies": "policies", "suites": "audits/suites", "attacks": "audits/attacks"}

# Runs in a fresh interpreter outside the clone, with the installed wheel first on its path.
LOOK = """
import json
from pathlib import Path
import fmn_guard
from fmn_guard import shipped
from fmn_guard.facts import describe_checkpoint
from fmn_guard.manifest import load_manifest
from fmn_guard.plan import compile_plan
from fmn_guard.policy import load_policy
from fmn_guard.suite import load_suite

manifest = load_manifest(shipped.manifests() / "quickstart.yaml")
base = describe_checkpoint(manifest.spec.base, shipped.manifests())
plans = {}
for policy in sorted(shipped.policies().glob("*.yaml")):
    suite = load_suite(shipped.find(load_policy(policy).spec.suite, shipped.suites(), shipped.policies()))
    plans[policy.stem] = compile_plan(manifest, suite, base).digest
print(json.dumps({
    "package": str(Path(fmn_guard.__file__).parent),
    "folders": {name: str(getattr(shipped, name)()) for name in ("manifests", "policies", "suites", "attacks")},
    "model": str(base.folder),
    "plans": plans,
}))
"""


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(out), str(ROOT)]
    run = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    run = subprocess.run([*command, "--target", str(folder), str(wheel)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def seen(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an interpreter outside the clone finds."""
    outside = tmp_path_factory.mktemp("outside")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run([sys.executable, "-c", LOOK], cwd=outside, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_installed_package_uses_nothing_of_the_clone(seen: dict[str, Any], site: Path) -> None:
    for path in (seen["package"], seen["model"], *seen["folders"].values()):
        assert Path(path).is_relative_to(site)


@pytest.mark.parametrize("name", SHIPPED)
def test_wheel_carries_the_top_level_folder_unchanged(seen: dict[str, Any], name: str) -> None:
    source = _digests(ROOT / SHIPPED[name])
    assert source
    assert _digests(Path(seen["folders"][name])) == source


@pytest.mark.parametrize("name", SHIPPED)
def test_wheel_carries_the_schema_of_what_people_write(seen: dict[str, Any], name: str) -> None:
    assert list(Path(seen["folders"][name]).glob("*.schema.json"))


def test_wheel_carries_the_built_in_models_unchanged(site: Path) -> None:
    source = _digests(ROOT / "fmn_guard" / "data" / "models")
    assert "emoji-sd/model_index.json" in source
    assert _digests(site / "fmn_guard" / "data" / "models") == source


def test_every_shipped_policy_makes_a_plan_outside_the_clone(seen: dict[str, Any]) -> None:
    assert {"default", "strict"} <= set(seen["plans"])


def test_wheel_carries_the_package_and_its_licences_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"fmn_guard", f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"}
    assert "fmn_guard/py.typed" in names
    assert {"LICENSE", "NOTICE"} <= {name.rsplit("/", 1)[-1] for name in names}


@pytest.mark.slow  # installs the dependencies of the base install into an environment of its own
def test_base_install_lints_gates_reports_and_verifies_without_torch(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True, symlinks=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [scripts / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, cwd=tmp_path)
    for heavy in ("torch", "numpy", "PIL", "cryptography"):
        assert subprocess.run([scripts / "python", "-c", f"import {heavy}"], capture_output=True).returncode == 1
    run = finished_run(tmp_path)
    commands: list[list[Any]] = [
        ["lint", run.manifest, run.policy],
        ["gate", run.folder],
        ["report", run.folder, "-o", "report.sarif", "-o", "junit.xml"],
        ["verify", run.folder],
    ]
    for command in commands:
        done = subprocess.run([scripts / "fmn-guard", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
