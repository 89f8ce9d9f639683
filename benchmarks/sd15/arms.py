"""What is measured, one arm a process: each returns its row."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.forget.export import Form, effect_lost, exported
from fmn_guard.forget.factors import Factors
from fmn_guard.forget.folder import patch_folder, revert_folder
from fmn_guard.forget.patch import (
    PATCH,
    Part,
    PartFacts,
    Patch,
    apply_patch,
    edits_after,
    read_patch,
    write_patch,
)
from fmn_guard.forget.reading import added, moments, queries
from fmn_guard.forget.resteer import resteer
from fmn_guard.forget.retain import Retained, RetainedLanguage
from fmn_guard.forget.runner import run_plan
from fmn_guard.lint import lint_manifest, lint_policy
from fmn_guard.manifest import CheckpointRef
from fmn_guard.model.attention import cross_attentions, edited_values, speaking_as_base, watch_attention
from fmn_guard.model.checkpoint import load_pipeline
from fmn_guard.model.conditioning import denoise, text_states
from fmn_guard.model.convert import to_file, to_folder
from fmn_guard.passes import PassSpec
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import bytes_digest, file_digest
from fmn_guard.shipped import policies

from .checkpoints import TOKENS, Architecture, unet_of
from .measure import Lap, available, counted, forget_peak, kept_bytes, memory, peak
from .released import Released

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

HERE = Path(__file__).parent
STEPS = 2
"""Of each loop that are measured; the first, which sets up memory, is not counted."""
_SENTENCES = 64
"""Of the language, where a step is measured: it costs the same whatever their number."""
_SENTENCES_OF_PASS = 500
"""The same, where a pass is measured: a tenth of what plans say."""
_NO_PICTURES = bytes_digest(b"")  # latents are noise
_RANK = 8  # of the patch that is exported and applied; a pass's are of about that
Row = dict[str, Any]


class Setting(NamedTuple):
    """What an arm measures.

    Attributes:
        architecture: Whose configurations.
        folder: The checkpoint.
        size: Height and width of pictures, in pixels.
        work: A folder for what it writes.
    """

    architecture: Architecture
    folder: Path
    size: int
    work: Path

    @property
    def side(self) -> int:
        return self.size // 8


def load(setting: Setting) -> Row:
    """Digest and load, beside ``sha256sum`` of the same files."""
    files = sorted(setting.folder.rglob("*.safetensors"))
    for _ in range(2):  # the first brings the files into the machine's memory
        began = Lap.now()
        subprocess.run(["sha256sum", *map(str, files)], check=True, stdout=subprocess.DEVNULL)
        summed = Lap.now().since(began)["seconds"]
    began = Lap.now()
    checkpoint = _checkpoint(setting)
    digested = Lap.now()
    forget_peak()
    before = memory()
    load_pipeline(checkpoint.folder)
    loaded = Lap.now()
    _checkpoint(setting)
    return {
        "bytes": sum(file.stat().st_size for file in files),
        "sha256sum": summed,
        "digest": digested.since(began),
        "load": loaded.since(digested),
        "digest again": Lap.now().since(loaded),
        "peak above start": peak() - before,
    }


def released(setting: Setting) -> Row:
    """Steps of the released loop. Only the UNet is in memory; of text and pictures it is given states."""
    return _released(setting, optimise=True)


def released_gradients(setting: Setting) -> Row:
    """The same without AdamW and its memory: what the released loop takes at the very least."""
    return _released(setting, optimise=False)


def _released(setting: Setting, optimise: bool) -> Row:
    torch.manual_seed(0)
    unet = unet_of(setting.architecture)
    base = memory()
    text = torch.randn(1, TOKENS, unet.config.cross_attention_dim)
    x_0 = torch.randn(1, 4, setting.side, setting.side)
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    loop = Released(unet, (4, 5))
    forget_peak()
    laps, kept = [Lap.now()], None
    for _ in range(STEPS + 1):
        with kept_bytes(unet.parameters()) as saved:
            loss = loop.loss(x_0, alphas, text)
            kept = counted(saved, TOKENS, setting.side**2)
            saved.clear()
        loss.backward()
        if optimise:
            loop.step()
        else:
            unet.zero_grad()
        laps.append(Lap.now())
    return {**_steps(laps), "above base": peak() - base, "kept": kept.whole, "kept maps": kept.maps}


def guarded(setting: Setting) -> Row:
    """Steps of our pass, one picture a step, by the eraser itself."""
    with _Pass(setting) as work:
        spec = work.spec.model_copy(update={"steps": STEPS + 1, "batch": 1, "times": 1, "image_count": 1})
        latents = torch.randn(2, 4, setting.side, setting.side)
        retained = work.little_language(latents[:1])
        laps: list[Lap] = []
        peaks: list[int] = []

        def progress(_what: str, _done: int, _total: int) -> None:
            laps.append(Lap.now())
            peaks.append(peak())
            forget_peak()

        forget_peak()
        resteer(work.pipeline, work.layers, spec, latents, retained, _NO_PICTURES, None, progress)
        row = {
            **_steps(laps, first=0),
            "above base": max(peaks[1:]) - work.base,
            "above base, solution and first step": peaks[0] - work.base,
        }
        return row | _kept_by_us(work, spec, latents)


def _kept_by_us(work: _Pass, spec: PassSpec, latents: Tensor) -> Row:
    """What one record's forward pass keeps."""
    named = text_states(work.pipeline, [spec.prompts[0].text]).clone()
    for layer in work.layers.values():
        layer.unfold(torch.eye(layer.frozen.in_features).expand(layer.heads, -1, -1))
    wanted = torch.zeros(1, TOKENS)
    wanted[0, list(spec.prompts[0].positions)] = 1
    pixels = latents.shape[-1] * latents.shape[-2]
    with kept_bytes(work.pipeline.unet.parameters()) as saved, watch_attention(work.pipeline.unet, wanted) as tape:
        predicted = denoise(work.pipeline, latents[:1], torch.tensor([500]), named)
        loss = tape.mass().mean() + predicted.square().mean()
        kept = counted(saved, TOKENS, pixels)
        saved.clear()
        del loss, predicted
    return {"kept": kept.whole, "kept maps": kept.maps}


