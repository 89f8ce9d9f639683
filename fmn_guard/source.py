"""Where a manifest stands, so that a finding can point at the line that asked for it.

A place is for people and CI systems to click on. It never enters a digest, and never names a machine's folders.
"""

from __future__ import annotations

import os
from pathlib import Path

from .record import Record, Slug


class Source(Record):
    """A manifest's place, and where each of its concepts and corrections is written."""

    path: str
    """The manifest, with ``/``: from the top of its repository, else from the working directory, else its bare name."""
    lines: dict[Slug, int]
    """Line of each concept's phrase and each correction's prompt, counted from 1."""

    def line_of(self, subject: str | None) -> int:
        """Line of a concept or correction; 1 for what is about the whole manifest."""
        return self.lines.get(subject, 1) if subject else 1


def portable(path: Path) -> str:
    """A path as another machine can use it: see `Source.path`. Bytes that are no UTF-8 become U+FFFD."""
    folder = path.parent.resolve()
    repositories = [top for top in (folder, *folder.parents) if (top / ".git").exists()]  # a file in worktrees
    top = next((top for top in (*repositories, Path.cwd()) if folder.is_relative_to(top)), folder)
    return os.fsencode((folder / path.name).relative_to(top).as_posix()).decode(errors="replace")
