"""``python -m benchmarks.forgetting.profile [PRESET]``: which part of a pass takes how much CPU time."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from fmn_guard.forget import resteer, retain, runner, watch
from fmn_guard.presets import PRESETS

from .scenarios import FULL, SEQUENCE, Scenario, checkpoint, plan_of

PASS = "the rest"
# Where a function is looked up when it is called, its name there, and what it does. Each counts without those it calls.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (runner, "_run_pass", PASS),
    (runner, "_pictures_to_forget", "drawing the name"),
    (runner, "_pictures_of_anchors", "drawing anchors"),
    (runner, "invert", "inversion"),
    (runner, "resteer_as_published", "steps"),
    (retain.RetainedLanguage, "moments", "reading the language"),
    (retain.RetainedLanguage, "nearest", "looking for the words moved most"),
    (resteer._Records, "__init__", "predictions at anchors"),
    (resteer._Records, "read", "reading the name"),
    (resteer, "redirect_holding", "closed form"),
    (resteer._Records, "slope", "steps"),
    (watch.StopWatch, "__init__", "looks"),
    (watch.StopWatch, "still_shown", "looks"),
    (runner, "_stored", "fewer numbers"),
)


class Clock:
    """CPU seconds of each part of each pass.

    Args:
        now: CPU seconds so far.
    """

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self._now = now
        self.passes: list[Counter[str]] = []
        self._called: list[float] = []

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, whose seconds count to a part, but for those of timed functions that it calls."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if part == PASS:
                self.passes.append(Counter())
            began = self._now()
            self._called.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = self._now() - began
                self.passes[-1][part] += spent - self._called.pop()
                if self._called:
                    self._called[-1] += spent

        return call


def main() -> None:
    """Runs passes one after another and prints the seconds of the first, and the median of the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forgetting.profile")
    parser.add_argument("preset", nargs="?", choices=sorted(PRESETS), default="guarded")
    parser.add_argument("--passes", type=int, choices=range(2, len(SEQUENCE) + 1), default=4)
    asked = parser.parse_args()
    base, clock = checkpoint(), Clock()
    scenario = Scenario("profile", SEQUENCE[: asked.passes], seed=9000, whole=True)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as run:
        for place, name, part in PARTS:
            stack.enter_context(patch.object(place, name, clock.timed(getattr(place, name), part)))
        runner.run_plan(plan_of(scenario, FULL, {"preset": asked.preset}, base), base, Path(run))
    first, *others = clock.passes
    later = Counter({part: median(each[part] for each in others) for part in set().union(*clock.passes)})
    print(f"| CPU seconds, `{asked.preset}` | first pass | median of {len(others)} later | share |\n|---|---|---|---|")
    for part, seconds in later.most_common():
        print(f"| {part} | {first[part]:.1f} | {seconds:.1f} | {seconds / later.total():.0%} |")
    print(f"| together | {first.total():.1f} | {later.total():.1f} | |")


if __name__ == "__main__":
    main()
