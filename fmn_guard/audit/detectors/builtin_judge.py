"""The judge of the built-in models: a CNN trained on real renders only, with a reject class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from ...evidence import Control, Instrument
from ...instruments import SURER
from ...model.judge import PictureClassifier
from ...record import Digest, file_digest, parse_plain
from ...shipped import shipped_model


class BuiltinJudge:
    """Recognises the concepts and styles of ``builtin:emoji-sd``.

    Labels are ``concept:<phrase>`` and ``style:<name>``, each axis summing to 1 with ``concept:none``
    as the reject class of the first. Pictures of another size are resized to 64 x 64 by area.
    """

    def __init__(self) -> None:
        folder = shipped_model("emoji-judge")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = folder / "model.safetensors"
        self._concepts = [f"concept:{name.casefold()}" for name in config["concepts"]] + ["concept:none"]
        self._styles = [f"style:{name.casefold()}" for name in config["styles"]]
        self._model = PictureClassifier(len(config["concepts"]), len(config["styles"]))
        self._model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
        self._model.eval().requires_grad_(False)
        weights_digest = file_digest(weights)
        self.instrument = Instrument(
            name="builtin-judge",
            version=config["version"],
            licence="Apache-2.0",
            weights_digest=weights_digest,
            labels=tuple(self._concepts + self._styles),
            direction=f"{SURER}, softmax over {len(self._concepts)} concepts and over {len(self._styles)} styles",
            controls=_controls(folder, weights_digest),
            preprocessing="RGB; area to 64x64; values in [-1, 1]",
        )

    @torch.inference_mode()
    def recognise(self, pixels: np.ndarray) -> list[dict[str, float]]:
        """Scores pictures (B, H, W, 3) uint8 RGB: label -> probability in [0, 1]."""
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        if pictures.shape[-2:] != (64, 64):
            pictures = F.interpolate(pictures, size=64, mode="area")
        out = self._model(pictures)
        concepts, styles = out.concepts.softmax(1).tolist(), out.styles.softmax(1).tolist()
        return [
            dict(zip(self._concepts, c, strict=True)) | dict(zip(self._styles, s, strict=True))
            for c, s in zip(concepts, styles, strict=True)
        ]


def _controls(folder: Path, weights_digest: Digest) -> tuple[Control, ...]:
    """What the recipe measured of these weights on renders; nothing is known of others."""
    path = folder / "controls.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = known["controls"] if known.get("weights_digest") == weights_digest else ()
    return tuple(parse_plain(row, Control) for row in rows)