def whole_pass(setting: Setting) -> Row:
    """One concept by closed form and gradient, pictures apart: all parts of a pass, and fewer of what repeats."""
    with _Pass(setting) as work:
        planned = work.spec
        retain = planned.retain.model_copy(update={"sentences": _SENTENCES_OF_PASS})
        spec = planned.model_copy(update={"retain": retain, "steps": STEPS + 1})
        forget_peak()
        began = Lap.now()
        retained = work.language.moments(retain)
        read = Lap.now()
        latents = torch.randn(2 * spec.image_count, 4, setting.side, setting.side)
        laps: list[Lap] = []

        def hold_nearest(before: dict[str, Tensor], _held: tuple[str, ...]) -> tuple[tuple[str, ...], Retained]:
            laps.append(Lap.now())
            words = work.language.nearest(retain, work.layers, before)
            with speaking_as_base(work.layers):
                held = words, work.language.moments(retain, words)
            laps.append(Lap.now())
            return held

        def progress(*_: object) -> None:
            laps.append(Lap.now())

        resteer(work.pipeline, work.layers, spec, latents, retained, _NO_PICTURES, None, progress, hold_nearest)
        solved, held, first, *_, last = laps
        return {
            "sentences": f"{retain.sentences} of {planned.retain.sentences}",
            "steps": f"{spec.steps} of {planned.steps}",
            "records a step": spec.batch,
            "language": read.since(began),
            "first solution": solved.since(read),
            "nearest words": held.since(solved),
            "second solution and first step": first.since(held),
            "other steps": last.since(first),
            "above base": peak() - work.base,
            "peak": peak(),
        }


def in_turn(setting: Setting) -> Row:
    """The eraser as `fmn-guard apply` runs it, from pictures to patch, with the least of everything."""
    with _Pass(setting) as work:
        retain = work.spec.retain.model_copy(update={"sentences": 64, "pictures": 2, "nearest": 2})
        least = {"retain": retain, "steps": 1, "batch": 1, "times": 1, "image_count": 2, "stop": None}
        plan = work.plan.model_copy(update={"passes": (work.spec.model_copy(update=least),)})
    del work
    out = setting.work / "run"
    shutil.rmtree(out, ignore_errors=True)
    checkpoint = _checkpoint(setting)
    began = Lap.now()
    records = run_plan(plan, checkpoint, out)
    row: Row = {"seconds": Lap.now().since(began), "stopped": records.passes[0].stopped}
    patch = read_patch(out / PATCH)
    row["layers"] = len(edits_after(patch.parts))
    row["share of the UNet"] = (out / PATCH).stat().st_size / patch.unet_bytes
    shutil.rmtree(out)
    return row


