"""``python -m benchmarks``: every benchmark, one after another."""

from __future__ import annotations

from . import judging, linting, startup

startup.run()
linting.run()
judging.run()

from . import auditing, smoke_audit  # noqa: E402  # they import torch, beside which nothing else is measured

auditing.run()
smoke_audit.run()
