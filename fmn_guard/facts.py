"""What is known of a checkpoint without loading it: family, tokenizer, digests.

Needs no torch. What is not safe to load is refused on the way, by `fmn_guard.intrusions`, `family`, `tokens` and
`weights`, each for what it reads.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from tokenizers import Tokenizer

from .errors import InputError, RefusedArtefact, quoted
from .family import FAMILIES, Family, FamilyName, family_of
from .intrusions import refuse_intrusions
from .jsonfile import read_object
from .manifest import CheckpointRef
from .record import Digest, Record, bytes_digest, digest
from .shipped import shipped_model
from .source import Source
from .t5 import WORD_MARK
from .tokens import Tokens, lowered, read_tokens
from .weights import variant_of, weights_digest

# Keys that say who wrote a configuration and where, not what the model does.
_PROVENANCE = {"_diffusers_version", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_LARGEST = 1024  # pixels of latents; those of published checkpoints are 128 wide at most
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
T = TypeVar("T")


class ModelFacts(Record):
    """Facts about a checkpoint that enter a plan."""

    reference: str
    """How the manifest calls it."""
    family: FamilyName
    """Pipeline family."""
    weights_digest: Digest
    """Over sorted (normalised tensor name, dtype, shape, bytes); stable under re-sharding and metadata edits."""
    tokenizer_digest: Digest
    """Over the files that the tokenizers are made from."""
    config_digest: Digest
    """Over the configurations of pipeline, parts, scheduler and tokenizer; not over versions of libraries in them."""
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the denoiser predicts."""
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
    """A described checkpoint: its facts, its folder, and its tokenizers; and the manifest that names it."""

    facts: ModelFacts
    folder: Path
    tokenizer: Tokenizer
    manifest_folder: Path
    source: Source | None = None
    other_tokenizers: tuple[Tokenizer, ...] = ()
    pads_with_end: bool = True
    """Whether all tokenizers fill prompts up with end-of-text."""

    def token_positions(self, prompt: str, name: str = "", start: int = 0) -> tuple[int, ...]:
        """Positions of a name's tokens in a prompt, its first token being 0: start-of-text, where there is one.

        Args:
            prompt: the sentence.
            name: the name; without one, this only checks that the prompt fits.
            start: where the name begins, in characters.

        Raises:
            InputError: the prompt is longer than the tokenizer takes, or does not hold the name there; or two
                tokenizers find it at different positions.
        """
        found, *others = (self._positions(t, prompt, name, start) for t in (self.tokenizer, *self.other_tokenizers))
        for other in others:
            if other != found:
                raise InputError(
                    f"{prompt!r}: the tokenizers of {self.facts.reference} find {name!r} at {found} and at {other}",
                    hint="leave out what they read differently, such as several exclamation marks in a row",
                )
        return found

    def _positions(self, tokenizer: Tokenizer, prompt: str, name: str, start: int) -> tuple[int, ...]:
        encoding = tokenizer.encode(prompt)
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

    def token_count(self, prompt: str) -> int:
        """Tokens of a prompt, start and end included, before anything is cut off; the most that a tokenizer makes."""
        return max(len(each.encode(prompt).ids) for each in (self.tokenizer, *self.other_tokenizers))

    def end_of_text_positions(self, prompt: str) -> tuple[int, ...]:
        """Positions of end-of-text in a padded prompt: its own, then the padding where that is the same token."""
        first = len(self.tokenizer.encode(prompt).ids) - 1
        return tuple(range(first, self.facts.max_tokens if self.pads_with_end else first + 1))

    def words(self) -> tuple[str, ...]:
        """Whole words of the tokenizer's vocabulary, sorted: letters only, three or more."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=False)
        words = {token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>")}
        words |= {token[1:] for token in vocabulary if token.startswith(WORD_MARK) and token.islower()}
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
        raise RefusedArtefact.of(
            folder,
            "single-file",
            "is a file, a diffusers folder is needed",
            f"fmn-guard convert {folder.name} FOLDER --config CONFIG makes one of it, without a network",
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
    weights = {f"{part}/{stem}*.safetensors" for known in FAMILIES.values() for part, stem in known.parts.items()}
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=["*.json", "*.txt", "tokenizer/spiece.model", *sorted(weights)],
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
    refuse_intrusions(folder)
    family = family_of(folder)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    prediction = read_object(scheduler).get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise RefusedArtefact.of(
            scheduler,
            "unknown-prediction",
            f"prediction_type {quoted(prediction)} is not supported",
            "epsilon and v_prediction are",
        )
    variant_of(folder, family.parts)  # refuses a mixture
    scale = 2 ** (len(_setting(folder / "vae" / "config.json", "block_out_channels", list)) - 1)
    tokens = [read_tokens(folder / name, family) for name in family.tokenizers]
    facts = ModelFacts(
        reference=ref.checkpoint,
        family=family.name,
        weights_digest=weights_digest(folder, family.parts),
        tokenizer_digest=_digest_of(tokens),
        config_digest=_config_digest(folder, family),
        prediction_type=prediction,
        max_tokens=min(each.most for each in tokens),
        picture_size=_setting(folder / family.denoiser / "config.json", "sample_size", int) * scale,
    )
    first, *others = (lowered(each.tokenizer) if family.text == "t5" else each.tokenizer for each in tokens)
    pads_with_end = all(each.pad == each.tokenizer.encode("").tokens[-1] for each in tokens)
    return Checkpoint(facts, folder, first, beside, other_tokenizers=tuple(others), pads_with_end=pads_with_end)


def _digest_of(tokens: list[Tokens]) -> Digest:
    """One tokenizer's own digest, or that of several."""
    return tokens[0].digest if len(tokens) == 1 else digest([each.digest for each in tokens])


def _config_digest(folder: Path, family: Family) -> Digest:
    contents = {
        name: {key: value for key, value in read_object(folder / name).items() if key not in _PROVENANCE}
        for name in family.configs
    }
    # Not canonical_json: configurations hold infinities and integers beyond 2**53, which it cannot spell.
    return bytes_digest(json.dumps(contents, sort_keys=True).encode())


def _setting(config: Path, key: str, wanted: type[T]) -> T:
    value = read_object(config).get(key)
    if not isinstance(value, wanted):
        raise InputError(
            f"{config}: {key} is {quoted(value)}, not {wanted.__name__}", hint="re-save the pipeline with diffusers"
        )
    if isinstance(value, int) and not 0 < value <= _LARGEST:
        raise RefusedArtefact.of(
            config, "out-of-range", f"{key} is {value}, {_LARGEST} at most", "is it the published file?"
        )
    return value
