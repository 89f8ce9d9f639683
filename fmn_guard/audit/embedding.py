"""Networks that make a vector of a picture, by which `fmn_guard.audit.distances` compares base and patched model.

Each picture goes through by itself: what a batch holds beside it would change its last bits, and a store keeps vectors
of pictures, not of batches.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Protocol

import numpy as np
import torch
import transformers

from ..evidence import Instrument
from ..instruments import EmbedderSpec
from ..model.checkpoint import quiet
from ..model.clip import ZeroShot
from ..model.fit import refuse_unfilled
from ..record import Digest
from .detectors.local import BUILTIN_LICENCE, network_folder, read_preprocessing


class Embedder(Protocol):
    """Makes vectors of pictures."""

    instrument: Instrument
    """Name, version, licence, weights and preprocessing, for the report."""

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """The vector (d,) float32 of a picture (H, W, 3) uint8 RGB."""
        ...


class ClipVectors:
    """Unit vectors of pictures and prompts by a CLIP.

    Args:
        spec: The folder or built-in model.

    Raises:
        InputError: The folder or built-in model is missing.
        RefusedArtefact: It is another, or does not fill the model.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        folder, weights = network_folder(spec)
        self._ready = read_preprocessing(folder)
        self._clip = ZeroShot(folder)
        self.instrument = _instrument(spec, weights, "CLIPModel", "unit vectors, compared by cosine", str(self._ready))

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """The unit vector (d,) float32 of a picture (H, W, 3) uint8 RGB."""
        return np.asarray(self._clip.picture_vectors(self._ready(pixels)[None])[0])

    def text(self, prompt: str) -> np.ndarray:
        """The unit vector (d,) float32 of a prompt.

        Raises:
            InputError: It has more tokens than the CLIP reads.
        """
        return np.asarray(self._clip.text_vectors([prompt])[0])


class FeatureVectors:
    """What goes into the last layer of an image classifier: its pooled output, or that of its class token.

    Args:
        spec: The folder.

    Raises:
        InputError: The folder is missing.
        RefusedArtefact: It is another, or does not fill the model.
    """

    def __init__(self, spec: EmbedderSpec) -> None:
        folder, weights = network_folder(spec)
        self._ready = read_preprocessing(folder)
        with quiet():
            model, loading = transformers.AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
        refuse_unfilled(folder, loading)
        self._body = model.base_model.float().eval().requires_grad_(False)
        self.instrument = _instrument(
            spec, weights, type(model).__name__, "what goes into the last layer", str(self._ready)
        )

    @torch.inference_mode()
    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """The features (d,) float32 of a picture (H, W, 3) uint8 RGB."""
        out = self._body(pixel_values=self._ready(pixels)[None])
        pooled = out.pooler_output if getattr(out, "pooler_output", None) is not None else out.last_hidden_state[:, 0]
        return np.asarray(pooled.flatten())


def load_embedder(spec: EmbedderSpec, *, texts: bool) -> Embedder:
    """Loads a network that a suite names.

    Args:
        spec: The network.
        texts: Whether it has to read prompts as well, as a CLIP does.
    """
    return ClipVectors(spec) if texts else FeatureVectors(spec)


def packed(vector: np.ndarray) -> str:
    """A vector as the store keeps it.

    Raises:
        ValueError: It holds what is not a number.
    """
    if not np.isfinite(vector).all():
        raise ValueError("a vector that is not a number")
    return b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _instrument(spec: EmbedderSpec, weights: Digest, model: str, direction: str, preprocessing: str) -> Instrument:
    return Instrument(
        name=spec.called,
        version=f"{model}, transformers {transformers.__version__}",
        licence=spec.licence or BUILTIN_LICENCE,
        weights_digest=weights,
        labels=(),
        direction=direction,
        preprocessing=preprocessing,
    )
