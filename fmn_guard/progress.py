"""How long work says how far it is. Library code never prints."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; ``what`` names the stage, e.g. ``pass 2/5: pistol``."""


def silent(what: str, done: int, total: int) -> None:
    """Says nothing."""
