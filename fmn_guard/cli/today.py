"""The day of judging: commands read the clock, nothing below them does."""

from __future__ import annotations

from datetime import UTC, date, datetime


def today() -> date:
    """The day in UTC, so that a waiver expires everywhere at once."""
    return datetime.now(UTC).date()
