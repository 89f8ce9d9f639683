"""The whole denoiser, edited: what the published algorithm trains, where ours trains cross-attention values alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EditedWeight:
    """A weight of the denoiser that is trained in place: base + edit.

    Args:
        weight: the checkpoint's own, which shows the edit until `restore`.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        self._weight = weight
        self._base = weight.detach().clone()
        self._edit = torch.zeros_like(self._base)
        self._pristine = False

    @property
    def edit(self) -> Tensor:
        """What passes have changed so far."""
        return self._edit

    @edit.setter
    def edit(self, value: Tensor) -> None:
        self._edit = value
        self._show()

    @property
    def pristine(self) -> bool:
        """When set, the edit is left out: the base model speaks."""
        return self._pristine

    @pristine.setter
    def pristine(self, value: bool) -> None:
        self._pristine = value
        self._show()

    @torch.no_grad()
    def settle(self) -> None:
        """Takes what the weight has become for base + edit, so that a patch gives it back to the last bit."""
        self.edit = self._weight - self._base

    @torch.no_grad()
    def restore(self) -> None:
        """Gives the weight its first values back."""
        self._weight.copy_(self._base)

    @torch.no_grad()
    def _show(self) -> None:
        self._weight.copy_(self._base if self._pristine else self._base + self._edit)


@contextmanager
def edited_weights(denoiser: nn.Module) -> Iterator[dict[str, EditedWeight]]:
    """Lets every weight of a UNet or transformer be edited, and gives it back as it was, even on error.

    Yields:
        parameter name -> its edited weight.
    """
    weights = {name: EditedWeight(weight) for name, weight in denoiser.named_parameters()}
    try:
        yield weights
    finally:
        for weight in weights.values():
            weight.restore()
