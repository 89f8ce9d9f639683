"""Four passes on a tiny checkpoint, in a process that can be killed: ``python -m tests.killable CHECKPOINT OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

from fmn_guard.forget.runner import run_plan

from .forget.test_runner import planned

FOUR = [
    {"kind": "object", "phrase": "lion"},
    {"kind": "style", "phrase": "ink drawing"},
    {"kind": "nsfw", "phrase": "pistol"},
    {"kind": "object", "phrase": "rose"},
]


def forget(checkpoint: Path, out: Path) -> None:
    run_plan(*planned(checkpoint, Path(), FOUR), out)


if __name__ == "__main__":
    print("ready", flush=True)
    forget(Path(sys.argv[1]), Path(sys.argv[2]))
