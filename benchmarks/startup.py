"""Start-up of the commands that need no torch, beside a bare interpreter and beside torch itself."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cli.finished import finished_run

REPEATS = 5
CLI = [sys.executable, "-m", "fmn_guard"]
LIMIT = 1.0
"""Seconds that a command marked with a star may take: those that a pipeline waits for."""


def run() -> None:
    """Prints the median seconds of each command, and those of a processor, which other programs disturb less."""
    with TemporaryDirectory() as home:
        # As pip leaves them, modules are compiled; a clone may be told to compile them anew each time.
        compiled = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(home, "compiled"))}
        medians = {name: _median(command, compiled) for name, command in _commands(Path(home)).items()}
    print(f"start-up, median of {REPEATS}; * must not take more than {LIMIT:.0f} s")
    for name, (seconds, busy) in medians.items():
        print(f"  {name:24} {seconds:6.2f} s  {busy:6.2f} s of CPU")


def _commands(home: Path) -> dict[str, list[str]]:
    finished = finished_run(home)  # small: start-up counts here, not what there is to judge
    folder = str(finished.folder)
    return {
        "bare interpreter": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "fmn-guard --help": [*CLI, "--help"],
        "fmn-guard plan --json": [*CLI, "plan", "manifests/quickstart.yaml", "--json"],
        "fmn-guard lint *": [*CLI, "lint", str(finished.manifest)],
        "fmn-guard gate *": [*CLI, "gate", folder],
        "fmn-guard report *": [*CLI, "report", folder],
        "fmn-guard verify *": [*CLI, "verify", folder],
    }


def _median(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    seconds, busy = [], []
    for _ in range(REPEATS + 1):
        began, before = time.perf_counter(), os.times()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        after = os.times()
        seconds.append(time.perf_counter() - began)
        busy.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return statistics.median(seconds[1:]), statistics.median(busy[1:])  # the first one compiles
