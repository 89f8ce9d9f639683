"""index.jsonl: every conclusion that was ever drawn in a folder of runs, one line each, chained by digests.

(index.jsonl, run) --append_line--> one line more
index.jsonl --read_index--> lines, or the first broken one

A line that is changed, moved or taken out breaks the chain at the next one; so does every byte of it by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from .errors import BrokenChain, InputError
from .findings import Outcome
from .record import Digest, Record, Slug, canonical_json, digest, write_atomic
from .report import Report

if sys.platform != "win32":
    import fcntl

INDEX = "index.jsonl"


class Conclusion(Record):
    """What a line tells."""

    name: Slug
    """Name of the manifest."""
    folder: str
    """The run folder, beside the index."""
    verdict: Outcome
    """What was concluded."""
    report_digest: Digest
    """Digest of report.json's content."""
    plan_digest: Digest
    """Digest of plan.json's content."""
    previous: Digest | None
    """Digest of the line before; None in the first."""


class Line(Conclusion):
    """One line of an index."""

    digest: Digest
    """Digest of the rest of the line."""


def read_index(path: Path) -> list[Line]:
    """The lines of an index, in order.

    Raises:
        BrokenChain: the first line that is damaged, or does not follow the one before.
        InputError: it is unreadable.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="check its permissions") from error
    lines: list[Line] = []
    for number, text in enumerate(content.splitlines(keepends=True), 1):
        line = _parsed(text)
        if line is None:
            raise _broken(path, number, "is damaged")
        if line.previous != (lines[-1].digest if lines else None):
            raise _broken(path, number, "does not follow the line before")
        lines.append(line)
    return lines


def append_line(run: Path, report: Report) -> bool:
    """Adds what was concluded about a run to the index beside it, unless its last line about it says the same.

    Processes that conclude at the same time add one after the other; readers see whole lines only.

    Returns:
        Whether a line was added.

    Raises:
        BrokenChain: the index is damaged, and nothing is added.
    """
    run = run.resolve()
    path = run.parent / INDEX
    with _alone(run.parent):
        lines = read_index(path) if path.exists() else []
        said = Conclusion(
            name=report.name,
            folder=run.name,
            verdict=report.verdict,
            report_digest=digest(report),
            plan_digest=report.plan_digest,
            previous=lines[-1].digest if lines else None,
        )
        last = _last_about(run, lines)
        if last is not None and last.report_digest == said.report_digest:
            return False
        line = Line(**said.model_dump(), digest=digest(said))
        write_atomic(path, b"".join(canonical_json(each) + b"\n" for each in (*lines, line)))
    return True


def check_index(run: Path, report: Report) -> int | None:
    """Checks the index beside a run, and that its last line about the run tells of this report.

    Returns:
        How many lines it has; None when there is none.

    Raises:
        BrokenChain: the first broken line, or none tells of this report.
    """
    run = run.resolve()
    path = run.parent / INDEX
    if not path.exists():
        return None
    lines = read_index(path)
    last = _last_about(run, lines)
    if last is None or last.report_digest != digest(report):
        raise BrokenChain(
            f"{path} {'says nothing' if last is None else 'tells of another report'} of the run {run.name}",
            hint="`fmn-guard report RUN --policy NAME` adds what is concluded now; lines are never taken out",
        )
    return len(lines)


def _parsed(text: bytes) -> Line | None:
    """A line; None when a byte of it is not as it was written."""
    try:
        line = Line.model_validate_json(text)
    except ValidationError:
        return None
    whole = line.digest == digest(line.model_dump(mode="json", exclude={"digest"}))
    return line if whole and text == canonical_json(line) + b"\n" else None


def _last_about(run: Path, lines: list[Line]) -> Line | None:
    return next((line for line in reversed(lines) if line.folder == run.name), None)


def _broken(path: Path, number: int, what: str) -> BrokenChain:
    return BrokenChain(f"{path}:{number}: this line {what}", hint="restore the index from a copy; ask who edited it")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds other processes off; on Windows, which cannot lock a folder, they must not conclude at the same time."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which unlocks it
