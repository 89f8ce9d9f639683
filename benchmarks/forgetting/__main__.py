"""``python -m benchmarks.forgetting``: measures each preset in a process of its own, then prints the table."""

from __future__ import annotations

import argparse
import subprocess
import sys

from fmn_guard.presets import PRESETS
from fmn_guard.record import canonical_json, read_record, write_atomic

from .rows import ROWS, Row
from .scenarios import FULL, QUICK, scenarios
from .table import table


def main() -> None:
    """Measures what is missing, prints the table, and leaves table.md and rows.json beside the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting")
    parser.add_argument("--quick", action="store_true", help="few pictures and a short sequence, for development")
    parser.add_argument("--presets", default=",".join(PRESETS), help="which, by commas")
    parser.add_argument("--table-only", action="store_true", help="measure nothing; print what is there")
    asked = parser.parse_args()
    if unknown := set(asked.presets.split(",")) - set(PRESETS):
        parser.error(f"no preset {', '.join(sorted(unknown))}; there are {', '.join(PRESETS)}")
    presets = [name for name in PRESETS if name in asked.presets.split(",")]
    if not asked.table_only:
        for preset in presets:
            command = [sys.executable, "-m", "benchmarks.forgetting.rows", preset]
            subprocess.run([*command, *(["--quick"] if asked.quick else [])], check=True)
    size = QUICK if asked.quick else FULL
    folder = ROWS / size.name
    rows = {
        preset: [
            read_record(path, Row)
            for s in scenarios(size, preset)
            if (path := folder / preset / f"{s.name}.json").exists()
        ]
        for preset in presets
    }
    text = "\n".join(table({preset: found for preset, found in rows.items() if found}))
    write_atomic(folder / "table.md", f"{text}\n")
    write_atomic(
        folder / "rows.json", canonical_json([row.model_dump(mode="json") for found in rows.values() for row in found])
    )
    print(text)


if __name__ == "__main__":
    main()
