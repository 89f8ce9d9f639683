"""What linting costs as manifests grow, and what it costs to refuse a file that is too dense to be one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from fmn_guard.errors import FileProblems
from fmn_guard.lint import lint_file
from fmn_guard.yamlfile import MAX_BYTES

REPEATS = 3
CONCEPTS = 2_000
LIMIT = 5.0
"""Seconds that a manifest of so many concepts may take."""
KINDS = ("identity", "style", "object", "nsfw")


def manifest(concepts: int) -> str:
    """A manifest whose concepts have a value in every field but pictures."""
    return "\n".join(("apiVersion: fmn-guard/v1", "kind: ConceptManifest", *_lines(concepts), ""))


def _lines(concepts: int) -> Iterator[str]:
    yield "metadata: {name: large}"
    yield "spec:"
    yield "  base: {checkpoint: builtin:emoji-sd}"
    yield "  concepts:"
    for i in range(concepts):
        yield f"    - kind: {KINDS[i % len(KINDS)]}"
        yield f"      phrase: name {i}"
        yield f"      aliases: [other {i}, third {i}]"
        yield f"      keep: [like {i}, near {i}, beside {i}]"
        yield f"      reason: request {i} of a rights holder"
        yield "      labels: [likeness]"


def run() -> None:
    """Prints the median seconds of linting manifests, and of refusing the worst file of the size that is accepted."""
    files = {f"{n:,} concepts": manifest(n) for n in (CONCEPTS // 10, CONCEPTS, CONCEPTS * 5 // 2)}
    files["nothing but commas"] = f"kind: ConceptManifest\nspec: [{'1,' * (MAX_BYTES // 2 - 20)}]\n"
    print(f"lint, median of {REPEATS}; {CONCEPTS:,} concepts must not take more than {LIMIT:.0f} s")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.yaml"
        for name, text in files.items():
            path.write_text(text, encoding="utf-8")
            seconds, busy = map(statistics.median, zip(*(_lint(path) for _ in range(REPEATS)), strict=True))
            print(f"  {name:24} {seconds:6.2f} s  {busy:6.2f} s of CPU  {len(text) / 1024:6.0f} KiB")


def _lint(path: Path) -> tuple[float, float]:
    began, before = time.perf_counter(), time.process_time()
    try:
        lint_file(path)
    except FileProblems as error:
        [problem] = error.problems
        assert problem.rule == "too-many-nodes"
    return time.perf_counter() - began, time.process_time() - before
