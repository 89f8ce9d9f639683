"""Zero-shot recognition by a CLIP: which of some texts a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from ..errors import InputError, quoted
from .checkpoint import quiet
from .fit import refuse_unfilled


class ZeroShot:
    """A CLIP whose preprocessing is a resize to its size and values in [-1, 1], as the built-in one's is.

    Args:
        folder: a transformers folder with safetensors.

    Raises:
        RefusedArtefact: its weights do not fill the model.
    """

    def __init__(self, folder: Path) -> None:
        with quiet():
            model, loading = CLIPModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            self._model = model.float().eval()
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        refuse_unfilled(folder, loading)
        self._vectors: dict[str, Tensor] = {}

    @torch.inference_mode()
    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of texts, each computed once: (len(texts), d).

        Raises:
            InputError: a text has more tokens than the CLIP reads.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        most = self._model.config.text_config.max_position_embeddings
        for text in new:
            if (tokens := len(self._tokenizer(text).input_ids)) > most:
                raise InputError(f"{quoted(text)} has {tokens} tokens, this CLIP reads {most}", hint="shorten it")
        if new:
            tokens = self._tokenizer(new, padding="max_length", max_length=most, return_tensors="pt").input_ids
            features = self._model.get_text_features(input_ids=tokens).pooler_output
            self._vectors.update(zip(new, F.normalize(features, dim=-1), strict=True))
        return torch.stack([self._vectors[text] for text in texts])

    @torch.inference_mode()
    def choose(self, pictures: Tensor, vectors: Tensor) -> Tensor:
        """Which of its texts each picture shows.

        Args:
            pictures: (B, 3, H, W) in [-1, 1].
            vectors: (B, K, d), from `text_vectors`.

        Returns:
            (B, K), probabilities that sum to 1.
        """
        logits = torch.einsum("bd,bkd->bk", self.picture_vectors(pictures), vectors) * self._model.logit_scale.exp()
        probabilities: Tensor = logits.softmax(-1)
        return probabilities

    @torch.inference_mode()
    def picture_vectors(self, pictures: Tensor) -> Tensor:
        """Unit vectors (B, d) of pictures (B, 3, H, W) in [-1, 1]."""
        size = self._model.config.vision_config.image_size
        pictures = pictures.cpu()
        if pictures.shape[-2:] != (size, size):
            pictures = F.interpolate(pictures, size=size, mode="area")
        return F.normalize(self._model.get_image_features(pixel_values=pictures).pooler_output, dim=-1)
