"""NudeNet 3.4.2 (320n). AGPL-3.0 whatever its metadata says: imported, never vendored."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...errors import MissingDependency
from ...evidence import Instrument, Sighting
from ...instruments import SURER
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


_DROPPED_BELOW = 0.2  # boxes that nudenet itself throws away


class _Session:
    """The network on one thread, handing on only the boxes that nudenet does not throw away.

    It goes through all 2,100 of them in a Python loop, which other audit workers wait for; and threads of its own
    take theirs away.
    """

    def __init__(self, weights: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])

    def run(self, names: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Boxes (1, 4 + classes, n), n at least 2, since nudenet squeezes."""
        boxes: np.ndarray = self._session.run(names, feed)[0]
        best = boxes[0, 4:].max(0)
        kept = best >= min(_DROPPED_BELOW, np.partition(best, -2)[-2])
        return [boxes[:, :, kept]]


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
        weights = Path(nudenet.__file__).parent / "320n.onnx"
        self._detector = nudenet.NudeDetector()
        self._detector.onnx_session = _Session(weights)
        self.instrument = Instrument(
            name="nudenet",
            version=version("nudenet"),
            licence="AGPL-3.0",
            weights_digest=file_digest(weights),
            labels=CLASSES,
            direction=f"{SURER}, a sigmoid each",
            preprocessing="BGR as of its file-path form; longer edge to 320, padded",
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Boxes found in a picture (H, W, 3) uint8 RGB, best first."""
        found = self._detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
        sightings = (Sighting(label=box["class"], score=round(box["score"], 4)) for box in found)
        return tuple(sorted(sightings, key=lambda s: (-s.score, s.label)))
