"""Runs a plan's passes in order, resumable, and leaves the patch and the record of the passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import RefusedArtefact
from ..evidence import PassRecord, PassRecords
from ..facts import Checkpoint
from ..model.attention import EditedLinear, edited_values, speaking_as_base
from ..model.checkpoint import load_pipeline
from ..model.sampler import draw_latents, encode, text_states, threads
from ..plan import PassSpec, Plan, TrainingPrompt
from ..progress import Progress, silent
from ..record import Digest, Record, bytes_digest, write_atomic, write_record
from ..weights import unet_bytes
from .factors import dense, store
from .patch import PATCH, Part, PartFacts, Patch, edits_after, pack, unpack, write_patch
from .resteer import resteer
from .retain import RetainedLanguage
from .watch import StopWatch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STOP_SEED = 300_000_000
ANCHOR_SEED = 700_000
IMAGE_SEED = 500_000  # far from the shipped suites' seeds, lest an audit picture start from a training picture's noise


def run_plan(
    plan: Plan, checkpoint: Checkpoint, out: Path, *, device: str = "cpu", progress: Progress = silent
) -> PassRecords:
    """Runs every pass on top of those before it.

    Killed at any moment, the same call goes on after the last pass that was written down and ends with
    the same patch as an unbroken run.

    Args:
        plan: from `compile_plan`.
        checkpoint: the base that the plan was made for.
        out: run folder; receives ``patch.safetensors`` and ``passes.json``.
        device: where to compute.
        progress: told of each step.

    Raises:
        PassError: a pass cannot do what the plan says.
        RefusedArtefact: the base or the given pictures are not those of the plan.
    """
    _check(plan, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(checkpoint.folder, device)
    language = RetainedLanguage(pipeline, checkpoint.words(), plan.sampler)
    whole = unet_bytes(checkpoint.folder)
    with edited_values(pipeline.unet) as layers:
        ledger = _Ledger(out, plan.digest)
        records, parts = ledger.resume()
        for name, edit in edits_after(parts).items():
            layers[name].edit = edit.to(layers[name].edit)
        for spec in plan.passes[len(records) :]:
            with threads(spec.threads):
                record, part = _run_pass(pipeline, layers, spec, plan, checkpoint, language, whole, progress)
            records.append(record)
            parts.append(part)
            ledger.keep(records, parts)
    patch_digest = write_patch(out / PATCH, Patch(plan.base.identity, whole, tuple(parts)))
    result = PassRecords(
        plan_digest=plan.digest, base_digest=plan.base.identity, passes=tuple(records), patch_digest=patch_digest
    )
    write_record(out / "passes.json", result)
    ledger.close()
    return result


def _check(plan: Plan, checkpoint: Checkpoint) -> None:
    if checkpoint.facts.identity != plan.base.identity:
        raise RefusedArtefact(
            f"the plan is for the base {plan.base.identity[:19]}, this one is {checkpoint.facts.identity[:19]}",
            hint="compile the plan again for this checkpoint",
        )
    for spec in plan.passes:
        if spec.images and checkpoint.image_folder_digest(spec.images) != spec.images_digest:
            raise RefusedArtefact(
                f"pass {spec.index + 1} ({spec.slug}): the pictures in {spec.images} are not those of the plan",
                hint="compile the plan again, or put the pictures back",
            )


def _run_pass(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    spec: PassSpec,
    plan: Plan,
    checkpoint: Checkpoint,
    language: RetainedLanguage,
    whole: int,
    progress: Progress,
) -> tuple[PassRecord, Part]:
    latents = _pictures_to_forget(pipeline, layers, spec, plan, checkpoint)
    shown = bytes_digest(np.ascontiguousarray(latents.cpu().numpy()).tobytes())
    still_shown = None
    if spec.stop is not None and spec.steps:
        still_shown = StopWatch(pipeline, spec.stop, plan.sampler, STOP_SEED + 1000 * spec.seed).still_shown
    with speaking_as_base(layers):
        anchors = _pictures_of_anchors(pipeline, spec, plan)
        retained = language.moments(spec.retain)
    before = {name: layer.edit for name, layer in layers.items()}
    record = resteer(pipeline, layers, spec, torch.cat([latents, anchors]), retained, shown, still_shown, progress)
    named = text_states(pipeline, [prompt.text for prompt in spec.prompts]).flatten(0, 1).cpu().double()
    # what is read of the name is an average of its states: they hold every direction of it
    read = {name: moment.mean(0) + named.T @ named / len(named) for name, moment in retained.whole.items()}
    stored = store(
        {name: layer.edit - before[name] for name, layer in layers.items()},
        {name: layer.frozen.weight for name, layer in layers.items()},
        read,
        spec.stored_as,
        whole,
    )
    for name, edit in stored.edits.items():
        layers[name].edit = before[name] + dense(edit).to(before[name])
    return record, Part(_facts(spec, plan, record, stored.error), stored.edits)


def _facts(spec: PassSpec, plan: Plan, record: PassRecord, error: float) -> PartFacts:
    metrics = {"steps": float(record.steps), "drift": record.drift, "error": round(error, 6)}
    if record.still_shown:
        metrics["still_shown"] = record.still_shown[-1]
    return PartFacts(concepts=(spec.slug,), kind=spec.kind, plan_digest=plan.digest, metrics=metrics)


def _pictures_to_forget(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    spec: PassSpec,
    plan: Plan,
    checkpoint: Checkpoint,
) -> Tensor:
    """Latents of the given pictures, or of pictures that the unedited base draws: (N, C, h, w)."""
    if spec.images is not None:
        size = plan.sampler.size or plan.base.picture_size
        files = checkpoint.pictures(spec.images)
        pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((size, size))) for f in files])
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(pipeline.device) / 127.5 - 1
        return encode(pipeline, pictures)
    prompts = [prompt.text for prompt in _pictured(spec)]
    with speaking_as_base(layers):
        return _draw(pipeline, plan, prompts, IMAGE_SEED + 1000 * spec.seed)


def _pictures_of_anchors(pipeline: StableDiffusionPipeline, spec: PassSpec, plan: Plan) -> Tensor:
    """Latents of pictures that the base draws of what the name should deliver instead: (N, C, h, w)."""
    anchors = [spec.anchors(prompt) for prompt in _pictured(spec)]
    return _draw(pipeline, plan, [a[i % len(a)] for i, a in enumerate(anchors)], ANCHOR_SEED + 1000 * spec.seed)


def _pictured(spec: PassSpec) -> list[TrainingPrompt]:
    return [spec.pictured[i % len(spec.pictured)] for i in range(spec.image_count)]


def _draw(pipeline: StableDiffusionPipeline, plan: Plan, prompts: list[str], first_seed: int) -> Tensor:
    seeds = range(first_seed, first_seed + len(prompts))
    sampler = plan.sampler
    return draw_latents(
        pipeline, prompts, seeds, steps=sampler.steps, guidance=sampler.guidance, size=sampler.size, batch=8
    )


class _Done(Record):
    """What the parts in a ledger come from."""

    plan_digest: Digest
    passes: tuple[PassRecord, ...]
    parts: tuple[PartFacts, ...]


class _Ledger:
    """The edits and records so far, on disk after every pass; removed when the patch is written.

    One file, written at once: the records stand in the metadata of the edits they belong to.
    """

    def __init__(self, out: Path, plan_digest: Digest) -> None:
        self._path = out / "passes.partial.safetensors"
        self._plan_digest = plan_digest

    def resume(self) -> tuple[list[PassRecord], list[Part]]:
        try:
            with safe_open(self._path, "pt") as file:
                done = _Done.model_validate_json((file.metadata() or {}).get("done", ""))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if done.plan_digest == self._plan_digest:
                return list(done.passes), list(unpack(done.parts, tensors))
        except (SafetensorError, OSError, ValueError):  # there is none, or none of this version
            pass
        return [], []

    def keep(self, records: list[PassRecord], parts: list[Part]) -> None:
        facts = tuple(part.facts for part in parts)
        done = _Done(plan_digest=self._plan_digest, passes=tuple(records), parts=facts)
        write_atomic(self._path, save(pack(parts), {"done": done.model_dump_json()}))

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
