"""Checkpoints and manifests for tests of the paper layer: files written by hand, no torch."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from fmn_guard.facts import Checkpoint, describe_checkpoint
from fmn_guard.manifest import CheckpointRef
from fmn_guard.shipped import shipped_model

Tensors = dict[str, bytes]

WEIGHTS: dict[str, Tensors] = {
    "unet": {"conv_in.weight": b"\x01" * 16, "conv_out.weight": b"\x02" * 8},
    "text_encoder": {"embeddings.weight": b"\x03" * 8, "final_layer_norm.bias": b"\x04" * 4},
    "vae": {"decoder.weight": b"\x05" * 12},
}


WEIGHT_FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
"""The file of each part that the loaders open."""

COMPONENTS = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
"""What ``model_index.json`` names."""


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Writes float32 vectors in the safetensors format, in the order given."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, content in tensors.items():
        header[name] = {"dtype": "F32", "shape": [len(content) // 4], "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensors.values()))


def save_paper_checkpoint(folder: Path) -> Path:
    """Writes a diffusers folder that can be described, though not loaded."""
    configs: dict[str, dict[str, object]] = {
        "model_index.json": {"_class_name": "StableDiffusionPipeline", **COMPONENTS},
        "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
        "unet/config.json": {"sample_size": 16},
        "text_encoder/config.json": {},
        "vae/config.json": {"block_out_channels": [16, 32, 64]},
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config), encoding="utf-8")
    for part, tensors in WEIGHTS.items():
        write_safetensors(folder / WEIGHT_FILES[part], tensors)
    shutil.copytree(shipped_model("emoji-sd") / "tokenizer", folder / "tokenizer")
    return folder


def describe(folder: Path) -> Checkpoint:
    """Describes a checkpoint folder."""
    return describe_checkpoint(CheckpointRef(checkpoint=str(folder)), folder.parent)


MANIFEST = """\
apiVersion: fmn-guard/v1
kind: ConceptManifest
metadata:
  name: example
spec:
  base:
    checkpoint: builtin:emoji-sd
  concepts:
    - kind: object
      phrase: hamburger
      aliases: [burger]
      keep: [pizza]
    - kind: nsfw
      phrase: pistol
"""
