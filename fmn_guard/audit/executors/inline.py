"""Draws and looks in this process, batches side by side on its cores."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, as_completed
from typing import TYPE_CHECKING

from ...plan import Plan
from ...store import Results
from ..drawing import draw_batch, drawing_pool
from ..gaze import attention_of
from ..panel import Panel, unpacked
from . import Job, Models

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
        have = {side: models[side]() for side in dict.fromkeys(j.batch.side for j in jobs if j.pictures is None)}
        drawn = [job for job in jobs if job.batch.purpose == "pictures"]
        if drawn:
            device = next((model.device.type for model in have.values()), "cpu")
            with drawing_pool(plan.sampler.threads, device) as pool:
                waiting = {pool.submit(self._pictures, plan, have.get(j.batch.side), j, keep_images) for j in drawn}
                yield from _as_done(waiting)
        for job in jobs:  # attention is read off the model itself: nothing else may draw with it meanwhile
            if job.batch.purpose == "attention":
                maps = attention_of(plan, have[job.batch.side], job.batch.side, job.batch.probes)
                yield Results(maps=dict(zip(job.keys, maps, strict=True)))

    def _pictures(self, plan: Plan, model: StableDiffusionPipeline | None, job: Job, keep_images: bool) -> Results:
        if job.pictures is not None:
            pixels, digests = unpacked(job.pictures)
        else:
            assert model is not None  # it was loaded for this job
            pixels, digests = draw_batch(plan, model, job.batch.probes)
        return self._panel.look(job.keys, pixels, digests, keep_images=keep_images)


def _as_done(waiting: set[Future[Results]]) -> Iterator[Results]:
    """Results as they come; none is held any longer than that."""
    for future in as_completed(waiting):
        waiting.discard(future)
        yield future.result()
