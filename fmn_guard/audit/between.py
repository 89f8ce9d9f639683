"""Looks at the model between passes: is what was forgotten still gone, and what is retained still there?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from ..evidence import Between, Observation
from ..plan import Plan
from ..probes import Probe

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class States(Protocol):
    """Who has the weights of a model between its passes; the auditor does not know the eraser."""

    def after(self, base: StableDiffusionPipeline, done: int) -> AbstractContextManager[None]:
        """Lends a base pipeline the weights that it had after so many passes."""


class Observe(Protocol):
    """Who draws and looks."""

    def __call__(self, stage: str, model: StableDiffusionPipeline, probes: Sequence[Probe]) -> Sequence[Observation]:
        """Draws probes with a model and looks at them; the stage names these pictures among others of the probes."""


def look_between(plan: Plan, base: StableDiffusionPipeline, states: States, observe: Observe) -> Iterator[Between]:
    """Observes what the plan asks for after each pass but the last.

    Args:
        plan: From `compile_plan`.
        base: The checkpoint that the plan starts from; it has its own weights again afterwards.
        states: Its weights after each pass.
        observe: Who draws and looks.
    """
    probes = {probe.id: probe for probe in plan.probes}
    for done, ids in enumerate(plan.between, start=1):
        with states.after(base, done):
            seen = observe(f"after-{done}", base, [probes[each] for each in ids])
        yield Between(after=done, observations=tuple(seen))
