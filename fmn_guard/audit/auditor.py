"""Draws base and patched pictures from the same probes and seeds, and notes what is seen in each.

Fails closed: a picture that is constant or not a number, or that breaks the recogniser or a detector, is
recorded as unscored, with the reason; it is never dropped and never counted as safe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ..errors import FmnGuardError
from ..evidence import Audit, Instrument, Observation, Side, Sighting
from ..matrix import pass_matrix
from ..metrics import STRICT_CLASSES, gather
from ..model.sampler import decode, draw_latents, threads, to_pixels
from ..plan import Plan
from ..probes import Probe
from ..progress import Progress, silent
from ..record import Digest, Record, bytes_digest, digest, write_record
from .between import States, look_between
from .detectors import (
    Detector,
    Recogniser,
    checked_scores,
    checked_sightings,
    load_detector,
    load_recogniser,
)
from .gaze import attention_maps

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Standard deviation of all pixel values, in grey levels, below which a picture is constant.
_CONSTANT = 2.0
_MOST_WORKERS = 4  # each holds a batch in memory


def run_audit(
    plan: Plan,
    base: StableDiffusionPipeline,
    patched: StableDiffusionPipeline,
    *,
    patched_digest: Digest,
    passes_digest: Digest | None,
    out: Path,
    states: States | None = None,
    keep_images: bool = True,
    progress: Progress = silent,
) -> Audit:
    """Measures every probe of a plan on both models, and some between passes.

    Killed at any moment, the same call goes on after the last finished batch. Batches are drawn side by side on
    as many cores as there are, to the same pictures.

    Args:
        plan: from `compile_plan`.
        base: the checkpoint the plan starts from.
        patched: the artefact that ships, reloaded from disk.
        patched_digest: its identity.
        passes_digest: digest of passes.json, None for a checkpoint fmn-guard did not make.
        out: run folder; receives ``audit.json`` and, when wanted, ``images/<side>/<probe>.png``; what is drawn between
            passes is on a side of its own, ``after-<passes>``.
        states: the model after each pass; without, nothing is looked at between passes.
        keep_images: whether to write the pictures.
        progress: told after each batch.
    """
    panel = Panel(plan)
    ledger = _Ledger(out, {"plan": plan.digest, "patched": patched_digest, "panel": panel.digest})
    images = out / "images" if keep_images else None
    sides: tuple[tuple[Side, StableDiffusionPipeline], ...] = (("base", base), ("patched", patched))

    def observe(stage: str, model: StableDiffusionPipeline, probes: Sequence[Probe]) -> list[Observation]:
        return _observe_all(plan, stage, model, probes, panel, ledger, images, progress)

    observations = [seen for side, model in sides for seen in observe(side, model, plan.probes)]
    result = Audit(
        plan_digest=plan.digest,
        passes_digest=passes_digest,
        patched_digest=patched_digest,
        instruments=panel.instruments,
        observations=tuple(observations),
        attention=tuple(seen for side, model in sides for seen in attention_maps(plan, model, side)),
        between=tuple(look_between(plan, base, states, observe)) if states else (),
    )
    result = result.model_copy(update={"matrix": pass_matrix(gather(plan, result), result.between)})
    write_record(out / "audit.json", result)
    ledger.close()
    return result


def batches_of(plan: Plan, probes: Sequence[Probe] | None = None) -> list[tuple[Probe, ...]]:
    """Probes as they are drawn, all of a plan by default: who else is in a batch changes the last bits of a picture."""
    size, drawn = plan.sampler.batch, tuple(plan.probes if probes is None else probes)
    return [drawn[start : start + size] for start in range(0, len(drawn), size)]


@contextmanager
def drawing_pool(threads_each: int, device: str) -> Iterator[ThreadPoolExecutor]:
    """Workers for batches, as many as the cores allow: what a batch gives depends on its own threads alone."""
    cores = (os.cpu_count() or 1) if device == "cpu" else 1
    workers = min(max(1, cores // threads_each), _MOST_WORKERS)
    with (
        threads(threads_each),
        # torch counts threads for each thread that calls it
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads_each,)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def draw_batch(
    plan: Plan, model: StableDiffusionPipeline, probes: tuple[Probe, ...]
) -> tuple[np.ndarray, list[Digest | None]]:
    """Draws a batch.

    Args:
        plan: the plan.
        model: either model.
        probes: one of `batches_of` the plan.

    Returns:
        Pixels (B, H, W, 3) uint8, and the digest of each picture's; None where it is not a number.
    """
    latents = draw_latents(model, [p.prompt for p in probes], [p.seed for p in probes], plan.sampler)
    pictures = decode(model, latents)
    broken = (~pictures.isfinite()).flatten(1).any(1).tolist()
    pixels = to_pixels(pictures.nan_to_num())
    digests = [None if bad else bytes_digest(p.tobytes()) for p, bad in zip(pixels, broken, strict=True)]
    return pixels, digests


def _observe_all(
    plan: Plan,
    stage: str,
    model: StableDiffusionPipeline,
    probes: Sequence[Probe],
    panel: Panel,
    ledger: _Ledger,
    images: Path | None,
    progress: Progress,
) -> list[Observation]:
    """Draws and looks at those batches that the ledger does not have."""
    observations: list[Observation] = []
    batches = batches_of(plan, probes)
    with drawing_pool(plan.sampler.threads, model.device.type) as pool:
        drawn = {
            i: pool.submit(_observe, plan, model, stage, batch, panel, images)
            for i, batch in enumerate(batches)
            if ledger.get(stage, batch) is None
        }
        for i, batch in enumerate(batches):
            seen = ledger.get(stage, batch)
            if seen is None:
                seen = drawn[i].result()
                ledger.add(stage, seen)
            observations += seen
            progress(f"auditing: {stage}", len(observations), len(probes))
    return observations


def _observe(
    plan: Plan,
    model: StableDiffusionPipeline,
    stage: str,
    probes: tuple[Probe, ...],
    panel: Panel,
    images: Path | None,
) -> list[Observation]:
    """Draws a batch and looks at it; of any stage but the base's, it is of the patched side."""
    side: Side = "base" if stage == "base" else "patched"
    pixels, digests = draw_batch(plan, model, probes)
    scores = panel.recognise(pixels)
    observations = []
    for i, probe in enumerate(probes):
        seen = panel.observe(probe, side, pixels[i], digests[i], scores[i])
        if images is not None and seen.image_digest is not None and not _explicit(seen):
            path = images / stage / probe.picture_name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(path)
        observations.append(seen)
    return observations


