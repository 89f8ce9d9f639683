"""Who draws and looks, and where: in this process, or spread over many. What comes out is the same."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from ...assembly import Batch
from ...plan import Plan
from ...store import Results
from ..stages import Models


class Job(NamedTuple):
    """A batch that something is missing of."""

    batch: Batch
    """The batch."""
    keys: tuple[str, ...]
    """By what the store knows each of its probes."""
    pictures: tuple[bytes | None, ...] | None = None
    """The pictures as PNG where all are known and are only to be looked at, None for each that is not a number; None
    where they have to be drawn."""


class Executor(Protocol):
    """Does jobs."""

    def run(
        self, plan: Plan, models: Models, jobs: Sequence[Job], *, keep_images: bool
    ) -> Generator[Results, None, None]:
        """Does jobs and yields what each gave, as soon as it is done and in any order.

        Args:
            plan: The plan, which fixes batches and threads.
            models: Who draws.
            jobs: What is to be done.
            keep_images: Whether pictures are handed over, to be kept.
        """
        ...
