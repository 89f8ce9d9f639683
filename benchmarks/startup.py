"""Start-up of the commands that need no torch, beside a bare interpreter and beside torch itself."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 5
CLI = [sys.executable, "-m", "fmn_guard"]
COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "fmn-guard --help": [*CLI, "--help"],
    "fmn-guard lint": [*CLI, "lint", "manifests/quickstart.yaml"],
    "fmn-guard plan --json": [*CLI, "plan", "manifests/quickstart.yaml", "--json"],
}


def run() -> None:
    """Prints the median seconds of each command and its ratio to the bare interpreter's."""
    medians = {name: _median(command) for name, command in COMMANDS.items()}
    baseline = medians["bare interpreter"]
    print(f"start-up, median of {REPEATS}")
    for name, seconds in medians.items():
        print(f"  {name:24} {seconds:6.2f} s  {seconds / baseline:6.1f} x")


def _median(command: list[str]) -> float:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