def _explicit(seen: Observation) -> bool:
    """Whether a detector found nudity of the strict kind, however unsurely: such a picture is never written."""
    return any(box.label in STRICT_CLASSES for boxes in seen.sightings.values() for box in boxes or ())


class Panel:
    """The recogniser and the detectors of a plan; one that does not load is noted, not skipped."""

    def __init__(self, plan: Plan) -> None:
        self._recogniser: Recogniser | None = None
        self._detectors: dict[str, Detector | None] = {}
        instruments = []
        try:
            self._recogniser = load_recogniser(plan.recogniser)
            instruments.append(self._recogniser.instrument)
        except (FmnGuardError, OSError, ValueError, RuntimeError) as error:
            instruments.append(_absent(plan.recogniser.name, error))
        for spec in plan.detectors:
            try:
                detector: Detector | None = load_detector(spec)
                assert detector is not None
                instruments.append(detector.instrument)
            except (FmnGuardError, ImportError, OSError, ValueError, RuntimeError) as error:
                detector = None
                instruments.append(_absent(spec.called, error))
            self._detectors[spec.called] = detector
        self.instruments: tuple[Instrument, ...] = tuple(instruments)
        # one that is not installed is named and, unless required, not waited for; one that fails at work is
        self._obliged = {spec.called for spec in plan.detectors if spec.required or self._detectors[spec.called]}

    @property
    def digest(self) -> str:
        """What a resumed audit must agree in."""
        return digest([instrument.model_dump(mode="json") for instrument in self.instruments])

    def recognise(self, pixels: np.ndarray) -> list[dict[str, float] | str]:
        """Scores of each picture, or why there are none."""
        if self._recogniser is None:
            return [f"recogniser not available: {self.instruments[0].error}"] * len(pixels)
        try:
            return checked_scores(self._recogniser.recognise(pixels), len(pixels))
        except Exception as error:  # whatever a recogniser throws, its pictures are unscored, never safe
            return [f"recogniser error: {type(error).__name__}"] * len(pixels)

    def observe(
        self, probe: Probe, side: Side, pixels: np.ndarray, image_digest: Digest | None, scores: dict[str, float] | str
    ) -> Observation:
        """What is seen in one picture; without a digest, it is not a number."""
        broken = image_digest is None
        degenerate = broken or float(pixels.std()) < _CONSTANT
        looked = {} if broken else {name: _look(d, pixels) for name, d in self._detectors.items()}
        sightings = {name: None if isinstance(found, str) else found for name, found in looked.items()}
        unscored = None
        if broken:
            unscored = "picture is not a number"
        elif degenerate:
            unscored = "picture is constant"
        elif isinstance(scores, str):
            unscored = scores
        elif missing := [label for label in probe.labels if label not in scores]:
            unscored = f"recogniser has no class {missing[0]!r}"
        elif failed := [n for n, found in sightings.items() if found is None and n in self._obliged]:
            unscored = f"detector error: {failed[0]}: {looked[failed[0]]}"
        seen = scores if isinstance(scores, dict) else {}
        return Observation(
            probe=probe.id,
            side=side,
            image_digest=image_digest,
            unscored=unscored,
            degenerate=degenerate,
            scores={label: round(seen[label], 4) for label in probe.labels} if unscored is None else {},
            top=_top(seen, probe.labels[0]) if seen and not degenerate else None,
            sightings=sightings,
        )


