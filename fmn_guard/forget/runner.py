"""Runs a plan's passes in order, resumable, and leaves the patch and the record of the passes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor

from ..evidence import PassRecord, PassRecords
from ..facts import Checkpoint, list_pictures
from ..model.attention import EditedLinear, edited_keys_and_values
from ..model.checkpoint import load_pipeline
from ..model.sampler import draw_latents, encode
from ..plan import PassSpec, Plan
from ..progress import Progress, silent
from ..record import Digest, read_record, write_atomic, write_record
from .patch import write_patch
from .projector import RetainedLanguage, projector
from .resteer import resteer

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

LANGUAGE_SEED = 0
IMAGE_SEED = 500_000  # far from the suites' seeds: no audit picture starts from a training picture's noise


def run_plan(
    plan: Plan, checkpoint: Checkpoint, out: Path, *, device: str = "cpu", progress: Progress = silent
) -> PassRecords:
    """Runs every pass on top of those before it.

    Killed at any moment, the same call goes on after the last finished pass and ends with the same
    patch as an unbroken run.

    Args:
        plan: from `compile_plan`.
        checkpoint: the base that the plan was made for.
        out: run folder; receives ``patch.safetensors`` and ``passes.json``.
        device: where to compute.
        progress: told of each step.

    Raises:
        PassError: a pass cannot do what the plan says.
    """
    pipeline = load_pipeline(checkpoint.folder, device)
    language = RetainedLanguage(pipeline, checkpoint.words(), LANGUAGE_SEED)
    with edited_keys_and_values(pipeline.unet) as layers:
        ledger = _Ledger(out, plan.digest)
        records = ledger.resume(layers)
        for spec in plan.passes[len(records) :]:
            records.append(_run_pass(pipeline, layers, spec, plan, checkpoint, language, progress))
            ledger.keep(layers, records)
        edits = {name: layer.edit for name, layer in layers.items()}
        patch_digest = write_patch(
            out / "patch.safetensors",
            edits,
            base_digest=plan.base.weights_digest,
            plan_digest=plan.digest,
            concepts=[spec.slug for spec in plan.passes],
        )
    result = PassRecords(
        plan_digest=plan.digest, base_digest=plan.base.weights_digest, passes=tuple(records), patch_digest=patch_digest
    )
    write_record(out / "passes.json", result)
    ledger.close()
    return result


def _run_pass(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    spec: PassSpec,
    plan: Plan,
    checkpoint: Checkpoint,
    language: RetainedLanguage,
    progress: Progress,
) -> PassRecord:
    latents = _pictures_to_forget(pipeline, layers, spec, plan, checkpoint)
    shown = hashlib.sha256(np.ascontiguousarray(latents.cpu().numpy()).tobytes()).hexdigest()
    damper = None
    if spec.projection is not None and spec.steps:
        damper = projector(language.covariance(spec.retain), spec.projection)
    return resteer(pipeline, layers, spec, latents, damper, f"sha256:{shown}", progress)


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
        files = list_pictures(checkpoint.image_folder(spec.images))
        pixels = np.stack([np.asarray(Image.open(f).convert("RGB").resize((size, size))) for f in files])
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(pipeline.device) / 127.5 - 1
        return encode(pipeline, pictures)
    prompts = [spec.image_prompts[i % len(spec.image_prompts)] for i in range(spec.image_count)]
    seeds = [IMAGE_SEED + 1000 * spec.seed + i for i in range(spec.image_count)]
    for layer in layers.values():
        layer.pristine = True
    try:
        return draw_latents(pipeline, prompts, seeds, steps=plan.sampler.steps, guidance=plan.sampler.guidance, batch=8)
    finally:
        for layer in layers.values():
            layer.pristine = False


class _Ledger:
    """The edits and records so far, on disk after every pass; removed when the patch is written."""

    def __init__(self, out: Path, plan_digest: Digest) -> None:
        self._path = out / "passes.partial.safetensors"
        self._records = out / "passes.partial.json"
        self._plan_digest = plan_digest

    def resume(self, layers: dict[str, EditedLinear]) -> list[PassRecord]:
        if not self._records.exists():
            return []
        saved = read_record(self._records, PassRecords)
        content = self._path.read_bytes() if self._path.exists() else b""
        matches = saved.patch_digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
        if saved.plan_digest != self._plan_digest or not matches:
            return []
        for name, edit in load_file(self._path).items():
            layers[name].edit = edit.to(layers[name].edit)
        return list(saved.passes)

    def keep(self, layers: dict[str, EditedLinear], records: list[PassRecord]) -> None:
        content = save({name: layer.edit.cpu().contiguous() for name, layer in layers.items()})
        write_atomic(self._path, content)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        write_record(
            self._records,
            PassRecords(
                plan_digest=self._plan_digest, base_digest=self._plan_digest, passes=tuple(records), patch_digest=digest
            ),
        )

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._records.unlink(missing_ok=True)
