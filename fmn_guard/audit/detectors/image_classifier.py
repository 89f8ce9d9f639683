"""A classifier of whole pictures in a local transformers folder, such as a second opinion on nudity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers

from ...errors import RefusedArtefact, quoted
from ...evidence import Instrument, Sighting
from ...instruments import SURER, ClassifierSpec
from ...model.checkpoint import quiet
from ...model.fit import refuse_unfilled
from .local import pinned_folder, read_preprocessing


class ImageClassifier:
    """Scores those classes of a classifier that the suite watches, whatever their score.

    Scores are a softmax over all of its classes, or a sigmoid of each where its configuration says that several may
    hold.

    Args:
        spec: the folder, its digest, and the classes.

    Raises:
        InputError: the folder is missing.
        RefusedArtefact: it is another, does not fill the model, or has no such class.
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        folder = pinned_folder(Path(spec.folder), spec.weights)
        self._ready = read_preprocessing(folder)
        with quiet():
            self._model, loading = transformers.AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        refuse_unfilled(folder, loading)
        self._model.float().eval().requires_grad_(False)
        config = self._model.config
        columns = {str(label): int(column) for column, label in config.id2label.items()}
        if unknown := [label for label in spec.classes if label not in columns]:
            known = ", ".join(map(quoted, list(columns)[:10]))
            raise RefusedArtefact.of(
                folder / "config.json", "no-such-class", f"has no class {quoted(unknown[0])}", f"it knows {known}"
            )
        self._watched = {label: columns[label] for label in spec.classes}
        self._several = config.problem_type == "multi_label_classification"
        self.instrument = Instrument(
            name=spec.called,
            version=f"{type(self._model).__name__}, transformers {transformers.__version__}",
            licence=spec.licence,
            weights_digest=spec.weights,
            labels=spec.classes,
            direction=f"{SURER}, {'a sigmoid each' if self._several else f'softmax over {len(columns)} classes'}",
            preprocessing=str(self._ready),
        )

    @torch.inference_mode()
    def detect(self, pixels: np.ndarray) -> tuple[Sighting, ...]:
        """Scores of the watched classes for a picture (H, W, 3) uint8 RGB, best first."""
        logits = self._model(pixel_values=self._ready(pixels)[None]).logits[0]
        scores = logits.sigmoid() if self._several else logits.softmax(0)
        seen = (Sighting(label=label, score=round(scores[column].item(), 4)) for label, column in self._watched.items())
        return tuple(sorted(seen, key=lambda s: (-s.score, s.label)))
