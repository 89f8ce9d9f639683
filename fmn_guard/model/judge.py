"""The built-in judging classifier: which concept a 64 x 64 picture shows, or none, and in which style."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Logits(NamedTuple):
    """Scores before softmax.

    Attributes:
        concepts: (B, concepts + 1); the last column is the reject class.
        styles: (B, styles).
    """

    concepts: Tensor
    styles: Tensor


def _block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class PictureClassifier(nn.Module):
    """A plain CNN, about 0.7 million parameters.

    Args:
        concepts: number of known concepts; one reject class is added.
        styles: number of known styles.
    """

    def __init__(self, concepts: int, styles: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(3, 32, 2),
            _block(32, 64, 1),
            _block(64, 64, 2),
            _block(64, 96, 1),
            _block(96, 128, 2),
            _block(128, 160, 1),
            _block(160, 192, 2),
        )
        self.concept_head = nn.Linear(192 * 2, concepts + 1)
        self.style_head = nn.Linear(192 * 2, styles)

    def forward(self, pictures: Tensor) -> Logits:
        """Scores pictures (B, 3, 64, 64) in [-1, 1]."""
        maps = self.body(pictures).flatten(2)  # (B, 192, 16)
        features = torch.cat([maps.mean(2), maps.amax(2)], 1)
        return Logits(self.concept_head(features), self.style_head(features))
