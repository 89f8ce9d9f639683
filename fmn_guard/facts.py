"""What is known of a checkpoint without loading it: family, tokenizer, digests, refusals.

Needs no torch: safetensors headers are read here, tokens come from the light ``tokenizers``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from tokenizers import Tokenizer

from .errors import InputError, RefusedArtefact
from .manifest import CheckpointRef
from .record import Digest, Record
from .shipped import shipped_model

PARTS = ("unet", "text_encoder", "vae")
_PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}
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
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the UNet predicts."""
    max_tokens: int
    """Tokens of a prompt, start and end included; what is beyond is cut."""
    picture_size: int
    """Height and width it draws by default, in pixels."""


@dataclass(frozen=True)
class Checkpoint:
    """A described checkpoint: its facts, its folder, and its tokenizer."""

    facts: ModelFacts
    folder: Path
    tokenizer: Tokenizer
    manifest_folder: Path

    def token_positions(self, prompt: str, name: str) -> tuple[int, ...]:
        """Positions of a name's tokens in a prompt, start-of-text being 0.

        An empty name only checks that the prompt fits.

        Raises:
            InputError: the prompt is longer than the tokenizer takes, or does not hold the name.
        """
        encoding = self.tokenizer.encode(prompt)
        if len(encoding.ids) > self.facts.max_tokens:
            raise InputError(
                f"{prompt!r} has {len(encoding.ids)} tokens, {self.facts.reference} takes {self.facts.max_tokens}: "
                "the rest would be cut off",
                hint="use a shorter phrase; what is cut off is neither forgotten nor measured",
            )
        if not name:
            return ()
        start = prompt.lower().rfind(name.lower())
        span = range(start, start + len(name))
        found = tuple(
            i for i, (a, b) in enumerate(encoding.offsets) if start >= 0 and a < span.stop and b > span.start and b > a
        )
        if not found:
            raise InputError(
                f"no token of {name!r} in prompt {prompt!r}",
                hint="check the phrase and the eraser's templates",
            )
        return found

    def words(self) -> tuple[str, ...]:
        """Whole words of the tokenizer's vocabulary, sorted: letters only, three or more."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=False)
        words = {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
        return tuple(sorted(w for w in words if len(w) >= 3 and w.isascii() and w.isalpha()))

    def image_folder(self, images: str) -> Path:
        """The folder of given pictures, resolved beside the manifest."""
        return self.manifest_folder / images

    def image_folder_digest(self, images: str) -> Digest:
        """Digest over the pictures of a folder, by name and bytes.

        Raises:
            InputError: the folder is missing or holds no picture.
        """
        pictures = list_pictures(self.image_folder(images))
        total = hashlib.sha256()
        for picture in pictures:
            total.update(picture.name.encode() + b"\0" + hashlib.sha256(picture.read_bytes()).digest())
        return f"sha256:{total.hexdigest()}"


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
    for folder in (beside / name, Path(name).expanduser()):
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
            allow_patterns=["*.json", "*.txt", "*.safetensors"],
            ignore_patterns=["safety_checker/*"],
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
    index = _json(folder / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise RefusedArtefact(
            f"{folder}: pipeline is {index.get('_class_name')!r}, not StableDiffusionPipeline",
            hint="Stable Diffusion 1.x and 2.x layouts are supported",
        )
    prediction = _json(folder / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
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
        tokenizer_digest=f"sha256:{hashlib.sha256(tokenizer_file.read_bytes()).hexdigest()}",
        prediction_type=prediction,
        max_tokens=_setting(folder / "tokenizer" / "tokenizer_config.json", "model_max_length", int),
        picture_size=_setting(folder / "unet" / "config.json", "sample_size", int) * scale,
    )
    return Checkpoint(facts, folder, tokenizer, beside)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path} is missing",
            hint="a diffusers folder has model_index.json, unet, vae, text_encoder, tokenizer, scheduler",
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}", hint="re-save the pipeline") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} does not hold an object", hint="re-save the pipeline")
    return data


def _setting(config: Path, key: str, wanted: type[T]) -> T:
    value = _json(config).get(key)
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
            if path.suffix in _PICKLES:
                raise RefusedArtefact(
                    f"{path} is a pickle, which can run code when loaded",
                    hint="re-save with save_pretrained(..., safe_serialization=True) and remove it",
                )


def weights_digest(folder: Path) -> Digest:
    """Digest of a checkpoint's weights: UNet, text encoder and autoencoder.

    Tensor names lose the ``text_model.`` prefix that transformers 5 dropped.

    Raises:
        RefusedArtefact: a part is missing, truncated, or its shards disagree with their index.
    """
    total = hashlib.sha256()
    for part in PARTS:
        rows: dict[str, bytes] = {}
        for file in _shards(folder / part):
            for name, row in _tensor_rows(file):
                key = f"{part}.{name.removeprefix('text_model.')}"
                if key in rows:
                    raise RefusedArtefact(f"{file}: tensor {name} occurs twice", hint="re-save the checkpoint")
                rows[key] = row
        for key in sorted(rows):
            total.update(key.encode() + b"\0" + rows[key])
    return f"sha256:{total.hexdigest()}"


def _shards(part: Path) -> list[Path]:
    for index in sorted(part.glob("*.safetensors.index.json")):
        named = set(_json(index)["weight_map"].values())
        found = {p.name for p in part.glob("*.safetensors")}
        if named - found:
            raise RefusedArtefact(
                f"{part}: missing shards {sorted(named - found)}", hint="download the whole checkpoint"
            )
        return [part / name for name in sorted(named)]
    files = [p for p in sorted(part.glob("*.safetensors")) if ".fp16." not in p.name]
    if len(files) != 1:
        raise RefusedArtefact(
            f"{part}: {len(files)} safetensors files, one is needed",
            hint="re-save with save_pretrained(..., safe_serialization=True)",
        )
    return files


def _tensor_rows(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yields (name, dtype + shape + content hash) of every tensor of a safetensors file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 0 < length <= min(size - 8, 100_000_000):
            raise RefusedArtefact(f"{file} is no safetensors file", hint="it is truncated or of another format")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise RefusedArtefact(f"{file}: damaged safetensors header", hint="download it again") from error
        tensors = _tensors(header)
        if tensors is None:
            raise RefusedArtefact(
                f"{file}: its header does not describe its tensors", hint="it is damaged; download it again"
            )
        end = 8 + length + (tensors[-1].stop if tensors else 0)
        if end != size:
            raise RefusedArtefact(
                f"{file}: {size} bytes, its header says {end}", hint="it is truncated; download it again"
            )
        for tensor in tensors:
            content = hashlib.sha256()
            left = tensor.stop - tensor.begin
            while left:
                block = stream.read(min(left, 1 << 22))
                content.update(block)
                left -= len(block)
            yield tensor.name, tensor.layout.encode() + content.digest()


class _Tensor(NamedTuple):
    name: str
    layout: str
    begin: int
    stop: int


def _tensors(header: object) -> list[_Tensor] | None:
    """Tensors of a safetensors header in file order; None unless they fill the file without gap or overlap."""
    try:
        tensors = [
            _Tensor(name, f"{entry['dtype']}[{','.join(map(str, entry['shape']))}]", *entry["data_offsets"])
            for name, entry in header.items()  # type: ignore[attr-defined]
            if name != "__metadata__"
        ]
        tensors.sort(key=lambda tensor: (tensor.begin, tensor.stop))
        starts = (0, *(tensor.stop for tensor in tensors))
        sound = all(
            isinstance(tensor.stop, int) and start == tensor.begin <= tensor.stop
            for start, tensor in zip(starts, tensors, strict=False)
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return tensors if sound else None
