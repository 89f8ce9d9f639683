"""A CLIP in a local transformers folder, asked which of some texts a picture shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import transformers

from ...evidence import Instrument, Sighting
from ...instruments import SURER, ZeroShotSpec
from ...model.clip import ZeroShot
from .local import pinned_folder, read_preprocessing


class ClipZeroShot:
    """Scores the watched texts against each other and against those a picture may show instead.

    Args:
        spec: the folder, its digest, and the texts.

    Raises:
        InputError: the folder is missing, or a text is cut off.
        RefusedArtefact: it is another, or does not fill the model.
    """

    def __init__(self, spec: ZeroShotSpec) -> None:
        folder = pinned_folder(Path(spec.folder), spec.weights)
        self._ready = read_preprocessing(folder)
        self._clip = ZeroShot(folder)
        self._texts = spec.classes
        self._vectors = self._clip.text_vectors((*spec.classes, *spec.others))
        self.instrument = Instrument(
            name=spec.called,
            version=f"CLIPModel, transformers {transformers.__version__}",
            licence=spec.licence,
            weights_digest=spec.weights,
            labels=spec.classes,
            direction=f"{SURER}, softmax over these and {len(spec.others)} other texts",
            preprocessing=str(self._ready),
        )

    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Scores of the watched texts for a picture (H, W, 3) uint8 RGB, best first."""
        [scores] = self._clip.choose(self._ready(pixels)[None], self._vectors[None]).tolist()
        pairs = zip(self._texts, scores, strict=False)  # the other texts come last
        seen = (Sighting(label=text, score=round(score, 4)) for text, score in pairs)
        return tuple(sorted(seen, key=lambda s: (-s.score, s.label)))
