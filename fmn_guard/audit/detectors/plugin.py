"""Somebody else's detector, by an entry point; whatever it does, its pictures are unscored or scored, never safe."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from threading import Lock
from typing import TypeVar

import numpy as np
from pydantic import ValidationError

from ...errors import FmnGuardError, InputError, quoted
from ...evidence import Instrument, Sighting
from ...instruments import PluginSpec

GROUP = "fmn_guard.detectors"
"""Group of entry points, each of which names a callable that takes the suite's options and gives a detector."""

T = TypeVar("T")


class Plugin:
    """A detector that an entry point gives.

    It is called by one thread at a time. What it raises comes out as an error of its own; so does a call of
    ``sys.exit``, which would end an audit with the exit code of a pass.

    Args:
        spec: the entry point and its options.

    Raises:
        InputError: there is no such entry point, or there are several.
        FmnGuardError: it does not load, or does not say who it is.
    """

    def __init__(self, spec: PluginSpec) -> None:
        found = tuple(entry_points(group=GROUP, name=spec.entry_point))
        if len(found) != 1:
            raise InputError(
                f"{len(found)} entry points of {GROUP} are called {quoted(spec.entry_point)}",
                hint="install the one distribution that brings it",
            )
        [point] = found
        self._name, self._alone = spec.called, Lock()
        self._theirs = self._guarded(lambda: point.load()(**spec.options), "does not load")
        stated = self._guarded(lambda: self._theirs.instrument, "does not say who it is")
        try:
            told = Instrument.model_validate(stated.model_dump() if isinstance(stated, Instrument) else stated)
        except ValidationError as error:
            raise FmnGuardError(
                f"detector {spec.called} does not say who it is", hint="see docs/auditing.md"
            ) from error
        came_with = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown"
        self.instrument = told.model_copy(
            update={"name": spec.called, "version": f"{told.version} ({came_with})", "error": None}
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """What it finds in a picture (H, W, 3) uint8 RGB, of which it gets a copy."""
        copy = pixels.copy()
        with self._alone:
            found: tuple[Sighting, ...] = self._guarded(lambda: self._theirs.detect(copy), "failed")
        return found

    def _guarded(self, call: Callable[[], T], what: str) -> T:
        try:
            return call()
        except (Exception, SystemExit) as error:  # somebody else's code: its pictures are unscored, never safe
            raise FmnGuardError(f"detector {self._name} {what}: {type(error).__name__}") from error
