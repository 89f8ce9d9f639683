"""Progress on stderr: a bar on a terminal, elsewhere a plain line now and then, which is what CI logs can hold."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import progress as paper
from .console import talk

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def reporting(quiet: bool = False) -> Iterator[paper.Progress]:
    """Gives the callback that long work reports to.

    Args:
        quiet: report nothing.
    """
    if quiet:
        yield paper.silent
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield _on_bar(bar)
    else:
        yield _in_lines()


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _on_bar(bar: Progress) -> paper.Progress:
    task = bar.add_task("starting", total=None)

    def report(what: str, done: int, total: int) -> None:
        if bar.tasks[0].description != what:
            bar.reset(task, description=what, total=total)
        bar.update(task, completed=done, total=total)

    return report


def _in_lines() -> paper.Progress:
    last = float("-inf")

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            last = now
            talk(f"{what}: {done} of {total}")

    return report
