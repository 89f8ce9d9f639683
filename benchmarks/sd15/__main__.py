"""``make bench-sd15``: seconds and memory at real size, on architectures as published with random weights.

Each arm runs in a process of its own, one at a time, and leaves a row; rows that are there are not measured again. What
would not fit into memory is not run, and says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = (256, 512)
ARCHITECTURES = ("sd15", "sd21", "sdxl")
SIZELESS = ("load", "patch", "round trips")
NAMES = ("operations", "load", "patch", "round trips", "guarded", "released", "released gradients", "pass", "apply")


def main() -> None:
    """Runs the rows that are asked for, and prints each as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench-sd15"), help="where rows and checkpoints are kept"
    )
    parser.add_argument("--architecture", choices=ARCHITECTURES, action="append", help="only this one; repeatable")
    parser.add_argument("--size", choices=SIZES, type=int, action="append", help="only this one; repeatable")
    parser.add_argument("--arm", choices=NAMES, action="append", help="only this one; repeatable")
    parser.add_argument("--most", type=float, default=16, help="GiB that an arm may take")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        _measure(options.arm[0], options.architecture[0], options.size[0], options.out, options.most, options.alone)
        return
    for architecture, size, arm in _rows(options):
        name = f"{architecture} {arm}" if arm in SIZELESS else f"{architecture} {size} px {arm}"
        path = options.out / "rows" / f"{name.replace(' ', '-')}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            own = ["--architecture", architecture, "--size", str(size), "--arm", arm, "--out", str(options.out)]
            command = [sys.executable, "-m", "benchmarks.sd15", *own, "--most", str(options.most), "--alone", str(path)]
            if (code := subprocess.run(command, check=False).returncode) != 0:
                print(f"{name}: ended with {code}", flush=True)
                continue
        print(f"{name}: {_told(json.loads(path.read_text(encoding='utf-8')))}", flush=True)


def _rows(options: argparse.Namespace) -> Iterator[tuple[str, int, str]]:
    sizes = options.size or SIZES
    for architecture in options.architecture or ARCHITECTURES:
        for arm in options.arm or NAMES:
            for size in sizes[:1] if arm in SIZELESS else sizes:
                yield architecture, size, arm


def _measure(arm: str, architecture: Any, size: int, out: Path, most: float, row: Path) -> None:
    # torch is imported here: the process that starts the others needs none of it
    from fmn_guard.record import write_atomic

    from .arms import ARMS, Setting, fits
    from .checkpoints import write_checkpoint

    reason = fits(arm, architecture, size, int(most * 2**30))
    if reason is None:
        if not arm.startswith(("released", "operations")):
            write_checkpoint(out / architecture, architecture)
        found = ARMS[arm](Setting(architecture, out / architecture, size, out / "work"))
    else:
        found = {"not run": reason}
    write_atomic(row, json.dumps(found, indent=2) + "\n")


def _told(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_figure(key, value)}" for key, value in row.items())


def _figure(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['seconds']:.2f} s ({value['busy']:.2f} s of CPU)"
    if isinstance(value, int) and not isinstance(value, bool) and value > 1_000_000:
        return f"{value / 1e9:.3f} GB"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
