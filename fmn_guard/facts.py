"""What is known of a checkpoint without loading it: family, tokenizer, digests, refusals.

Needs no torch: weights are read by `fmn_guard.weights`, tokens come from the light ``tokenizers``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tokenizers import Tokenizer

from .errors import InputError, RefusedArtefact
from .manifest import CheckpointRef
from .pickles import PICKLE_SUFFIXES
from .record import Digest, Record, bytes_digest, digest, file_digest
from .shipped import shipped_model
from .source import Source
from .weights import WEIGHTS, read_json, weights_digest

CONFIGS = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
# Keys that say who wrote a configuration and where, not what the model does.
_PROVENANCE = {"_diffusers_version", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
T = TypeVar("T")


class ModelFacts(Record):
    """Facts about a Stable Diffusion checkpoint that enter a plan."""

    reference: str
    """How the manifest calls it."""
    family: Literal["stable-diffusion"]
    """Pipeline family."""
    weights_digest: Digest
    """Over sorted (normalised tensor name, dtype, shape, bytes); stable under re-sharding and metadata edits."""
    tokenizer_digest: Digest
    """Over tokenizer.json."""
    config_digest: Digest
    """Over the configurations of pipeline, parts, scheduler and tokenizer; not over versions of libraries in them."""
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the UNet predicts."""
    max_tokens: int
    """Tokens of a prompt, start and end included; what is beyond is cut."""
    picture_size: int
    """Height and width it draws by default, in pixels."""

    @property
    def identity(self) -> Digest:
        """Digest of all that decides what it draws: weights, tokenizer and configurations."""
        return digest(
            {"weights": self.weights_digest, "tokenizer": self.tokenizer_digest, "config": self.config_digest}
        )


@dataclass(frozen=True)
class Checkpoint:
    """A described checkpoint: its facts, its folder, and its tokenizer; and the manifest that names it."""

    facts: ModelFacts
    folder: Path
    tokenizer: Tokenizer
    manifest_folder: Path
    source: Source | None = None

    def token_positions(self, prompt: str, name: str = "", start: int = 0) -> tuple[int, ...]:
        """Positions of a name's tokens in a prompt, start-of-text being 0.

        Args:
            prompt: the sentence.
            name: the name; without one, this only checks that the prompt fits.
            start: where the name begins, in characters.

        Raises:
            InputError: the prompt is longer than the tokenizer takes, or does not hold the name there.
        """
        encoding = self.tokenizer.encode(prompt)
        if len(encoding.ids) > self.facts.max_tokens:
            raise InputError(
                f"{prompt!r} has {len(encoding.ids)} tokens, {self.facts.reference} takes {self.facts.max_tokens}: "
                "the rest would be cut off",
                hint="use a shorter phrase; what is cut off is neither forgotten nor measured",
            )
        end = start + len(name)
        found = tuple(i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start and b > a)
        if name and (prompt[start:end] != name or not found):
            raise InputError(
                f"no token of {name!r} in prompt {prompt!r}",
                hint="check the phrase and the eraser's templates",
            )
        return found

    def end_of_text_positions(self, prompt: str) -> tuple[int, ...]:
        """Positions of end-of-text in a padded prompt: its own, then the padding where that is the same token."""
        encoding = self.tokenizer.encode(prompt)
        pad = read_json(self.folder / "tokenizer" / "tokenizer_config.json").get("pad_token")
        padded = (pad.get("content") if isinstance(pad, dict) else pad) == encoding.tokens[-1]
        first = len(encoding.ids) - 1
        return tuple(range(first, self.facts.max_tokens if padded else first + 1))

    def words(self) -> tuple[str, ...]:
        """Whole words of the tokenizer's vocabulary, sorted: letters only, three or more."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=False)
        words = {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
        return tuple(sorted(w for w in words if len(w) >= 3 and w.isascii() and w.isalpha()))

    def pictures(self, images: str) -> list[Path]:
        """Given pictures of a folder beside the manifest, sorted by name.

        Raises:
            InputError: the folder is missing or holds no picture.
        """
        return list_pictures(self.manifest_folder / images)

    def image_folder_digest(self, images: str) -> Digest:
        """Digest over the pictures of a folder, by name and bytes.

        Raises:
            InputError: the folder is missing or holds no picture.
        """
        rows = (p.name.encode() + b"\0" + hashlib.sha256(p.read_bytes()).digest() for p in self.pictures(images))
        return bytes_digest(b"".join(rows))


def list_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder, sorted by name.

    Raises:
        InputError: the folder is missing or holds no picture.
    """
    if not folder.is_dir():
        raise InputError(
            f"no image folder {folder}", hint="give a folder relative to the manifest, or leave images out"
        )
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in _PICTURES)
    if not pictures:
        raise InputError(f"{folder} holds no PNG, JPEG or WebP picture", hint="put 4 to 16 pictures there")
    return pictures