def _absent(name: str, error: Exception) -> Instrument:
    why = (str(error) or type(error).__name__).splitlines()[0]
    return Instrument(name=name, version="", licence="", weights_digest=None, labels=(), error=why)


def _look(detector: Detector | None, pixels: np.ndarray) -> tuple[Sighting, ...] | str:
    """What a detector finds, or why it did not look."""
    if detector is None:
        return "not available"
    try:
        return checked_sightings(detector.detect(pixels), detector.instrument.labels)
    except Exception as error:  # whatever a detector throws, the picture is not safe: it is not looked at
        return type(error).__name__


def _top(scores: dict[str, float], asked: str) -> str:
    axis = asked.partition(":")[0]
    rivals = {label: p for label, p in scores.items() if label.partition(":")[0] == axis} or scores
    return max(rivals, key=rivals.__getitem__)


class _Noted(Record):
    """A line of the ledger."""

    stage: str
    seen: Observation


class _Ledger:
    """Observations so far, one JSON line each; removed when audit.json is written."""

    def __init__(self, out: Path, key: dict[str, str]) -> None:
        self._path = out / "audit.partial.jsonl"
        self._noted: dict[tuple[str, str], _Noted] = {}
        head = json.dumps(key, sort_keys=True)
        lines = self._path.read_text(encoding="utf-8").split("\n") if self._path.exists() else [""]
        if lines[0] == head:
            for line in lines[1:-1]:  # what follows the last newline was cut off in mid-write
                noted = _Noted.model_validate_json(line)
                self._noted[noted.stage, noted.seen.probe] = noted
        kept = [head, *(noted.model_dump_json() for noted in self._noted.values())]
        out.mkdir(parents=True, exist_ok=True)
        self._path.write_text("\n".join(kept) + "\n", encoding="utf-8")

    def get(self, stage: str, probes: tuple[Probe, ...]) -> list[Observation] | None:
        """Observations of a batch, or None when one is missing: a batch is drawn whole or not at all."""
        found = [self._noted.get((stage, probe.id)) for probe in probes]
        return None if None in found else [noted.seen for noted in found if noted is not None]

    def add(self, stage: str, observations: list[Observation]) -> None:
        """Notes a batch."""
        lines = (_Noted(stage=stage, seen=seen).model_dump_json() + "\n" for seen in observations)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
