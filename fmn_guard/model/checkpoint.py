"""The one module that loads and saves weights."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from ..errors import InputError
from ..family import Family, family_of
from ..t5 import ROLES, read_ingredients
from ..tokens import read_tokens
from ..weights import variant_of
from .placement import Precision, available_device


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the loaders' bars and advice: what is said on stderr is said by the command line."""
    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            library.enable_progress_bar()


with quiet():  # importing it is what prints advice about torchvision
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import T5Tokenizer

    from .conditioning import denoiser
    from .fit import refuse_misfits, refuse_other_tokens

_WITHOUT = {
    StableDiffusionPipeline: {"feature_extractor": None, "image_encoder": None}
    | {"safety_checker": None, "requires_safety_checker": False},
    StableDiffusionXLPipeline: {"feature_extractor": None, "image_encoder": None, "add_watermarker": False},
    PixArtAlphaPipeline: {},
    PixArtSigmaPipeline: {},
}
"""Pipelines by what they are loaded without."""
_PIPELINES = {pipeline.__name__: pipeline for pipeline in _WITHOUT}


def load_pipeline(folder: Path, device: str = "cpu", precision: Precision = "float32") -> StableDiffusionPipeline:
    """Loads a diffusers folder: safetensors only, no remote code, no safety checker.

    The safety checker is left out on purpose: an audit is about the weights that ship.

    Args:
        folder: a folder that `fmn_guard.facts.describe_checkpoint` has accepted.
        device: see `available_device`.
        precision: of the denoiser and the text encoders; the autoencoder is float32, since some overflow in less.

    Raises:
        InputError: a part is missing, or there is no such device.
        RefusedArtefact: a part does not fit its configuration.
    """
    place = available_device(device)
    family = family_of(folder)
    refuse_misfits(folder)
    stock = _PIPELINES[family.pipeline]
    try:
        with quiet():
            pipeline = stock.from_pretrained(
                folder,
                variant=variant_of(folder, family.parts),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                torch_dtype=getattr(torch, precision),
                low_cpu_mem_usage=False,
                **_WITHOUT[stock],
                **_published_tokenizer(folder, family),
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{folder} cannot be loaded: {error}", hint="re-save it with diffusers' save_pretrained"
        ) from error
    for name in family.tokenizers:
        refuse_other_tokens(folder / name, read_tokens(folder / name, family), getattr(pipeline, name), family)
    pipeline.set_progress_bar_config(disable=True)
    for part in family.parts:
        getattr(pipeline, part).eval().requires_grad_(False)
    for part in (denoiser(pipeline), pipeline.vae):
        part.to(memory_format=torch.channels_last)  # a tenth faster on a CPU, the same weights
    pipeline.vae.float()
    return pipeline.to(place)


def _published_tokenizer(folder: Path, family: Family) -> dict[str, T5Tokenizer]:
    """T5's tokenizer where it is in ``spiece.model`` alone: transformers wants a library of its own to read that."""
    if family.text != "t5" or (folder / "tokenizer" / "tokenizer.json").is_file():
        return {}
    found = read_ingredients(folder / "tokenizer")
    sentinels = len(set(found.added.values()) - set(ROLES.values()))
    tokenizer = T5Tokenizer(found.pieces, _spm_precompiled_charsmap=found.table, extra_ids=sentinels)
    return {"tokenizer": tokenizer}


def save_checkpoint(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Saves a pipeline as a diffusers folder, whole or not at all.

    Weights are written exactly as they were audited, in the precision that they were loaded in.

    Raises:
        InputError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", hint="give a new folder; nothing is overwritten")
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline.save_pretrained(part, safe_serialization=True)
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
