"""A CLIP that judges: which of the names that a plan asks for does a picture show, or is it something else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor

from ...errors import InputError
from ...evidence import Instrument
from ...instruments import SURER, ClipRecogniserSpec
from ...model.clip import ZeroShot
from .local import BUILTIN_LICENCE, network_folder, read_preprocessing


class _Axis(NamedTuple):
    """Labels that exclude each other."""

    labels: tuple[str, ...]
    """The first of its texts, label by label; the others are of the reject class."""
    none: str
    """The reject class."""
    vectors: Tensor
    """(texts, d)"""


class ClipJudge:
    """Gives each label of a plan a probability, concepts and styles apart, with a reject class each.

    Each picture goes through by itself, so that its score does not depend on its batch.

    Args:
        spec: The CLIP, the labels, and the texts that stand for them and for anything else.

    Raises:
        InputError: The folder is missing, or a text has more tokens than the CLIP reads.
        RefusedArtefact: The folder is another than the plan pins, or its weights do not fill the model.
    """

    def __init__(self, spec: ClipRecogniserSpec) -> None:
        if spec.clip is None:
            raise InputError("the recogniser is a CLIP, and nobody names one", hint="compile the plan again")
        folder, weights = network_folder(spec.clip)
        self._ready = read_preprocessing(folder)
        self._clip = ZeroShot(folder)
        sorts = {"concept": (spec.concept, spec.other_concepts), "style": (spec.style, spec.other_styles)}
        self._axes = [self._axis(name, *texts, spec.labels) for name, texts in sorts.items()]
        self.instrument = Instrument(
            name=spec.name,
            version=f"CLIPModel, transformers {transformers.__version__}",
            licence=spec.clip.licence or BUILTIN_LICENCE,
            weights_digest=weights,
            labels=tuple(label for axis in self._axes for label in (*axis.labels, axis.none)),
            direction=f"{SURER}, softmax over the texts of concepts and over those of styles",
            preprocessing=str(self._ready),
        )

    def _axis(self, name: str, template: str, others: tuple[str, ...], asked: tuple[str, ...]) -> _Axis:
        labels = tuple(label for label in asked if label.startswith(f"{name}:"))
        texts = [template.replace("{x}", label.partition(":")[2]) for label in labels]
        return _Axis(labels, f"{name}:none", self._clip.text_vectors([*texts, *others]))

    @torch.inference_mode()
    def recognise(self, pixels: np.ndarray) -> list[dict[str, float]]:
        """Scores pictures (B, H, W, 3) uint8 RGB: label -> probability in [0, 1], ``none`` for all other texts."""
        return [self._scores(picture) for picture in pixels]

    def _scores(self, picture: np.ndarray) -> dict[str, float]:
        ready, scores = self._ready(picture)[None], dict[str, float]()
        for axis in self._axes:
            [found] = self._clip.choose(ready, axis.vectors[None]).tolist()
            scores |= dict(zip(axis.labels, found, strict=False))
            scores[axis.none] = sum(found[len(axis.labels) :])
        return scores
