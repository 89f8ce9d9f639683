"""Runs the steps of a GitHub workflow, and of the action in this repository, as shell and as they are committed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
ACTION = ROOT / "action.yml"
SCRIPTS = Path(sys.executable).parent
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c")
"""How a runner calls ``shell: bash``."""

Values = dict[str, str]


class Job(NamedTuple):
    """What became of a job."""

    code: int
    """Exit code of its first step that failed; 0 where none did."""
    outputs: dict[str, Values]
    """Outputs of each step that has an id."""
    uses: dict[str, Values]
    """Inputs of the other actions whose turn came, by their names without a version."""
    summary: str
    """The step summary."""
    log: str
    """What the steps printed."""


class Runner:
    """A runner that knows as much of GitHub's expressions as these files use, and fails on any other.

    Args:
        workspace: The repository that is checked out.
        temporary: Where the runner keeps what it needs.
        installed: Whether fmn-guard is installed already, which leaves the action's first step out.
    """

    def __init__(self, workspace: Path, temporary: Path, *, installed: bool = True) -> None:
        self.workspace, self.temporary = workspace, temporary
        self.skipped = {"Install fmn-guard"} if installed else set()
        if installed:
            (temporary / "fmn-guard" / "bin").mkdir(parents=True)
            (temporary / "fmn-guard" / "bin" / "fmn-guard").symlink_to(SCRIPTS / "fmn-guard")
        self.log = ""

    def job(self, workflow: Path, name: str) -> Job:
        """Runs a job of a workflow."""
        outputs: dict[str, Values] = {}
        uses: dict[str, Values] = {}
        code = 0
        for step in _yaml(workflow)["jobs"][name]["steps"]:
            known = {
                f"steps.{i}.outputs.{key}": value for i, values in outputs.items() for key, value in values.items()
            }
            if not _holds(step.get("if", "success()"), known, failed=code != 0):
                continue
            inputs = {key: _filled(value, known) for key, value in step.get("with", {}).items()}
            action = step["uses"].partition("@")[0]
            if action.endswith("/fmn-guard"):
                failed, found = self.action(inputs)
                code, outputs[step["id"]] = code or failed, found
            else:
                uses[action] = inputs
        return Job(code, outputs, uses, self._file("summary").read_text(encoding="utf-8"), self.log)

    def action(self, given: Values) -> tuple[int, Values]:
        """Runs the action, and gives its exit code and outputs."""
        action = _yaml(ACTION)
        assert set(given) <= set(action["inputs"])
        known = {f"inputs.{key}": given.get(key, spec["default"]) for key, spec in action["inputs"].items()}
        known["github.action_path"] = str(ROOT)
        code = 0
        for step in action["runs"]["steps"]:
            assert step["shell"] == "bash"
            if code or step["name"] in self.skipped:
                continue
            output = self._file("output", fresh=True)
            environment = {
                **os.environ,
                **{key: _filled(value, known) for key, value in step["env"].items()},
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self._file("summary")),
                "RUNNER_TEMP": str(self.temporary),
            }
            command = [*BASH, step["run"]]
            run = subprocess.run(command, cwd=self.workspace, env=environment, capture_output=True, text=True)
            self.log += run.stdout + run.stderr
            code = run.returncode
            for line in output.read_text(encoding="utf-8").splitlines():
                key, _, value = line.partition("=")
                known[f"steps.{step['id']}.outputs.{key}"] = value
        return code, {key: _filled(spec["value"], known) for key, spec in action["outputs"].items()}

    def _file(self, name: str, *, fresh: bool = False) -> Path:
        file = self.temporary / name
        if fresh:
            file.unlink(missing_ok=True)
        file.touch()
        return file


def _yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def _filled(value: object, known: Values) -> str:
    """A value with its expressions filled in; an output that was not set is empty, as on GitHub."""

    def looked_up(found: re.Match[str]) -> str:
        name = found[1]
        return known.get(name, "") if name.startswith("steps.") else known[name]

    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"\$\{\{ (\S+) \}\}", looked_up, text)


def _holds(condition: str, known: Values, *, failed: bool) -> bool:
    """Whether a step's turn comes: terms joined by ``&&``."""

    def term(text: str) -> bool:
        if text in ("always()", "success()"):
            return text == "always()" or not failed
        found = re.fullmatch(r"(steps\.\S+) != ''", text)
        assert found, text
        return known.get(found[1], "") != ""

    return all(term(text) for text in condition.split(" && "))
