"""Draws and looks with Ray: actors that generate and actors that detect, on this machine or on a cluster.

The calling process alone writes the store, so a worker that is killed takes nothing with it: Ray starts it anew, and
what it was doing is done again. Actors compute on the threads that the plan fixes, to the same pixels as anywhere else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from ...assembly import Stage
from ...errors import FmnGuardError, InputError
from ...evidence import Instrument
from ...plan import Plan
from ...probes import Probe
from ...record import Digest
from ...store import Head, Results
from ..drawing import draw_batch
from ..gaze import attention_of
from ..panel import Panel, unpacked
from ..stages import Models
from . import Job

_Drawn = tuple[np.ndarray, list[Digest | None]]

_RETRIES = 3  # of a batch whose worker died
_AHEAD = 2  # jobs that a generating actor is given at once, so that it never waits for the next
_OBJECT_STORE = 256 * 2**20  # bytes of pictures between actors of a local Ray
_PATIENCE = 120  # seconds that parts of a local Ray may take to start, which on a busy machine are more than its own 15


class OnRay:
    """Spreads jobs over the actors of a Ray cluster.

    Every worker needs fmn-guard with the same extras, and finds checkpoints at the same paths as this process.

    Args:
        head: What the audit is of: workers must have the same instruments, and draw on devices of this sort.
        address: The cluster's; None starts a local one, for as long as it is needed.
    """

    def __init__(self, head: Head, address: str | None = None) -> None:
        self._head, self._address = head, address

    def run(
        self, plan: Plan, models: Models, jobs: Sequence[Job], *, keep_images: bool
    ) -> Generator[Results, None, None]:
        """Does jobs; see `Executor`.

        Raises:
            FmnGuardError: Ray did not start or broke off, or a batch killed its worker again and again.
            InputError: The cluster is not there, has no device to draw on, or has other instruments.
        """
        if not jobs:
            return
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        with _connected(self._address, plan.sampler.threads):
            try:
                fleet = _Fleet(plan, models, self._head.device, keep_images=keep_images)
                fleet.check(self._head.instruments)
                waiting, pending = iter(jobs), dict[Any, int]()
                free = [i for i in range(fleet.size) for _ in range(_AHEAD)]
                while True:
                    for job in islice(waiting, len(free)):
                        to = free.pop(0)
                        pending[fleet.submit(to, job)] = to
                    if not pending:
                        return
                    [done], _ = ray.wait(list(pending), num_returns=1)
                    free.append(pending.pop(done))
                    yield ray.get(done)
            except RayTaskError as error:
                if isinstance(error.cause, FmnGuardError):
                    raise error.cause from error
                raise
            except RayActorError as error:
                raise FmnGuardError(
                    f"a Ray worker died {_RETRIES + 1} times over one batch",
                    hint="give workers more memory; what was done is kept, and the same command goes on",
                ) from error
            except RayError as error:
                raise FmnGuardError(
                    f"Ray broke off: {_said(error)}", hint="what was done is kept, and the same command goes on"
                ) from error


class _Fleet:
    """Actors that generate, and as many that detect; both come back when they are killed."""

    def __init__(self, plan: Plan, models: Models, device: str, *, keep_images: bool) -> None:
        import ray

        threads, there = plan.sampler.threads, ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(there.get("GPU", 0))
        if device == "cuda" and not gpus:
            raise InputError("the Ray cluster has no GPU", hint="use --device cpu, or a cluster with GPUs")
        # A core of each is left to who looks at its pictures: that is at least as much work in a small model.
        self.size = gpus if device == "cuda" else max(1, int(there["CPU"]) // (threads + 1))
        lasting = {"max_restarts": -1, "max_task_retries": _RETRIES}
        draws: Any = ray.remote(_Generator).options(num_cpus=threads, num_gpus=int(device == "cuda"), **lasting)
        looks: Any = ray.remote(_Detector).options(num_cpus=0, **lasting)
        self._generators: list[Any] = [draws.remote(plan, models) for _ in range(self.size)]
        self._detectors: list[Any] = [looks.remote(plan, keep_images) for _ in range(self.size)]

    def check(self, instruments: tuple[Instrument, ...]) -> None:
        """Refuses workers that would measure with something else than what the audit says."""
        import ray

        for found in ray.get([each.instruments.remote() for each in self._detectors]):
            for here, there in zip(instruments, found, strict=True):
                if here != there:
                    raise InputError(
                        f"a Ray worker has another {here.name} than this process: {there.error or there.version}",
                        hint="install the same versions and extras on every machine",
                    )

    def submit(self, to: int, job: Job) -> Any:
        """Gives a job to one of the actors, and the reference of its results."""
        draws, looks = self._generators[to], self._detectors[to]
        stage, purpose, probes = job.batch
        if purpose == "attention":
            return draws.attention.remote(job.keys, stage, probes)
        if job.pictures is not None:
            return looks.look_again.remote(job.keys, job.pictures)
        return looks.look.remote(job.keys, draws.draw.remote(stage, probes))  # pictures go from worker to worker


class _Generator:
    """Draws, in a process of its own."""

    def __init__(self, plan: Plan, models: Models) -> None:
        self._plan, self._models = plan, models
        _compute_on(plan.sampler.threads)

    def draw(self, stage: Stage, probes: tuple[Probe, ...]) -> _Drawn:
        with self._models.lent(stage) as model:
            return draw_batch(self._plan, model, probes)

    def attention(self, keys: Sequence[str], stage: Stage, probes: tuple[Probe, ...]) -> Results:
        with self._models.lent(stage) as model:
            maps = attention_of(self._plan, model, stage.side, probes)
        return Results(maps=dict(zip(keys, maps, strict=True)))


class _Detector:
    """Looks, in a process of its own."""

    def __init__(self, plan: Plan, keep_images: bool) -> None:
        self._panel, self._keep_images = Panel(plan), keep_images
        _compute_on(plan.sampler.threads)

    def instruments(self) -> tuple[Instrument, ...]:
        return self._panel.instruments

    def look(self, keys: Sequence[str], drawn: _Drawn) -> Results:
        return self._panel.look(keys, *drawn, keep_images=self._keep_images)

    def look_again(self, keys: Sequence[str], pictures: Sequence[bytes | None]) -> Results:
        return self.look(keys, unpacked(pictures))


def _compute_on(threads: int) -> None:
    """For good, since the process is the actor's own."""
    import torch

    torch.set_num_threads(threads)


def _said(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _connected(address: str | None, threads: int) -> Iterator[None]:
    """Is connected to a cluster, or to one that is started for the purpose; one that the caller has is left alone."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # an audit tells nobody of itself
    own = {
        "address": "local",
        "num_cpus": max(os.cpu_count() or 1, threads),
        "object_store_memory": _OBJECT_STORE,
        "include_dashboard": False,
        "_system_config": {"agent_register_timeout_ms": 1000 * _PATIENCE, "raylet_start_wait_time_s": _PATIENCE},
    }
    try:
        ray.init(**({"address": address} if address else own), log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray tells of a start that failed by bare ones, too
        if address:
            raise InputError(f"no Ray cluster at {address}: {_said(error)}", hint="see `ray status` there") from error
        raise FmnGuardError(
            f"Ray did not start on this machine: {_said(error)}",
            hint="where other programs are busy it may give up: give the same command again, which goes on where it "
            "was, or leave out --executor ray",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
