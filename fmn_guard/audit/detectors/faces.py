"""Faces and whose they are, by OpenCV's YuNet and SFace; their ONNX files are brought along by the user."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError, MissingDependency
from ...evidence import Instrument, Sighting
from ...instruments import SURER, FacesSpec
from ...record import digest, file_digest
from .local import pinned_file

_FACE = "face"


class Faces:
    """Finds faces, and says how alike each person of a list is to the most similar of them.

    The similarity is the cosine of SFace's features, in [0, 1]; below 0 it counts as 0.

    Args:
        spec: the two networks, their digests, and folders of reference pictures.

    Raises:
        MissingDependency: OpenCV is not installed.
        InputError: a file is missing, or a reference picture does not show exactly one face.
        RefusedArtefact: a network is another than the suite pins.
    """

    def __init__(self, spec: FacesSpec) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingDependency("cv2", "faces") from error
        detector = pinned_file(Path(spec.detector), spec.detector_weights)
        recogniser = pinned_file(Path(spec.recogniser), spec.recogniser_weights)
        try:
            self._finder = cv2.FaceDetectorYN.create(str(detector), "", (320, 320), spec.found_from)
            self._reader = cv2.FaceRecognizerSF.create(str(recogniser), "")
        except cv2.error as error:
            raise InputError("OpenCV cannot read these networks", hint="YuNet and SFace in ONNX are wanted") from error
        self._error = cv2.error
        self._alone = Lock()  # OpenCV's networks hold the size of the picture they look at
        pictures = {name: _pictures(Path(folder), name) for name, folder in spec.people.items()}
        self._people = {name: [self._reference(path, name) for path in paths] for name, paths in pictures.items()}
        self.instrument = Instrument(
            name=spec.called,
            version=f"YuNet and SFace, OpenCV {cv2.__version__}",
            licence=spec.licence,
            weights_digest=digest(
                {
                    "detector": spec.detector_weights,
                    "recogniser": spec.recogniser_weights,
                    "references": {name: [file_digest(path) for path in paths] for name, paths in pictures.items()},
                }
            ),
            labels=(_FACE, *spec.people),
            direction=f"{SURER}; of a face YuNet's score, of a person the cosine similarity",
            preprocessing=f"BGR at its own size; faces from {spec.found_from:g}, aligned to 112x112",
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Faces in a picture (H, W, 3) uint8 RGB, and each person's likeness where there is one, best first."""
        found = self._found(pixels)
        seen = [Sighting(label=_FACE, score=_share(score)) for score, _ in found]
        for name, references in self._people.items():
            likeness = [float(feature @ own) for _, feature in found for own in references]
            if likeness:
                seen.append(Sighting(label=name, score=_share(max(likeness))))
        return tuple(sorted(seen, key=lambda s: (-s.score, s.label)))

    def _found(self, pixels: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Score and unit feature vector of each face."""
        picture = np.ascontiguousarray(pixels[..., ::-1])
        try:
            with self._alone:
                self._finder.setInputSize((picture.shape[1], picture.shape[0]))
                _, faces = self._finder.detect(picture)
                return [(float(face[-1]), self._feature(picture, face)) for face in ([] if faces is None else faces)]
        except self._error as error:
            raise RuntimeError("these networks do not answer as YuNet and SFace do") from error

    def _feature(self, picture: np.ndarray, face: Any) -> np.ndarray:
        feature = np.array(self._reader.feature(self._reader.alignCrop(picture, face)), np.float64).ravel()
        length = float(np.linalg.norm(feature))
        if not np.isfinite(length) or length == 0:
            raise ValueError("SFace's features are no direction")
        return feature / length

    def _reference(self, path: Path, name: str) -> np.ndarray:
        try:
            pixels = np.asarray(Image.open(path, formats=["PNG"]).convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"a reference picture of {name} cannot be read", hint="save it as PNG") from error
        found = self._found(pixels)
        if len(found) != 1:
            raise InputError(
                f"a reference picture of {name} shows {len(found)} faces", hint="give pictures with one face each"
            )
        return found[0][1]


def _pictures(folder: Path, name: str) -> list[Path]:
    if not (found := sorted(folder.glob("*.png"))):
        raise InputError(f"there are no reference pictures of {name}", hint="give a folder of PNG files")
    return found


def _share(score: float) -> float:
    return round(min(1.0, max(0.0, score)), 4)
