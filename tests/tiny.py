"""Real pipelines at a size that trains in milliseconds; their weights are random."""

from __future__ import annotations

import json
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.utils import sentencepiece_model_pb2_new

from fmn_guard.shipped import shipped_model


def save_tiny_checkpoint(folder: Path) -> Path:
    """Saves the pipeline as a diffusers folder with the built-in model's tokenizer."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(shipped_model("emoji-sd") / "tokenizer")
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=8,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=8,
        ),
        vae=_vae(),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        scheduler=DPMSolverMultistepScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


FAMILIES = ("sd1", "sd2", "sd2-v", "sdxl", "sdxl-turbo", "pixart-alpha", "pixart-sigma")
"""Stable Diffusion 1.x; 2.x predicting noise, and velocity; XL; XL in few steps; and both PixArts."""
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS: dict[str, Any] = {
    "sd1": PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
    "sd2": DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1),
    "sd2-v": DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1, prediction_type="v_prediction"),
    "sdxl": EulerDiscreteScheduler(**NOISE, steps_offset=1),
    "sdxl-turbo": EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing"),
    "pixart-alpha": DPMSolverMultistepScheduler(beta_schedule="linear"),
    "pixart-sigma": DPMSolverMultistepScheduler(beta_schedule="linear"),
}


def save_tiny_family(folder: Path, family: str, side: int = 8) -> Path:
    """Saves a pipeline of one of `FAMILIES` as it is published, with the layers and paddings of the real ones.

    Tokenizers are in two files, but for sd2 and the second PixArt, which have them as they are saved today, and the
    first PixArt, which has the model of SentencePiece. Of PixArt ``side`` is the width of the
    latents that it says it is made for: at 128, the first version is told the size of a picture.
    """
    torch.manual_seed(1)
    if family.startswith("pixart"):
        return _save_tiny_pixart(folder, family, side)
    xl = family.startswith("sdxl")
    parts: dict[str, Any] = {
        "unet": _unet(xl, linear=family != "sd1"),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_text("quick_gelu" if xl or family == "sd1" else "gelu", 32)),
        "tokenizer": _tokenizer("!" if family.startswith("sd2") else "<|endoftext|>"),
        "scheduler": SCHEDULERS[family],
    }
    if xl:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text("gelu", 48, projection_dim=40))
        parts["tokenizer_2"] = _tokenizer("!")
        pipeline: Any = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts)
    pipeline.save_pretrained(folder, safe_serialization=True)
    if family != "sd2":
        for name in ("tokenizer", "tokenizer_2") if xl else ("tokenizer",):
            _publish(folder / name)
    return folder


def _save_tiny_pixart(folder: Path, family: str, side: int = 8) -> Path:
    tokenizer = t5_tokenizer()
    kind = PixArtAlphaPipeline if family == "pixart-alpha" else PixArtSigmaPipeline
    kind(
        transformer=PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            num_layers=3,
            cross_attention_dim=24,
            sample_size=side,
            caption_channels=32,
        ),
        vae=_vae(),
        text_encoder=T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
            )
        ),
        tokenizer=tokenizer,
        scheduler=SCHEDULERS[family],
    ).save_pretrained(folder, safe_serialization=True)
    if family == "pixart-alpha":
        (folder / "tokenizer" / "tokenizer.json").unlink()
        (folder / "tokenizer" / "spiece.model").write_bytes(spiece_model(t5_pieces()))
    return folder


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer of `t5_pieces`."""
    return T5Tokenizer(vocab=[*t5_pieces(), *((f"<extra_id_{i}>", 0.0) for i in reversed(range(100)))])


def spiece_model(pieces: Sequence[tuple[str, float]], table: bytes = b"", **trained: int) -> bytes:
    """Pieces as SentencePiece writes them."""
    model = sentencepiece_model_pb2_new.ModelProto()
    for text, score in pieces:
        kind = {"<unk>": 2, "<pad>": 3, "</s>": 3}.get(text, 1)
        model.pieces.add(piece=text, score=score, type=kind)
    for key, value in ({"unk_id": 2, "eos_id": 1, "pad_id": 0, "bos_id": -1} | trained).items():
        setattr(model.trainer_spec, key, value)
    model.normalizer_spec.precompiled_charsmap = table
    content: bytes = model.SerializeToString()
    return content


def t5_pieces() -> list[tuple[str, float]]:
    """The words that the built-in model knows, and single letters for all others."""
    vocabulary = CLIPTokenizer.from_pretrained(shipped_model("emoji-sd") / "tokenizer").get_vocab()
    words = sorted({token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    pieces += [(f"\u2581{word}", -6.0) for word in words if len(word) > 1 and word.isascii() and word.isalpha()]
    pieces += [(letter, -9.0) for letter in f"{string.ascii_letters}{string.digits}!,.'-"]
    return pieces


def _unet(xl: bool, linear: bool) -> UNet2DConditionModel:
    more = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 40,
        "transformer_layers_per_block": [1, 2],
    }
    crossed = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    crossed_xl = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    down, up = crossed_xl if xl else crossed
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=2,
        block_out_channels=(16, 32),
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=32 + 48 if xl else 32,
        attention_head_dim=[2, 4],
        norm_num_groups=8,
        use_linear_projection=linear,
        **(more if xl else {}),
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )


def _tokenizer(pad: str) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(shipped_model("emoji-sd") / "tokenizer", pad_token=pad)


def _text(activation: str, width: int, **more: int) -> CLIPTextConfig:
    tokenizer = _tokenizer("!")
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def _publish(folder: Path) -> None:
    """Makes ``vocab.json`` and ``merges.txt`` of a tokenizer, as Stable Diffusion was published."""
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").unlink()
    vocabulary = data["model"]["vocab"] | {token["content"]: token["id"] for token in data["added_tokens"]}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = "".join(f"{first} {second}\n" for first, second in data["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
