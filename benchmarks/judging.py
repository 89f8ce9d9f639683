"""A large store opened again and judged, and a finished audit judged under another policy, beside their limits."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from fmn_guard.assembly import assemble, one_head
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.plan import compile_plan
from fmn_guard.report import judge
from fmn_guard.store import Store
from tests.builder import make_audit, make_plan, make_policy, probes
from tests.concluded import write_run
from tests.stored import fill

REPEATS = 5
ROWS = 10_000
STORE_LIMIT, REJUDGE_LIMIT = 5.0, 2.0
"""Seconds that each may take."""


def run() -> None:
    """Prints the median seconds of both, and those of a processor, which other programs disturb less."""
    with TemporaryDirectory() as home:
        print(f"judging, median of {REPEATS}")
        _print(f"store of {ROWS:,} rows opened and judged", _stored(Path(home)), STORE_LIMIT)
        _print("quickstart's audit judged by another policy", _rejudged(Path(home)), REJUDGE_LIMIT)


def _stored(home: Path) -> Callable[[], object]:
    """As an audit-merge does, in this process."""
    asked = (*probes("target", "pistol", ROWS // 4), *probes("retained", "dog", ROWS // 4))
    plan = make_plan(asked=asked)
    path = fill(home / "store.sqlite", plan, make_audit(plan))

    def judged() -> object:
        with Store(path) as store:
            audit = assemble(plan, one_head(plan, store), store)
        assert len(audit.observations) == ROWS
        return judge(plan, audit, make_policy())

    return judged


def _rejudged(home: Path) -> Callable[[], object]:
    """The whole command in a process of its own, without torch."""
    manifest, base = lint_manifest(Path("manifests/quickstart.yaml"))
    plan = compile_plan(manifest, lint_policy(Path("policies/default.yaml"))[1], base)
    (folder := home / "run").mkdir()
    write_run(folder, with_passes=False, plan=plan)
    command = [sys.executable, "-m", "fmn_guard", "report", str(folder), "--policy", "default"]
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _print(name: str, action: Callable[[], object], limit: float) -> None:
    action()  # compiles
    seconds, busy = [], []
    for _ in range(REPEATS):
        began, before = time.perf_counter(), sum(os.times()[:4])
        action()
        seconds.append(time.perf_counter() - began)
        busy.append(sum(os.times()[:4]) - before)
    took, cpu = statistics.median(seconds), statistics.median(busy)
    print(f"  {name:46} {took:6.2f} s  {cpu:6.2f} s of CPU; must not take more than {limit:.0f} s")


if __name__ == "__main__":
    run()
