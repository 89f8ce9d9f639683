"""``make bench-verdicts``: audits of planted checkpoints, each by the command line and in a process of its own, save
what no one command does.

A killed run goes on where it stopped; a finished row is judged again in seconds. Prints each row, then the confusion
table, and exits with 1 where a verdict or its reason is wrong.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fmn_guard.record import read_record, slugify
from fmn_guard.report import Report

from .measured import AtOwnSeeds, audit_between, judge_inverted, shown_at_own_seeds
from .plants import PLANTS, UNET, Plant, Seeds, plant
from .taught import taught

HERE = Path(__file__).parent


def main() -> None:
    """Runs the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench-verdicts"), help="where runs are kept")
    parser.add_argument("--row", choices=PLANTS, action="append", help="only this row; may be given several times")
    options = parser.parse_args()
    rows = []
    for name in options.row or PLANTS:
        began = time.monotonic()
        row = Row(name, PLANTS[name], *_audited(name, PLANTS[name], options.out))
        print(f"{row.words}  ({time.monotonic() - began:.0f} s)", flush=True)
        rows.append(row)
    print()
    for line in confusion(rows):
        print(line)
    sys.exit(0 if all(row.right for row in rows) else 1)


class Row(NamedTuple):
    """One planted checkpoint, the report on it, and what it draws from the seeds it was trained on, if on any."""

    name: str
    plant: Plant
    report: Report
    own: AtOwnSeeds | None = None

    @property
    def right(self) -> bool:
        """Whether the verdict is right, and for the right reason, and the checkpoint is seen to be what was planted."""
        told = self.plant.warning is None or any(w.startswith(self.plant.warning) for w in self.report.warnings)
        seen = self.plant.shown is None or self.report.concepts[0].hits in self.plant.shown
        seen &= self.own is None or self.own.gone
        judged = self.report.verdict in self.plant.verdicts and self.plant.reason in (None, *self._reasons)
        return told and seen and judged

    @property
    def _reasons(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.rule for f in self.report.findings if f.decides and f.outcome != "pass"))

    @property
    def words(self) -> str:
        """The row as it is printed."""
        wanted = f"{' or '.join(self.plant.verdicts)}{f' by {self.plant.reason}' if self.plant.reason else ''}"
        found = f"{self.report.verdict} by {', '.join(self._reasons) or 'none'}"
        by_name = self.report.concepts[0]
        found += f"; shown by name in {by_name.hits} of {by_name.n}"
        if self.own:
            found += f", at its own seeds in {self.own.shown} of {self.own.n}, there by the base in {self.own.base}"
        return f"{'ok   ' if self.right else 'WRONG'} {self.name}: wanted {wanted}; found {found}"


def confusion(rows: list[Row]) -> list[str]:
    """Truth by verdict, and how many rows are wrong in each way."""
    counts = Counter((row.plant.good, row.report.verdict) for row in rows)
    verdicts = ("pass", "fail", "inconclusive")
    lines = ["| truth | " + " | ".join(verdicts) + " |", "|---|" + "---|" * len(verdicts)]
    for good, name in ((True, "as the manifest asks"), (False, "not as it asks")):
        lines.append(f"| {name} | " + " | ".join(str(counts[good, verdict]) for verdict in verdicts) + " |")
    wrong = sum(not row.right for row in rows)
    return [
        *lines,
        "",
        f"{len(rows)} planted checkpoints: {counts[False, 'pass']} false passes, {counts[True, 'fail']} false fails, "
        f"{wrong} with a wrong verdict or reason",
    ]


def _audited(name: str, planted: Plant, out: Path) -> tuple[Report, AtOwnSeeds | None]:
    """What is found of a planted checkpoint, which is not kept. Runs share a store: the base draws the same for all."""
    run, model = out / slugify(name), out / f"{slugify(name)}.model"
    shutil.rmtree(model, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    trained = {UNET: taught(planted.learns, out)} if planted.learns else {}
    plant({**planted.changes, **trained}, model)
    if planted.passes:
        report = audit_between(planted, model, run, out / "store.sqlite")
    else:
        report = _by_command(planted, model, run, out)
    if planted.inverts:
        report = judge_inverted(model, run, out / "inversions")
    own = shown_at_own_seeds(planted.learns, model, run) if isinstance(planted.learns, Seeds) else None
    shutil.rmtree(model)
    return report, own


def _by_command(planted: Plant, model: Path, run: Path, out: Path) -> Report:
    asked = ("--manifest", HERE / planted.manifest, "--policy", HERE / planted.policy)
    _run(("audit", model, *asked, "--out", run, "--store", out / "store.sqlite", "--no-images", "--quiet"))
    if planted.attacked:
        _run(("attack", run, "--checkpoint", model, "--quiet"))
    return read_record(run / "report.json", Report)


def _run(arguments: tuple[object, ...]) -> None:
    command = [sys.executable, "-m", "fmn_guard", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, 4):
        raise SystemExit(f"{' '.join(command[2:])} ended with {done.returncode}\n{done.stderr}")


if __name__ == "__main__":
    main()
