"""``python -m benchmarks``: every benchmark, one after another."""

from __future__ import annotations

from . import auditing, startup

startup.run()
auditing.run()
