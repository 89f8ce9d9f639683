"""Models that lie in a local folder: loaded only if they are the ones that the suite pins, fed as they say themselves.

Pictures are made ready here, by Pillow, and not by the model's own image processor: which of a library's processors is
taken depends on what else is installed, and each resizes a little differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import InputError, RefusedArtefact, quoted
from ...instruments import EmbedderSpec
from ...intrusions import refuse_intrusions
from ...jsonfile import read_object
from ...record import Digest, file_digest
from ...shipped import shipped_model

BUILTIN_LICENCE = "Apache-2.0"
"""Licence of the built-in models."""
_WEIGHTS = "model.safetensors"
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_MOST_PIXELS = 2048


def pinned_file(path: Path, stated: Digest) -> Path:
    """A file, if it is the one that the suite states.

    Raises:
        InputError: it is not there.
        RefusedArtefact: it is another.
    """
    if not path.is_file():
        raise InputError(f"there is no file {quoted(path.as_posix())}", hint="paths are taken from where you are")
    if (found := file_digest(path)) != stated:
        raise RefusedArtefact.of(
            path, "other-weights", f"has the digest {found}, the suite pins {stated}", "use the file that was meant"
        )
    return path


def pinned_folder(folder: Path, stated: Digest) -> Path:
    """A transformers folder, if nothing in it can run code and its weights are those that the suite states.

    Raises:
        InputError: there is no such folder, or no weights in it.
        RefusedArtefact: it holds what can run code, or other weights.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {quoted(folder.as_posix())}", hint="paths are taken from where you are")
    refuse_intrusions(folder)
    pinned_file(folder / _WEIGHTS, stated)
    return folder


def network_folder(spec: EmbedderSpec) -> tuple[Path, Digest]:
    """The folder of a network, and the digest of its weights.

    Raises:
        InputError: there is no such folder or built-in model.
        RefusedArtefact: it holds what can run code, or other weights.
    """
    if spec.builtin is not None:
        folder = shipped_model(spec.builtin)
        return folder, file_digest(folder / _WEIGHTS)
    assert spec.weights is not None  # a suite without is refused
    return pinned_folder(Path(spec.folder), spec.weights), spec.weights


@dataclass(frozen=True)
class Preprocessing:
    """What ``preprocessor_config.json`` asks for: resize, crop, scale, normalise, in this order."""

    size: tuple[int, int] | int | None
    """Height and width, or the shorter edge; None resizes nothing."""
    resample: int
    """Pillow's number of the filter."""
    crop: tuple[int, int] | None
    """Height and width that are cut out of the middle."""
    scale: float
    """What a grey level of 0 to 255 is multiplied by."""
    mean: tuple[float, ...]
    """Of each channel; subtracted after scaling."""
    std: tuple[float, ...]
    """Of each channel; divided by."""

    def __str__(self) -> str:
        size = self.size if isinstance(self.size, int | None) else f"{self.size[1]}x{self.size[0]}"
        steps = [f"{_FILTERS[self.resample]} to {size}"] if size else []
        steps += [f"middle {self.crop[1]}x{self.crop[0]}"] if self.crop else []
        numbers = (f"{', '.join(f'{value:g}' for value in values)}" for values in (self.mean, self.std))
        return "; ".join(["RGB", *steps, "times {:g}, mean {}, std {}".format(self.scale, *numbers)])

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Makes a picture (H, W, 3) uint8 RGB ready: (3, height, width) float32."""
        picture = Image.fromarray(pixels)
        if self.size is not None:
            height, width = self._target(picture.height, picture.width)
            picture = picture.resize((width, height), Image.Resampling(self.resample))
        if self.crop is not None:
            height, width = self.crop
            top, left = (picture.height - height) // 2, (picture.width - width) // 2
            picture = picture.crop((left, top, left + width, top + height))
        values = torch.from_numpy(np.array(picture)).float() * self.scale  # (height, width, 3)
        return ((values - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(2, 0, 1).contiguous()

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            assert self.size is not None
            return self.size
        short, long = sorted((height, width))
        longer = int(self.size * long / short)
        return (self.size, longer) if height <= width else (longer, self.size)


def read_preprocessing(folder: Path) -> Preprocessing:
    """Reads ``preprocessor_config.json`` of a ViT-like or CLIP-like model.

    Raises:
        InputError: it is missing.
        RefusedArtefact: it asks for something else than these steps.
    """
    path = folder / "preprocessor_config.json"
    config = read_object(path)
    try:
        return Preprocessing(
            size=_size(config["size"]) if config.get("do_resize", True) else None,
            resample=_filter(config.get("resample", 2)),
            crop=_pair(config["crop_size"]) if config.get("do_center_crop", False) else None,
            scale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
            mean=_channels(config["image_mean"]) if config.get("do_normalize", True) else (0.0,) * 3,
            std=_channels(config["image_std"]) if config.get("do_normalize", True) else (1.0,) * 3,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedArtefact.of(
            path,
            "other-preprocessing",
            f"does not say how pictures are resized, cropped, scaled and normalised: {quoted(str(error))}",
            "of a ViT-like or CLIP-like model it does",
        ) from error


def _size(stated: Any) -> tuple[int, int] | int:
    if isinstance(stated, dict) and set(stated) == {"shortest_edge"}:
        return _edge(stated["shortest_edge"])
    return _pair(stated)


def _pair(stated: Any) -> tuple[int, int]:
    if isinstance(stated, dict):
        if set(stated) != {"height", "width"}:
            raise ValueError(f"a size of {sorted(stated)}")
        return _edge(stated["height"]), _edge(stated["width"])
    return _edge(stated), _edge(stated)


def _edge(stated: Any) -> int:
    if not isinstance(stated, int) or isinstance(stated, bool) or not 1 <= stated <= _MOST_PIXELS:
        raise ValueError(f"an edge of {stated!r} pixels")
    return stated


def _filter(stated: Any) -> int:
    if stated not in _FILTERS:
        raise ValueError(f"resampling {stated!r}")
    return int(stated)


def _channels(stated: Any) -> tuple[float, ...]:
    values = tuple(map(float, stated))
    if len(values) != 3:
        raise ValueError(f"{len(values)} channels")
    return values
