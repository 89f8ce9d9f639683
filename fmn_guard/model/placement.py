"""Where a model computes, and in which precision its frozen weights are held."""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]
"""Of the denoiser and the text encoders. Edits, noise and the autoencoder are float32 whatever it is."""


def available_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto``: CUDA, else MPS, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(name)
    missing = (device.type == "cuda" and not (cuda and (device.index or 0) < torch.cuda.device_count())) or (
        device.type == "mps" and not mps
    )
    if missing:
        here = [f"cuda:{i}" for i in range(torch.cuda.device_count() if cuda else 0)] + ["mps"] * mps + ["cpu"]
        raise InputError(
            f"no device {name!r}: PyTorch {torch.__version__} finds {', '.join(here)}",
            hint="--device auto takes the fastest there is; for a GPU, install a PyTorch that is built for it",
        )
    return device


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision: on the device where it can, else on the CPU."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
