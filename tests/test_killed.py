"""Killed at any moment, the same command goes on and ends with the bytes of an unbroken run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fmn_guard.chain import leftovers

from .killable import FOUR, forget

ROOT = Path(__file__).parent.parent
SIX = ["an image of {x}", "an image of a {x}", "one {x}", "this {x}", "my {x}", "{x} on the left"]
SUITE = {
    "apiVersion": "fmn-guard/v1",
    "kind": "AuditSuite",
    "metadata": {"name": "small"},
    "spec": {
        "sampler": {"steps": 2, "guidance": 2.0, "batch": 4},
        "counts": {"target": 1, "retained": 1, "retained_prompts": 1},
        "templates": {kind: SIX for kind in ("identity", "style", "object", "nsfw")},
        "correction_templates": SIX,
        "retained": [{"phrase": "banana"}],
        "recogniser": {"name": "builtin-judge"},
    },
}
POLICY = {
    "apiVersion": "fmn-guard/v1",
    "kind": "ReleasePolicy",
    "metadata": {"name": "small"},
    "spec": {
        "suite": "./suite.yaml",
        "rules": [{"id": "retained-kept", "metric": "retained_drop", "at_most": 0.5}],
    },
}


def until_done(start: Callable[[Path], subprocess.Popen[str]], home: Path, longest: float, kills: int) -> list[Path]:
    """Kills a command at random moments and starts it again until it has been killed so often and is done.

    What is done before its moment comes is begun anew in another folder.

    Returns:
        The folders in which it came to its end.
    """
    moments, done = random.Random(0), []
    while True:
        process = start(home / str(len(done)))
        try:
            process.wait(moments.uniform(0, longest) if kills else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills -= 1
            continue
        finally:
            process.kill()
        done.append(home / str(len(done)))
        if not kills:
            return done


def test_passes_killed_at_random_moments_end_as_an_unbroken_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    forget(tiny_checkpoint, tmp_path / "whole")
    longest = time.monotonic() - started

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.killable", str(tiny_checkpoint), str(out)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    for out in until_done(start, tmp_path, longest, kills=2):
        for name in ("passes.json", "patch.safetensors"):
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
        assert not list(out.glob("*.partial.*"))


@pytest.mark.slow  # twenty starts and more of the whole flow
def test_whole_flow_killed_twenty_times_ends_as_an_unbroken_run(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = {
        "apiVersion": "fmn-guard/v1",
        "kind": "ConceptManifest",
        "metadata": {"name": "four"},
        "spec": {
            "base": {"checkpoint": str(tiny_checkpoint)},
            "concepts": FOUR,
            "eraser": {"steps": 2, "learning_rate": 0.01},
        },
    }
    for name, document in (("manifest", manifest), ("suite", SUITE), ("policy", POLICY)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", "fmn_guard"]

    def start(out: Path) -> subprocess.Popen[str]:
        arguments = ["apply", "manifest.yaml", "--policy", "./policy.yaml", "--out", out.name, "--quiet"]
        return subprocess.Popen([*program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)

    started = time.monotonic()
    [whole] = until_done(start, tmp_path, 0, kills=0)
    longest = time.monotonic() - started
    whole = whole.rename(tmp_path / "whole")
    for out in until_done(start, tmp_path, longest, kills=20):
        for name in ("plan.json", "passes.json", "patch.safetensors", "audit.json", "report.json", "files.json"):
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
        assert leftovers(out) == ()
        subprocess.run([*program, "verify", out.name], check=True, capture_output=True)