def resolve_checkpoint(ref: CheckpointRef, beside: Path) -> Path:
    """Finds a checkpoint's folder: built-in, local, or a pinned snapshot in the hub's cache.

    Raises:
        InputError: it does not exist, or is a hub id without a revision.
    """
    name = ref.checkpoint
    if name.startswith("builtin:"):
        return shipped_model(name.removeprefix("builtin:"))
    folder = beside / Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise RefusedArtefact(
            f"{folder} is a file, a diffusers folder is needed",
            hint="convert it first with diffusers' from_single_file(...).save_pretrained(folder)",
        )
    if _HUB_ID.match(name) and not name.startswith("."):
        return _hub_snapshot(name, ref.revision)
    raise InputError(
        f"no checkpoint {name!r}",
        hint="give builtin:emoji-sd, a diffusers folder, or a hub id with spec.base.revision",
    )


def _hub_snapshot(name: str, revision: str | None) -> Path:
    if revision is None:
        raise InputError(
            f"{name!r} is no local folder; as a hub id it needs a revision",
            hint="set spec.base.revision to the full 40-digit commit, since a branch can move",
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise InputError(
            f"{name!r}: the hub library is not installed",
            hint="pip install 'fmn-guard[run]', or give a local folder",
        ) from error
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", "*.txt", *(f"{part}/{stem}*.safetensors" for part, stem in WEIGHTS.items())],
            ignore_patterns=["safety_checker/*", "*.fp16*", "*.non_ema*"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name}@{revision[:8]} cannot be fetched: {error.__class__.__name__}",
            hint="check the network and the revision, or download the folder elsewhere and give its path",
        ) from error
    return Path(folder)


def describe_checkpoint(ref: CheckpointRef, beside: Path) -> Checkpoint:
    """Reads what a plan needs to know of a checkpoint.

    Args:
        ref: which checkpoint.
        beside: folder that relative paths start from, the manifest's.

    Raises:
        InputError: it is missing or incomplete.
        RefusedArtefact: it holds pickles in place of safetensors, remote code, or links that leave its folder.
    """
    folder = resolve_checkpoint(ref, beside)
    _refuse(folder)
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise RefusedArtefact(
            f"{folder}: pipeline is {index.get('_class_name')!r}, not StableDiffusionPipeline",
            hint="Stable Diffusion 1.x and 2.x layouts are supported",
        )
    prediction = read_json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise RefusedArtefact(
            f"{folder}: prediction_type {prediction!r} is not supported", hint="epsilon or v_prediction"
        )
    scale = 2 ** (len(_setting(folder / "vae" / "config.json", "block_out_channels", list)) - 1)
    tokenizer_file = folder / "tokenizer" / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise InputError(
            f"{folder}: no tokenizer/tokenizer.json",
            hint="re-save the pipeline with diffusers' save_pretrained",
        )
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # the library raises nothing more specific
        raise InputError(f"{tokenizer_file} cannot be read: {error}", hint="re-save the pipeline") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    facts = ModelFacts(
        reference=ref.checkpoint,
        family="stable-diffusion",
        weights_digest=weights_digest(folder),
        tokenizer_digest=file_digest(tokenizer_file),
        config_digest=_config_digest(folder),
        prediction_type=prediction,
        max_tokens=_setting(folder / "tokenizer" / "tokenizer_config.json", "model_max_length", int),
        picture_size=_setting(folder / "unet" / "config.json", "sample_size", int) * scale,
    )
    return Checkpoint(facts, folder, tokenizer, beside)


def _config_digest(folder: Path) -> Digest:
    contents = {
        name: {key: value for key, value in read_json(folder / name).items() if key not in _PROVENANCE}
        for name in CONFIGS
    }
    # Not canonical_json: configurations hold infinities and integers beyond 2**53, which it cannot spell.
    return bytes_digest(json.dumps(contents, sort_keys=True).encode())


def _setting(config: Path, key: str, wanted: type[T]) -> T:
    value = read_json(config).get(key)
    if not isinstance(value, wanted):
        raise InputError(
            f"{config}: {key} is {value!r}, not {wanted.__name__}", hint="re-save the pipeline with diffusers"
        )
    return value


def _refuse(folder: Path) -> None:
    home = folder.resolve()
    # a hub cache snapshot consists of links into the blobs folder beside it
    allowed = (home, home.parents[1] / "blobs") if home.parent.name == "snapshots" else (home,)
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(root) / name
            if path.is_symlink() and not any(path.resolve().is_relative_to(a) for a in allowed):
                raise RefusedArtefact(
                    f"{path} is a link that leaves the checkpoint", hint="copy the file into the folder"
                )
            if path.suffix == ".py":
                raise RefusedArtefact(f"{path} is code inside a checkpoint", hint="remote code is never run; remove it")
            if path.suffix in PICKLE_SUFFIXES:
                raise RefusedArtefact(
                    f"{path} is a pickle, which can run code when loaded",
                    hint="re-save with save_pretrained(..., safe_serialization=True) and remove it",
                )
