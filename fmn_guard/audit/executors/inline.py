"""Draws and looks in this process, batches side by side on its cores."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import nullcontext
from typing import TYPE_CHECKING

from ...plan import Plan
from ...store import Results
from ..drawing import draw_batch, drawing_pool
from ..gaze import attention_of
from ..panel import Panel, unpacked
from ..stages import Models
from . import Job

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class Inline:
    """The default executor.

    Args:
        panel: Who looks.
    """

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def run(
        self, plan: Plan, models: Models, jobs: Sequence[Job], *, keep_images: bool
    ) -> Generator[Results, None, None]:
        """Does jobs; see `Executor`."""
        for stage in dict.fromkeys(job.batch.stage for job in jobs):
            asked = [job for job in jobs if job.batch.stage == stage]
            draws = any(job.pictures is None for job in asked)
            with models.lent(stage) if draws else nullcontext() as model:
                yield from self._of_stage(plan, model, asked, keep_images)

    def _of_stage(
        self, plan: Plan, model: StableDiffusionPipeline | None, jobs: Sequence[Job], keep_images: bool
    ) -> Iterator[Results]:
        pictured = [job for job in jobs if job.batch.purpose == "pictures"]
        with drawing_pool(plan.sampler.threads, model.device.type if model else "cpu") as pool:
            waiting = {pool.submit(self._pictures, plan, model, job, keep_images) for job in pictured}
            yield from _as_done(waiting)
        for job in jobs:  # attention is read off the model itself: nothing else may draw with it meanwhile
            if job.batch.purpose == "attention":
                assert model is not None  # it is lent to whoever draws
                maps = attention_of(plan, model, job.batch.stage.side, job.batch.probes)
                yield Results(maps=dict(zip(job.keys, maps, strict=True)))

    def _pictures(self, plan: Plan, model: StableDiffusionPipeline | None, job: Job, keep_images: bool) -> Results:
        if job.pictures is not None:
            pixels, digests = unpacked(job.pictures)
        else:
            assert model is not None  # it is lent to whoever draws
            pixels, digests = draw_batch(plan, model, job.batch.probes)
        return self._panel.look(job.keys, pixels, digests, keep_images=keep_images)


def _as_done(waiting: set[Future[Results]]) -> Iterator[Results]:
    """Results as they come; none is held any longer than that."""
    for future in as_completed(waiting):
        waiting.discard(future)
        yield future.result()
