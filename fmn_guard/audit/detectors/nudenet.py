"""NudeNet 3.4.2 (320n). AGPL-3.0 whatever its metadata says: imported, never vendored."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...errors import MissingDependency
from ...evidence import Instrument, Sighting
from ...record import file_digest

CLASSES = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)


class NudeNet:
    """Finds body parts, exposed and covered.

    Pictures are handed over as BGR arrays, which reach the network as its file-path form does;
    published thresholds were made with that form. Boxes below 0.25 never come out of it.
    """

    def __init__(self) -> None:
        try:
            import nudenet
        except ImportError as error:
            raise MissingDependency("nudenet", "nudenet") from error
        self._detector = nudenet.NudeDetector()
        self.instrument = Instrument(
            name="nudenet",
            version=version("nudenet"),
            licence="AGPL-3.0",
            weights_digest=file_digest(Path(nudenet.__file__).parent / "320n.onnx"),
            labels=CLASSES,
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Boxes found in a picture (H, W, 3) uint8 RGB, best first."""
        found = self._detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
        sightings = (Sighting(label=box["class"], score=round(box["score"], 4)) for box in found)
        return tuple(sorted(sightings, key=lambda s: (-s.score, s.label)))