def patching(setting: Setting) -> Row:
    """Export, apply and revert, beside a plain copy of the folder."""
    checkpoint = _checkpoint(setting)
    setting.work.mkdir(parents=True, exist_ok=True)
    path = setting.work / "patch.safetensors"
    pipeline = load_pipeline(checkpoint.folder)
    patch = _patch(pipeline, checkpoint)
    write_patch(path, patch)
    row: Row = {"patch bytes": path.stat().st_size}
    for form in ("kohya", "diffusers", "diff"):
        row[f"export {form}"] = _timed(lambda form=form: exported(patch, form))
    row["apply in memory"] = _timed(partial(apply_patch, pipeline, path, checkpoint.facts.identity))
    del pipeline
    applied, reverted = setting.work / "applied", setting.work / "reverted"
    for folder in (applied, reverted):  # memory that a virtual machine never had before is slow at first
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(setting.folder, folder)
    for folder in (applied, reverted):
        shutil.rmtree(folder)
    row["copy of the folder"] = _timed(lambda: shutil.copytree(setting.folder, applied))
    shutil.rmtree(applied)
    row["apply to folder"] = _timed(lambda: patch_folder(checkpoint, patch, path, applied))
    row["revert folder"] = _timed(lambda: revert_folder(applied, reverted))
    same = all(
        file_digest(file) == file_digest(reverted / file.relative_to(checkpoint.folder))
        for file in checkpoint.folder.rglob("*")
        if file.is_file()
    )
    for folder in (applied, reverted):
        shutil.rmtree(folder)
    return row | {"reverted byte for byte": same}


def round_trips(setting: Setting) -> Row:
    """Folder to single file and back, and what readers make of an exported patch; 0 is no difference at all."""
    checkpoint = _checkpoint(setting)
    setting.work.mkdir(parents=True, exist_ok=True)
    single, again = setting.work / "single.safetensors", setting.work / "again"
    single.unlink(missing_ok=True)
    shutil.rmtree(again, ignore_errors=True)
    began = Lap.now()
    digests = {to_file(setting.folder, single).weights_digest}
    written = Lap.now()
    digests.add(to_folder(single, setting.folder, again).weights_digest)
    row: Row = {
        "to single file": written.since(began),
        "to folder": Lap.now().since(written),
        "same weights": digests == {checkpoint.facts.weights_digest},
    }
    single.unlink()
    shutil.rmtree(again)
    pipeline = load_pipeline(checkpoint.folder)
    patch = _patch(pipeline, checkpoint)
    del pipeline
    path = setting.work / "exported.safetensors"
    forms: tuple[Form, ...] = ("kohya", "diffusers", "diff")
    for form in forms:
        path.write_bytes(exported(patch, form))
        row[f"effect lost, {form}"] = effect_lost(checkpoint, patch, path, form)
    path.unlink()
    return row


