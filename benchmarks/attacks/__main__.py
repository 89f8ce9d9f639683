"""``make bench-attacks``: the attack suite `standard` on three models, each by the command line.

- **patched**: the built-in model after one pass of fmn-guard, as `fmn-guard apply` leaves it;
- **read as a castle**: the text encoder reads name and alias as another word, exactly, and nothing else changed;
- **base**: the base beside itself, on which attacks must succeed as often as before.

A killed run goes on where it stopped, and a finished row is told again in seconds. Prints success rates before and
after with intervals, the words found, and what each row took; exits with 1 where attacks on the base do not succeed as
often as before, or a picture has no score.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.verdicts.plants import TEXT_ENCODER, plant, read_as
from fmn_guard.attacks import Attacks
from fmn_guard.attacks.summary import AttackSummary
from fmn_guard.plan import Plan
from fmn_guard.record import read_record
from fmn_guard.render.attacks import details, summary_of

HERE = Path(__file__).parent
ROWS = ("patched", "read as a castle", "base")
HEADER = ("model", "attack", "base", "without", "attacked", "Wilson", "over prompts")


def main() -> None:
    """Runs the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench-attacks"), help="where runs are kept")
    parser.add_argument("--row", choices=ROWS, action="append", help="only this row; may be given several times")
    options = parser.parse_args()
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    notes, right = [], True
    for row in options.row or ROWS:
        began = time.monotonic()
        summary = _attacked(row, options.out)
        for line in table(row, summary):
            print(line, flush=True)
        notes += [f"{row}: {words}" for words in details(summary)]
        notes.append(f"{row}: {time.monotonic() - began:.0f} s, forgetting included")
        right &= all(each.base.n == each.patched.n == each.patched.planned for each in summary.rows)
        right &= row != "base" or all(each.base == each.patched for each in summary.rows)
    print("", *notes, sep="\n")
    sys.exit(0 if right else 1)


def table(row: str, summary: AttackSummary) -> Iterator[str]:
    """Lines of one model."""
    for each in summary.rows:
        cells = (each.base.words, each.without.words, each.patched.words, each.patched.wilson, each.patched.bootstrap)
        yield f"| {row} | {each.attack} | {' | '.join(map(str, cells))} |"


def _attacked(row: str, out: Path) -> AttackSummary:
    run = out / row.replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    if row == "patched":
        if not (run / "report.json").exists():
            how = ("--policy", HERE / "policy.yaml", "--out", run, "--no-images", "--quiet")
            _run(("apply", HERE / "manifest.yaml", *how), (0, 3, 4))
        _run(("attack", run, "--quiet"))
    else:
        model: str | Path = "builtin:emoji-sd"
        if row != "base" and not (model := out / "castle.model").exists():
            plant({TEXT_ENCODER: read_as({"hamburger": "castle", "burger": "castle"})}, model)
        where = ("--manifest", HERE / "manifest.yaml", "--policy", HERE / "policy.yaml")
        _run(("attack", model, *where, "--out", run, "--quiet"))
    return summary_of(read_record(run / "attacks.json", Attacks), read_record(run / "plan.json", Plan), None)


def _run(arguments: tuple[object, ...], codes: tuple[int, ...] = (0,)) -> None:
    command = [sys.executable, "-m", "fmn_guard", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command[2:])} ended with {done.returncode}\n{done.stderr}")


if __name__ == "__main__":
    main()
