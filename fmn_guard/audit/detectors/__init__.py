"""Who looks at pictures. A recogniser says what they show, a detector what is in them.

Whatever one of them gives is checked before it is noted: what is no score leaves a picture unscored, never safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Protocol, assert_never

import numpy as np

from ...evidence import Instrument, Sighting
from ...instruments import (
    AnyRecogniserSpec,
    ClassifierSpec,
    ClipRecogniserSpec,
    DetectorSpec,
    FacesSpec,
    NudeNetSpec,
    OpenNsfwSpec,
    PluginSpec,
    RecogniserSpec,
    ZeroShotSpec,
)

_ROUNDING = 1e-6  # by which probabilities in single precision leave [0, 1]


class Recogniser(Protocol):
    """Gives every label it knows a probability."""

    instrument: Instrument
    """Name, version, licence, weights, labels, direction and preprocessing, for the report."""

    def recognise(self, pixels: np.ndarray) -> list[dict[str, float]]:
        """Scores pictures (B, H, W, 3) uint8 RGB: label -> probability in [0, 1], ``none`` for the reject class."""
        ...


class Detector(Protocol):
    """Finds things in one picture."""

    instrument: Instrument
    """Name, version, licence, weights, labels, direction and preprocessing, for the report."""

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Boxes found in a picture (H, W, 3) uint8 RGB, best first; scores in [0, 1], higher is surer.

        What looks at whole pictures gives one for each class it watches.
        """
        ...


def load_recogniser(spec: AnyRecogniserSpec) -> Recogniser:
    """Loads the recogniser that a plan names.

    Raises:
        FmnGuardError: its files are missing, or others than the plan pins.
    """
    match spec:
        case RecogniserSpec():
            from .builtin_judge import BuiltinJudge

            return BuiltinJudge()
        case ClipRecogniserSpec():
            from .clip_judge import ClipJudge

            return ClipJudge(spec)
        case _:
            assert_never(spec)


def load_detector(spec: DetectorSpec) -> Detector:
    """Loads a detector that a suite names.

    Raises:
        FmnGuardError: it cannot be had: its extra is not installed, its files are missing or others than the suite
            pins, or it is somebody else's and does not load, for whatever reason.
    """
    match spec:
        case NudeNetSpec():
            from .nudenet import NudeNet

            return NudeNet()
        case OpenNsfwSpec():
            from .opennsfw import OpenNsfw

            return OpenNsfw()
        case ClassifierSpec():
            from .image_classifier import ImageClassifier

            return ImageClassifier(spec)
        case ZeroShotSpec():
            from .zero_shot import ClipZeroShot

            return ClipZeroShot(spec)
        case FacesSpec():
            from .faces import Faces

            return Faces(spec)
        case PluginSpec():
            from .plugin import Plugin

            return Plugin(spec)
        case _:
            assert_never(spec)


def checked_sightings(found: object, known: Sequence[str]) -> tuple[Sighting, ...]:
    """What a detector found, if that is what the protocol says.

    Args:
        found: What it gave.
        known: Labels that it can give.

    Raises:
        TypeError: it is no sequence of sightings.
        ValueError: a score is not a number in [0, 1], or a label is none of its own.
    """
    if not isinstance(found, tuple | list) or not all(isinstance(each, Sighting) for each in found):
        raise TypeError("a detector gives a tuple of sightings")
    for each in found:
        if not _is_probability(each.score) or each.label not in known:
            raise ValueError(f"{each.label!r} with score {each.score!r} is no sighting")
    return tuple(found)


def _is_probability(score: object) -> bool:
    # numpy's single-precision numbers are no floats of Python's, yet are numbers
    if isinstance(score, bool) or not isinstance(score, float | int | np.floating):
        return False
    return isfinite(score) and -_ROUNDING <= float(score) <= 1 + _ROUNDING
