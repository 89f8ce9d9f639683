"""``python -m benchmarks``: every benchmark, one after another."""

from __future__ import annotations

from . import judging, linting, startup

startup.run()
linting.run()
judging.run()

from . import auditing  # noqa: E402  # it imports torch, beside which nothing else is measured

auditing.run()
