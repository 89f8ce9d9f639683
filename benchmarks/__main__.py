"""``python -m benchmarks``: every benchmark, one after another."""

from __future__ import annotations

from . import startup

startup.run()
