"""Who looks at pictures. A recogniser says what they show, a detector what is in them."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ...evidence import Instrument, Sighting
from ...suite import DetectorSpec, RecogniserSpec


class Recogniser(Protocol):
    """Gives every label it knows a probability."""

    instrument: Instrument
    """Name, version, licence and weights, for the report."""

    def recognise(self, pixels: np.ndarray) -> list[dict[str, float]]:
        """Scores pictures (B, H, W, 3) uint8 RGB: label -> probability in [0, 1], ``none`` for the reject class."""
        ...


class Detector(Protocol):
    """Finds things in one picture."""

    instrument: Instrument
    """Name, version, licence and weights, for the report."""

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Boxes found in a picture (H, W, 3) uint8 RGB, best first; scores in [0, 1], higher is surer."""
        ...


def load_recogniser(spec: RecogniserSpec) -> Recogniser:
    """Loads the recogniser that a suite names."""
    from .builtin_judge import BuiltinJudge

    match spec.name:
        case "builtin-judge":
            return BuiltinJudge()


def load_detector(spec: DetectorSpec) -> Detector:
    """Loads a detector that a suite names.

    Raises:
        MissingDependency: its extra is not installed.
    """
    match spec.name:
        case "nudenet":
            from .nudenet import NudeNet

            return NudeNet()
