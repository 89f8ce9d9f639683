"""Writes the trained parts as the package data that ships: half precision, stock layouts."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from . import classifier, clip, unet, vae
from .world import AMBIGUITIES, BACKGROUNDS, DEFAULT_STYLE, ENTRIES, STYLES

MODELS = Path("fmn_guard/data/models")
GOLD = Path("benchmarks/verdicts/gold.safetensors")
VERSION = "1.0"


def text_encoder(work: Path) -> CLIPTextModel:
    """The text tower of the CLIP, as a stand-alone text encoder."""
    model, _ = clip.load(work)
    tower = CLIPTextModel(model.config.text_config)
    tower.load_state_dict({k.removeprefix("text_model."): v for k, v in model.text_model.state_dict().items()})
    return tower


def pipeline(work: Path) -> StableDiffusionPipeline:
    """The trained pipeline, in float32."""
    return StableDiffusionPipeline(
        vae=vae.load(work),
        text_encoder=text_encoder(work),
        tokenizer=clip.build_tokenizer(work),
        unet=unet.load(work),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _replace(folder: Path, keep: tuple[str, ...] = ()) -> Path:
    kept = {name: (folder / name).read_bytes() for name in keep if (folder / name).exists()}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    return folder


def export_pipeline(work: Path) -> None:
    folder = _replace(MODELS / "emoji-sd", keep=("README.md", "contact-sheet.png", "evaluation.json"))
    pipeline(work).to(torch.float16).save_pretrained(folder, safe_serialization=True)
    world = {
        "concepts": [{k: v for k, v in asdict(e).items() if k in ("phrase", "kind", "aliases")} for e in ENTRIES],
        "styles": list(STYLES),
        "default_style": DEFAULT_STYLE,
        "backgrounds": list(BACKGROUNDS),
        "ambiguous": [{"prompt": a.word, "dominant": a.dominant, "other": a.other} for a in AMBIGUITIES],
    }
    (folder / "world.json").write_text(json.dumps(world, indent=1) + "\n")


def export_gold(work: Path) -> None:
    """The UNet that has never seen a few concepts, where audits of planted checkpoints look for it."""
    weights = unet.load(work, unet.GOLD).half().state_dict()
    save_file({name: weight.contiguous() for name, weight in weights.items()}, GOLD)


def write_checksums() -> None:
    """SHA256SUMS in the format of ``sha256sum``: what ``fmn-guard doctor`` checks the weights by."""
    rows = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(MODELS).as_posix()}\n"
        for path in sorted(MODELS.rglob("*.safetensors"))
    ]
    (MODELS / "SHA256SUMS").write_text("".join(rows))


def export_clip(work: Path) -> None:
    folder = _replace(MODELS / "emoji-clip", keep=("README.md",))
    model, tokenizer = clip.load(work)
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    CLIPImageProcessorPil(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=half, image_std=half
    ).save_pretrained(folder)


def export_judge(work: Path) -> None:
    folder = _replace(MODELS / "emoji-judge", keep=("README.md",))
    model = classifier.load(work)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    config = {"version": VERSION, "concepts": classifier.CONCEPTS, "styles": classifier.STYLE_NAMES}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def adopt(work: Path) -> None:
    """Makes checkpoints of the shipped weights, so that a fresh clone can train them on with ``--restart``."""
    models: dict[str, torch.nn.Module] = {
        "unet": UNet2DConditionModel.from_pretrained(MODELS / "emoji-sd" / "unet"),
        "vae": AutoencoderKL.from_pretrained(MODELS / "emoji-sd" / "vae"),
        "clip_vision": CLIPModel.from_pretrained(MODELS / "emoji-clip"),
        "classifier": classifier.build(),
    }
    models["classifier"].load_state_dict(load_file(MODELS / "emoji-judge" / "model.safetensors"))
    shutil.copytree(MODELS / "emoji-sd" / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    for name, model in models.items():
        path = work / f"{name}.ckpt"
        if not path.exists():
            torch.save({"ema": model.float().state_dict()}, path)