def operations(setting: Setting) -> Row:
    """Floating-point operations of one UNet evaluation of one picture; nothing is computed."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet = unet_of(setting.architecture)
        apart = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        x, text = torch.empty(1, 4, setting.side, setting.side), torch.empty(1, TOKENS, unet.config.cross_attention_dim)
        unet(x, torch.empty(1), text, added_cond_kwargs=apart if setting.architecture == "sdxl" else None)
    return {"teraflop": round(counter.get_total_flops() / 1e12, 3)}


ARMS: dict[str, Callable[[Setting], Row]] = {
    "operations": operations,
    "load": load,
    "patch": patching,
    "round trips": round_trips,
    "guarded": guarded,
    "released": released,
    "released gradients": released_gradients,
    "pass": whole_pass,
    "apply": in_turn,
}


def predicted(arm: str, architecture: Architecture, size: int) -> int:
    """Bytes that an arm is expected to take, with what the libraries take."""
    with torch.device("meta"):
        unet = unet_of(architecture)
    weights = sum(4 * weight.numel() for weight in unet.parameters())
    width = unet.config.cross_attention_dim
    moments = sum(8 * module.heads * width**2 for module in cross_attentions(unet).values())
    kept = 4 * (size // 8) ** 2 * unet.config.block_out_channels[0] * 320
    libraries = 600 << 20
    others = {"sd15": 0.9, "sd21": 1.7, "sdxl": 3.6}[architecture] * 1e9  # text encoders and autoencoder
    match arm:
        case "released":
            return int(libraries + 4 * weights + kept)
        case "released gradients":
            return int(libraries + 2 * weights + kept)
        case "operations":
            return libraries
        case "guarded" | "pass" | "apply":
            return int(libraries + weights + others + 6 * moments + min(kept, 2 << 30))
        case _:
            return int(libraries + weights + others)


def fits(arm: str, architecture: Architecture, size: int, most: int) -> str | None:
    """Why an arm is not run here; None where it is."""
    needed, left = predicted(arm, architecture, size), available()
    if needed <= min(most, left):
        return None
    return f"does not fit: {needed / 2**30:.1f} GiB expected, {min(most, left) / 2**30:.1f} there"


class _Pass:
    """A pipeline whose values are edited, and the pass of the manifest."""

    def __init__(self, setting: Setting) -> None:
        checkpoint = _checkpoint(setting)
        manifest, _ = lint_manifest(HERE / "manifest.yaml")
        suite = lint_policy(policies() / "default.yaml")[1]
        # pictures are stated apart: language is asked for by those of one step
        sampler = suite.spec.sampler.model_copy(update={"steps": 1, "unguided": 0, "size": setting.size})
        suite = suite.model_copy(update={"spec": suite.spec.model_copy(update={"sampler": sampler})})
        self.plan: Plan = compile_plan(manifest, suite, checkpoint)
        self.spec = self.plan.passes[0].model_copy(update={"threads": torch.get_num_threads()})
        self.pipeline = load_pipeline(checkpoint.folder)
        with torch.no_grad():  # weights are mapped from their files: they count from their first use on
            denoise(self.pipeline, torch.randn(1, 4, 8, 8), torch.tensor([500]), text_states(self.pipeline, [""]))
        self.base = memory()
        self.language = RetainedLanguage(self.pipeline, checkpoint.words(), sampler)
        self._edited = edited_values(self.pipeline.unet)

    def __enter__(self) -> _Pass:
        self.layers = self._edited.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._edited.__exit__(*error)

    def little_language(self, latents: Tensor) -> Retained:
        """Moments of the same size, of few sentences at one picture."""
        sentences = self.language.retained(self.spec.retain)[:_SENTENCES]
        text, t = text_states(self.pipeline, sentences), torch.tensor([500])
        asked = queries(self.pipeline, latents, t, text[:1], torch.Generator().manual_seed(0))
        sums, _ = moments(self.pipeline, asked, text, 8)
        return Retained(added((1 / len(sentences), sums)), {})


def _checkpoint(setting: Setting) -> Checkpoint:
    return describe_checkpoint(CheckpointRef(checkpoint=str(setting.folder.resolve())), Path())


def _patch(pipeline: StableDiffusionPipeline, checkpoint: Checkpoint) -> Patch:
    generator = torch.Generator().manual_seed(0)
    edits = {}
    for name, module in cross_attentions(pipeline.unet).items():
        out, width = module.to_v.weight.shape
        up = torch.randn(out, _RANK, generator=generator) / 10
        edits[f"{name}.to_v.weight"] = Factors(up.half(), (torch.randn(_RANK, width, generator=generator) / 100).half())
    facts = PartFacts(concepts=("hamburger",), kind="object", plan_digest=checkpoint.facts.identity)
    return Patch(checkpoint.facts.identity, 0, (Part(facts, edits),))


def _timed(work: Callable[[], object]) -> dict[str, float]:
    began = Lap.now()
    work()
    return Lap.now().since(began)


def _steps(laps: list[Lap], first: int = 1) -> Row:
    """The median step, the first left out."""
    pairs = list(zip(laps[first:], laps[first + 1 :], strict=False))
    return {
        key: round(median(after.since(before)[key] for before, after in pairs), 3) for key in ("seconds", "busy")
    } | {"steps": len(pairs)}
