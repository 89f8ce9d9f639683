"""Checkpoints of published architectures, with random weights: what they draw is noise, what they cost is real."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from fmn_guard.shipped import shipped_model

Architecture = Literal["sd15", "sd21", "sdxl"]
TOKENS = 77
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
_UNETS: dict[Architecture, dict[str, Any]] = {
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    },
}


def unet_of(architecture: Architecture) -> UNet2DConditionModel:
    """The UNet of a published configuration (``unet/config.json``)."""
    return UNet2DConditionModel(**{"block_out_channels": (320, 640, 1280, 1280), **_UNETS[architecture]})


def write_checkpoint(folder: Path, architecture: Architecture) -> Path:
    """Writes a checkpoint in float32, unless it is there."""
    if (folder / "model_index.json").exists():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    torch.manual_seed(0)
    xl = architecture == "sdxl"
    parts: dict[str, Any] = {
        "unet": unet_of(architecture),
        "vae": AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=1024 if xl else 512,
            scaling_factor=0.13025 if xl else 0.18215,
        ),
        "text_encoder": CLIPTextModel(
            _text(1024, 4096, 23, 16, "gelu") if architecture == "sd21" else _text(768, 3072, 12, 12, "quick_gelu")
        ),
        "tokenizer": _tokenizer("!" if architecture == "sd21" else "<|endoftext|>"),
    }
    if xl:
        pipeline: Any = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=CLIPTextModelWithProjection(_text(1280, 5120, 32, 20, "gelu", projection_dim=1280)),
            tokenizer_2=_tokenizer("!"),
            scheduler=EulerDiscreteScheduler(**_NOISE),
            add_watermarker=False,
        )
    else:
        scheduler = {
            "sd15": PNDMScheduler(**_NOISE, skip_prk_steps=True),
            "sd21": DDIMScheduler(**_NOISE, clip_sample=False),
        }
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=scheduler[architecture],
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(part, max_shard_size="20GB")
    part.rename(folder)
    return folder


def _text(width: int, inner: int, layers: int, heads: int, activation: str, **more: int) -> CLIPTextConfig:
    tokenizer = _tokenizer("!")
    return CLIPTextConfig(
        vocab_size=49408,  # as published; the tokenizer, which is the built-in model's, uses few of them
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=TOKENS,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def _tokenizer(pad: str) -> CLIPTokenizer:
    folder = shipped_model("emoji-sd") / "tokenizer"
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=TOKENS)
