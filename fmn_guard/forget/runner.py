"""Runs a plan's passes in order, resumable, and leaves the patch and the record of the passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import RefusedArtefact
from ..evidence import PassRecord, PassRecords
from ..facts import Checkpoint
from ..model.attention import EditedLinear, edited_values, speaking_as_base
from ..model.checkpoint import load_pipeline
from ..model.placement import Precision
from ..model.sampler import draw_latents, encode, threads
from ..plan import PassSpec, Plan, TrainingPrompt
from ..progress import Progress, silent
from ..record import Digest, Record, bytes_digest, digest, write_atomic, write_record
from ..sequence import joined, passes_run
from .merge import Alone, merge
from .patch import write_patch
from .resteer import drift_of, resteer
from .retain import RetainedLanguage
from .rollback import within_budget
from .states import keep_state, state_digests
from .watch import StopWatch

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

STOP_SEED = 300_000_000
ANCHOR_SEED = 700_000
IMAGE_SEED = 500_000  # far from the shipped suites' seeds, lest an audit picture start from a training picture's noise


def run_plan(
    plan: Plan,
    checkpoint: Checkpoint,
    out: Path,
    *,
    device: str = "cpu",
    precision: Precision = "float32",
    progress: Progress = silent,
) -> PassRecords:
    """Runs every pass, in the plan's sequence.

    Killed at any moment, the same call goes on after the last pass that was written down and ends with
    the same patch as an unbroken run.

    Args:
        plan: from `compile_plan`.
        checkpoint: the base that the plan was made for.
        out: run folder; receives ``patch.safetensors``, ``passes.json`` and, where the plan looks between passes, the
            patches as they were there.
        device: where to compute.
        precision: in which the base is held meanwhile; edits are float32.
        progress: told of each step.

    Raises:
        PassError: a pass cannot do what the plan says.
        RefusedArtefact: the base or the given pictures are not those of the plan.
    """
    _check(plan, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(checkpoint.folder, device, precision)
    language = RetainedLanguage(pipeline, checkpoint.words(), plan.sampler)
    ledger = _Ledger(out, plan.digest)
    with edited_values(pipeline.unet) as layers:
        run = _run_apart if plan.sequence == "merge" else _run_in_turn
        records = run(pipeline, layers, plan, checkpoint, language, ledger, progress)
        patch_digest = write_patch(
            out / "patch.safetensors",
            _edits(layers),
            base_digest=plan.base.identity,
            plan_digest=plan.digest,
            concepts=[spec.slug for spec in plan.passes],
        )
    result = PassRecords(
        plan_digest=plan.digest,
        base_digest=plan.base.identity,
        passes=tuple(records),
        patch_digest=patch_digest,
        states=state_digests(out, plan),
    )
    write_record(out / "passes.json", result)
    ledger.close()
    return result


def _run_in_turn(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    plan: Plan,
    checkpoint: Checkpoint,
    language: RetainedLanguage,
    ledger: _Ledger,
    progress: Progress,
) -> list[PassRecord]:
    """Each pass on top of those before it; a joint one is the only one."""
    done, records = ledger.resume()
    for name, edit in done.items():
        layers[name].edit = edit.to(layers[name].edit)
    for spec in passes_run(plan)[len(records) :]:
        with threads(spec.threads):
            records.append(_run_pass(pipeline, layers, spec, plan, checkpoint, language, progress))
        keep_state(ledger.out, plan, len(records), _edits(layers))
        ledger.keep(_edits(layers), records)
    return records


def _run_apart(
    pipeline: StableDiffusionPipeline,
    layers: dict[str, EditedLinear],
    plan: Plan,
    checkpoint: Checkpoint,
    language: RetainedLanguage,
    ledger: _Ledger,
    progress: Progress,
) -> list[PassRecord]:
    """Each pass from the base alone, then all of them merged, which is the last record."""
    done, records = ledger.resume()
    for spec in plan.passes[len(records) :]:
        for layer in layers.values():
            layer.edit = torch.zeros_like(layer.edit)
        with threads(spec.threads):
            records.append(_run_pass(pipeline, layers, spec, plan, checkpoint, language, progress))
        done |= {f"{spec.index}/{name}": edit for name, edit in _edits(layers).items()}
        ledger.keep(done, records)
    whole = joined(plan.passes)
    assert plan.merge_preserve is not None and whole.projection is not None
    with speaking_as_base(layers), threads(whole.threads):
        kept = language.moments(whole.retain).language
        alone = [
            Alone(
                {name: done[f"{spec.index}/{name}"] for name in layers},
                language.read_of(tuple(prompt.text for prompt in spec.prompts), whole.retain),
            )
            for spec in plan.passes
        ]
        merge(layers, alone, kept, plan.merge_preserve, whole.projection)
    record = PassRecord(
        slug="merge",
        steps=0,
        stopped="merged",
        still_shown=(),
        attention_mass=(),
        redirect_error=(),
        drift=round(drift_of(layers, kept), 6),
        images_digest=digest([each.images_digest for each in records]),
    )
    return [*records, record]


def _edits(layers: dict[str, EditedLinear]) -> dict[str, Tensor]:
    return {name: layer.edit for name, layer in layers.items()}


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
    progress: Progress,
) -> PassRecord:
    parts = plan.passes if plan.sequence == "joint" else (spec,)
    latents = torch.cat([_pictures_to_forget(pipeline, layers, part, plan, checkpoint) for part in parts])
    shown = bytes_digest(np.ascontiguousarray(latents.cpu().numpy()).tobytes())
    still_shown = None
    if spec.stop is not None and spec.steps:
        seeded = [(part.stop, STOP_SEED + 1000 * part.seed) for part in parts]
        watches = [StopWatch(pipeline, stop, plan.sampler, seed) for stop, seed in seeded if stop]

        def still_shown() -> float:
            """Of the concept that is shown most."""
            return max(watch.still_shown() for watch in watches)

    with speaking_as_base(layers):
        anchors = torch.cat([_pictures_of_anchors(pipeline, part, plan) for part in parts])
        retained = language.moments(spec.retain)
    seen = torch.cat([latents, anchors])
    return within_budget(
        layers,
        spec,
        retained.language,
        lambda dose: resteer(pipeline, layers, dose, seen, retained, shown, still_shown, progress),
    )


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
    return draw_latents(pipeline, prompts, seeds, plan.sampler, batch=8)


class _Done(Record):
    """What the edits in a ledger come from."""

    plan_digest: Digest
    passes: tuple[PassRecord, ...]


class _Ledger:
    """Tensors and records so far, on disk after every pass; removed when the patch is written.

    One file, written at once: the records stand in the metadata of the edits they belong to.
    """

    def __init__(self, out: Path, plan_digest: Digest) -> None:
        self.out = out
        self._path = out / "passes.partial.safetensors"
        self._plan_digest = plan_digest

    def resume(self) -> tuple[dict[str, Tensor], list[PassRecord]]:
        if not self._path.exists():
            return {}, []
        with safe_open(self._path, "pt") as file:
            done = _Done.model_validate_json(file.metadata()["done"])
            if done.plan_digest != self._plan_digest:
                return {}, []
            return {name: file.get_tensor(name) for name in file.keys()}, list(done.passes)  # noqa: SIM118

    def keep(self, tensors: dict[str, Tensor], records: list[PassRecord]) -> None:
        done = _Done(plan_digest=self._plan_digest, passes=tuple(records))
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomic(self._path, save(whole, {"done": done.model_dump_json()}))

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
