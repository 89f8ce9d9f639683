"""A smoke audit of one concept, by the command line: load, draw, look and judge, beside its limit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from .verdicts.plants import TEXT_ENCODER, plant, read_as

HERE = Path(__file__).parent
LIMIT = 60.0
"""Seconds that it may take."""


def run() -> None:
    """Prints the seconds of one audit of a checkpoint that reads hamburger as castle."""
    with TemporaryDirectory() as home:
        model = plant({TEXT_ENCODER: read_as({"hamburger": "castle", "burger": "castle"})}, Path(home) / "model")
        command = [
            sys.executable,
            "-m",
            "fmn_guard",
            "audit",
            model,
            "--manifest",
            HERE / "attacks/manifest.yaml",
        ]
        command += ["--policy", HERE / "smoke-audit.yaml", "--out", Path(home) / "run", "--no-images", "--quiet"]
        began = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        print("smoke audit of one concept, once")
        print(f"  {'the whole command':24} {time.perf_counter() - began:6.1f} s   limit {LIMIT:.0f} s")
