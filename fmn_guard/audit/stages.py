"""The models of an audit: the base, the one that ships, and what stood between passes, lent one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

from ..assembly import Stage
from ..evidence import Side

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class States(Protocol):
    """Who has the weights of a model between its passes; the auditor does not know the eraser."""

    def after(self, base: StableDiffusionPipeline, done: int) -> AbstractContextManager[None]:
        """Lends a base pipeline the weights that it had after so many passes."""


class Models:
    """Who draws; a model is loaded when it is first lent.

    Args:
        base: How the checkpoint that the plan starts from is had.
        patched: How the audited model is had.
        states: Weights between passes; None where nobody looks at them.
    """

    def __init__(
        self,
        base: Callable[[], StableDiffusionPipeline],
        patched: Callable[[], StableDiffusionPipeline],
        states: States | None = None,
    ) -> None:
        self._load: dict[Side, Callable[[], StableDiffusionPipeline]] = {"base": base, "patched": patched}
        self._states = states
        self._loaded: dict[Side, StableDiffusionPipeline] = {}

    @property
    def between(self) -> bool:
        """Whether there are states between passes to look at."""
        return self._states is not None

    @contextmanager
    def lent(self, stage: Stage) -> Iterator[StableDiffusionPipeline]:
        """Lends the model of a stage; between passes it is the base, which draws nothing else meanwhile.

        Args:
            stage: Whose weights.
        """
        side: Side = "base" if stage.done is not None else stage.side
        if side not in self._loaded:
            self._loaded[side] = self._load[side]()
        model = self._loaded[side]
        dressed = self._states.after(model, stage.done) if self._states and stage.done is not None else nullcontext()
        with dressed:
            yield model
