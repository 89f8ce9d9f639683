"""Runs a plan's passes in order, resumable, and leaves the patch and the record of the passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import RefusedArtefact
from ..evidence import PassRecord, PassRecords
from ..facts import Checkpoint
from ..model.attention import Edited, EditedLinear, edited_values, speaking_as_base
from ..model.checkpoint import load_pipeline
from ..model.conditioning import denoiser, family_in, read_states, seen_tokens, text_states
from ..model.inversion import invert, inverted_states
from ..model.placement import Precision
from ..model.sampler import draw_latents, encode, threads
from ..model.whole import edited_weights
from ..passes import PassSpec, TrainingPrompt
from ..plan import Plan
from ..progress import Progress, silent
from ..record import Digest, Record, bytes_digest, digest, write_atomic, write_record
from ..sequence import joined, passes_run
from ..weights import part_bytes
from .closed_form import HoldNearest, solve_holding
from .factors import Stored, dense, store
from .merge import Wanted, merge
from .patch import PATCH, Part, PartFacts, Patch, edits_after, pack, unpack, write_patch
from .published import resteer_as_published
from .reading import Moments
from .resteer import drift_of, resteer
from .retain import Retained, RetainedLanguage
from .rollback import within_budget
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
        out: run folder; receives ``patch.safetensors`` and ``passes.json``.
        device: where to compute.
        precision: in which the base is held meanwhile; edits are float32, and so is a base that is trained itself.
        progress: told of each step.

    Raises:
        PassError: a pass cannot do what the plan says.
        RefusedArtefact: the base or the given pictures are not those of the plan.
    """
    _check(plan, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    published = any(spec.published for spec in plan.passes)
    pipeline = load_pipeline(checkpoint.folder, device, "float32" if published else precision)
    language = RetainedLanguage(pipeline, checkpoint.words(), plan.sampler)
    plan_digest = plan.digest
    ledger = _Ledger(out, plan_digest)
    family = family_in(pipeline)
    stored = part_bytes(checkpoint.folder / family.denoiser, family.parts[family.denoiser])
    with (edited_weights if published else edited_values)(denoiser(pipeline)) as layers:
        work = _Work(pipeline, layers, plan, plan_digest, checkpoint, language, stored, progress)
        run = {"mended": _run_and_mend, "merge": _run_apart}.get(plan.sequence, _run_in_turn)
        records, parts = run(work, ledger)
    patch_digest = write_patch(out / PATCH, Patch(plan.base.identity, work.denoiser_bytes, tuple(parts)))
    result = PassRecords(
        plan_digest=plan_digest, base_digest=plan.base.identity, passes=tuple(records), patch_digest=patch_digest
    )
    write_record(out / "passes.json", result)
    ledger.close()
    return result


class _Work(NamedTuple):
    """What every pass of a plan works with."""

    pipeline: StableDiffusionPipeline
    layers: Mapping[str, Edited]
    plan: Plan
    plan_digest: Digest
    checkpoint: Checkpoint
    language: RetainedLanguage
    denoiser_bytes: int
    progress: Progress

    @property
    def values(self) -> dict[str, EditedLinear]:
        """The layers, where passes edit values of cross-attentions alone."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, EditedLinear)}

    def no_edits(self) -> dict[str, Tensor]:
        """Zeros of the shapes of the values' edits."""
        return {name: torch.zeros_like(layer.edit) for name, layer in self.values.items()}


def _run_in_turn(work: _Work, ledger: _Ledger) -> tuple[list[PassRecord], list[Part]]:
    """Each pass on top of those before it; a joint one is the only one."""
    records, parts = ledger.resume()
    for name, edit in edits_after(parts).items():
        work.layers[name].edit = edit.to(work.layers[name].edit)
    for spec in passes_run(work.plan)[len(records) :]:
        _run_next(work, spec, ledger, records, parts)
    return records, parts


def _run_and_mend(work: _Work, ledger: _Ledger) -> tuple[list[PassRecord], list[Part]]:
    """Each pass on top of those before it, then all of them solved again: the last record, and the only part."""
    records, _ = _run_in_turn(work, ledger)
    total = {name: layer.edit for name, layer in work.values.items()}
    return _merged(work, [total] * len(records), records)


def _run_apart(work: _Work, ledger: _Ledger) -> tuple[list[PassRecord], list[Part]]:
    """Each pass from the base alone, then all of them merged: the last record, and the only part of the patch."""
    records, alone = ledger.resume()
    none = work.no_edits()
    for spec in work.plan.passes[len(records) :]:
        for name, layer in work.values.items():
            layer.edit = none[name]
        _run_next(work, spec, ledger, records, alone)
    return _merged(work, [none | edits_after([part]) for part in alone], records)


def _merged(
    work: _Work, edits: Sequence[dict[str, Tensor]], records: list[PassRecord]
) -> tuple[list[PassRecord], list[Part]]:
    """One solution that does to each pass's concept what the edits beside it do; held are the words it moves most."""
    plan, layers, language = work.plan, work.values, work.language
    whole, none = joined(plan.passes), work.no_edits()
    preserve, damping = plan.merge_preserve, whole.projection
    assert preserve is not None and damping is not None
    with threads(whole.threads):
        with speaking_as_base(layers):
            told = language.moments(whole.retain)
            reads = [
                language.read_of(tuple(prompt.text for prompt in spec.prompts), whole.retain) for spec in plan.passes
            ]
        wanted = [Wanted(each, read) for each, read in zip(edits, reads, strict=True)]

        def solve(retained: Retained) -> None:
            merge(layers, wanted, retained.language, preserve, damping)

        nearest, retained = solve_holding(solve, none, told, _hold_nearest(work, whole), plan.merge_looks)
        record = PassRecord(
            slug="merge",
            steps=0,
            stopped="merged",
            still_shown=(),
            attention_mass=(),
            redirect_error=(),
            drift=round(drift_of(layers, told.language), 6),
            nearest=nearest,
            images_digest=digest([each.images_digest for each in records]),
        )
        part = _stored(work, none, whole, retained.whole, record)
    return [*records, record], [part]


def _run_next(work: _Work, spec: PassSpec, ledger: _Ledger, records: list[PassRecord], parts: list[Part]) -> None:
    with threads(spec.threads):
        record, part = _run_pass(work, spec)
    records.append(record)
    parts.append(part)
    ledger.keep(records, parts)


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


def _run_pass(work: _Work, spec: PassSpec) -> tuple[PassRecord, Part]:
    pipeline, layers, plan = work.pipeline, work.layers, work.plan
    specs = plan.passes if plan.sequence == "joint" else (spec,)
    latents = torch.cat([_pictures_to_forget(pipeline, layers, each, plan, work.checkpoint) for each in specs])
    shown = bytes_digest(np.ascontiguousarray(latents.cpu().numpy()).tobytes())
    before = {name: layer.edit for name, layer in layers.items()}
    if spec.published:
        rows, text = _asked(work, spec, latents)
        record = resteer_as_published(pipeline, layers, spec, latents, rows, text, shown, work.progress)
        changes = {name: layer.edit - before[name] for name, layer in layers.items()}
        return record, _part(work, before, spec, record, store(changes, {}, {}, spec.stored_as, work.denoiser_bytes))
    still_shown = None
    if spec.stop is not None and spec.steps:
        seeded = [(each.stop, STOP_SEED + 1000 * each.seed) for each in specs]
        watches = [StopWatch(pipeline, stop, plan.sampler, seed) for stop, seed in seeded if stop]

        def still_shown() -> float:
            """Of the concept that is shown most."""
            return max(watch.still_shown() for watch in watches)

    with speaking_as_base(layers):
        anchors = torch.cat([_pictures_of_anchors(pipeline, each, plan) for each in specs])
        retained = work.language.moments(spec.retain)
    seen = torch.cat([latents, anchors])
    values, nearest = work.values, _hold_nearest(work, spec)

    def run(dose: PassSpec) -> PassRecord:
        return resteer(pipeline, values, dose, seen, retained, shown, still_shown, work.progress, nearest)

    record = within_budget(values, spec, retained.language, run)
    return record, _stored(work, before, spec, retained.whole, record)


def _hold_nearest(work: _Work, spec: PassSpec) -> HoldNearest | None:
    """What of `redirect_holding` says which words a pass's solution moves most; None where its plan holds none."""

    def hold(before: dict[str, Tensor], held: tuple[str, ...]) -> tuple[tuple[str, ...], Retained]:
        words = tuple(dict.fromkeys((*held, *work.language.nearest(spec.retain, work.values, before))))
        with speaking_as_base(work.values):
            return words, work.language.moments(spec.retain, words)

    return hold if spec.retain.nearest else None


def _asked(work: _Work, spec: PassSpec, latents: Tensor) -> tuple[list[int], Tensor]:
    """Which of a pass's prompts each picture is forgotten with, and (M, T, d), the prompts' states."""
    assert spec.published is not None
    if not (spec.published.inversion and spec.published.word):
        text = text_states(work.pipeline, [prompt.text for prompt in spec.prompts])
        return [spec.prompts.index(prompt) for prompt in _pictured(spec)], text
    (prompt,) = spec.prompts
    frames, settings = [prompt.anchor] * len(latents), spec.published.inversion
    found = invert(work.pipeline, latents, frames, spec.published.word, settings, work.progress)
    return [0] * len(latents), inverted_states(work.pipeline, prompt.anchor, found)


def _stored(work: _Work, before: dict[str, Tensor], spec: PassSpec, retained: Moments, record: PassRecord) -> Part:
    """What a pass has added to values, in as few numbers as its plan allows."""
    pipeline, layers = work.pipeline, work.values
    text = text_states(pipeline, [prompt.text for prompt in spec.prompts])
    seen = seen_tokens(pipeline, text)
    named = read_states(pipeline, text)
    named = (named.flatten(0, 1) if seen is None else named[seen]).cpu().double()
    # what is read of the name is an average of its states: they hold every direction of it
    read = {name: moment.mean(0) + named.T @ named / len(named) for name, moment in retained.items()}
    stored = store(
        {name: layer.edit - before[name] for name, layer in layers.items()},
        {name: layer.frozen.weight for name, layer in layers.items()},
        read,
        spec.stored_as,
        work.denoiser_bytes,
    )
    return _part(work, before, spec, record, stored)


def _part(work: _Work, before: dict[str, Tensor], spec: PassSpec, record: PassRecord, stored: Stored) -> Part:
    """What a pass has added, as the patch will hold it; the layers go on from that."""
    for name, layer in work.layers.items():
        layer.edit = before[name]
        if name in stored.edits:
            layer.edit = before[name] + dense(stored.edits[name]).to(before[name])
    metrics = {"steps": float(record.steps), "error": round(stored.error, 6)}
    if record.drift is not None:
        metrics["drift"] = record.drift
    if record.still_shown:
        metrics["still_shown"] = record.still_shown[-1]
    concepts = (spec.slug,) if spec in work.plan.passes else tuple(each.slug for each in work.plan.passes)
    facts = PartFacts(
        concepts=concepts,
        kind=spec.kind if len(concepts) == 1 else None,
        plan_digest=work.plan_digest,
        metrics=metrics,
    )
    return Part(facts, stored.edits)


def _pictures_to_forget(
    pipeline: StableDiffusionPipeline,
    layers: Mapping[str, Edited],
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
    """What the parts in a ledger come from."""

    plan_digest: Digest
    passes: tuple[PassRecord, ...]
    parts: tuple[PartFacts, ...]


class _Ledger:
    """Tensors and records so far, on disk after every pass; removed when the patch is written.

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
