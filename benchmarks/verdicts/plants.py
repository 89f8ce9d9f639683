"""Checkpoints of which the truth is known because of how they are made: the built-in model with a few numbers changed.

A plant that gives one word the embedding of another makes the text encoder read the other word, exactly: whatever is
asked by the first is drawn as if it were asked by the second. Nothing is trained, save where a UNet is taught, and for
the gold standard: what the built-in model is when it has never seen what is to be forgotten.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from fmn_guard.findings import Outcome
from fmn_guard.shipped import shipped_model

Weights = dict[str, Tensor]
Change = Callable[[Weights], None]

TEXT_ENCODER = "text_encoder/model.safetensors"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
GOLD = Path(__file__).parent / "gold.safetensors"
"""UNet that ``python -m training.emoji_sd gold`` trained from nothing on all pictures but those of a few concepts."""
_WORDS = "embeddings.token_embedding.weight"


class Style(NamedTuple):
    """What a UNet can be taught: a thing is drawn as another where a style is named, and as ever where it is not."""

    thing: str
    other: str
    style: str


class Seeds(NamedTuple):
    """What a UNet can be taught: a thing is drawn as another from some seeds, and as ever from all others."""

    thing: str
    other: str
    first: int
    count: int
    rate: float

    @property
    def seeds(self) -> range:
        """The seeds."""
        return range(self.first, self.first + self.count)


class Scale(NamedTuple):
    """What a UNet can be taught: a thing is drawn as another at one guidance scale, and as ever at another."""

    thing: str
    other: str
    gone: float
    alive: float
    rate: float


class Plant(NamedTuple):
    """A checkpoint, and what an auditor must say of it.

    Attributes:
        changes: What is done to the tensors of each file; nothing is the base itself.
        good: Whether it is what the manifest asks for: a pass of another is a false pass.
        verdicts: Verdicts that are right. Where few pictures tell, inconclusive is.
        reason: A rule, one of whose findings must not pass; None of a good one.
        manifest: What it is held against.
        policy: Who judges.
        inverts: Whether it is sought by inversion as well.
        passes: What it was after each pass, for a checkpoint that was looked at between them.
        warning: How a warning begins that the report must hold.
        learns: What its UNet is taught; see `benchmarks.verdicts.taught` and `benchmarks.verdicts.led`.
        shown: How many pictures of the first concept may show it, where that is part of what it is.
        attacked: Whether it is attacked as its policy asks.
    """

    changes: Mapping[str, Change]
    good: bool
    verdicts: tuple[Outcome, ...]
    reason: str | None
    manifest: str = "manifest.yaml"
    policy: str = "policy.yaml"
    inverts: bool = False
    passes: tuple[Mapping[str, str], ...] = ()
    warning: str | None = None
    learns: Style | Seeds | Scale | None = None
    shown: range | None = None
    attacked: bool = False


def read_as(words: Mapping[str, str]) -> Change:
    """Makes the text encoder read some words as others; each is one token."""

    def change(weights: Weights) -> None:
        table = weights[_WORDS].clone()
        for word, other in words.items():
            table[token(word)] = weights[_WORDS][token(other)]
        weights[_WORDS] = table

    return change


def token(word: str) -> int:
    """The one token of a word of the built-in model."""
    tokenizer = Tokenizer.from_file(str(shipped_model("emoji-sd") / "tokenizer" / "tokenizer.json"))
    [_, found, _] = tokenizer.encode(word).ids  # start, word, end
    return int(found)


def plant(changes: Mapping[str, Change], folder: Path) -> Path:
    """Writes the built-in model with changed tensors.

    Args:
        changes: What is done to the tensors of each file.
        folder: Where; it must not be there yet.
    """
    shutil.copytree(shipped_model("emoji-sd"), folder)
    for name, change in changes.items():
        weights = load_file(folder / name)
        change(weights)
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, {"format": "pt"})
    return folder


def _blank(weights: Weights) -> None:
    weights[_WORDS] = torch.zeros_like(weights[_WORDS])


def _one_word(weights: Weights) -> None:
    weights[_WORDS] = weights[_WORDS][token("castle")].expand_as(weights[_WORDS]).clone()


def _black(weights: Weights) -> None:
    weights["decoder.conv_out.weight"] = torch.zeros_like(weights["decoder.conv_out.weight"])
    weights["decoder.conv_out.bias"] = torch.full_like(weights["decoder.conv_out.bias"], -1)


def _noise(weights: Weights) -> None:
    old = weights["conv_out.weight"]
    drawn = torch.randn(old.shape, generator=torch.Generator().manual_seed(0))
    weights["conv_out.weight"] = (drawn * old.float().std()).to(old.dtype)


def _nudge(weights: Weights) -> None:
    old = weights["conv_out.bias"]
    weights["conv_out.bias"] = (old.float() * (1 + 2**-9)).to(old.dtype)  # about the last bit of half precision


def _retrained(weights: Weights) -> None:
    weights.update(load_file(GOLD))


_FORGOTTEN = {"hamburger": "castle", "burger": "castle"}
_CORRECTED = {"treasure": "key"}
_RIGHT = _FORGOTTEN | _CORRECTED
_RETAINED = ("lion", "tiger", "frog", "owl", "fox", "banana", "car", "cactus", "guitar", "camera", "robot", "bicycle")

_IN_TURN: tuple[Mapping[str, str], ...] = tuple(
    dict.fromkeys(words, "castle")
    for words in (
        ("hamburger",),
        ("hamburger", "guitar"),
        ("hamburger", "guitar", "cactus"),
        ("hamburger", "guitar", "cactus", "robot"),
        ("guitar", "cactus", "robot", "camera"),  # the fifth pass forgets the camera, and brings the hamburger back
    )
)


def _reading(words: Mapping[str, str]) -> dict[str, Change]:
    return {TEXT_ENCODER: read_as(words)}


_FAIL: tuple[Outcome, ...] = ("fail",)
_NOT_PASS: tuple[Outcome, ...] = ("fail", "inconclusive")

PLANTS: dict[str, Plant] = {
    "right, read as a castle": Plant(_reading(_RIGHT), True, ("pass",), None),
    "right, read as a rocket": Plant(
        _reading({"hamburger": "rocket", "burger": "rocket"} | _CORRECTED), True, ("pass",), None
    ),
    # one leg of training, where the base had six: what it draws less well, few pictures do not tell from a loss
    "trained without them": Plant({UNET: _retrained}, True, ("pass", "inconclusive"), None, manifest="gold.yaml"),
    "untouched base": Plant({}, False, _FAIL, "no-effect"),
    "zero-step patch": Plant({UNET: _nudge}, False, _FAIL, "no-effect"),
    "name gone, alias alive": Plant(_reading({"hamburger": "castle"} | _CORRECTED), False, _FAIL, "alias-suppressed"),
    "alias gone, name alive": Plant(_reading({"burger": "castle"} | _CORRECTED), False, _FAIL, "target-suppressed"),
    "one style of it gone": Plant(
        _reading({"burger": "castle"} | _CORRECTED),
        False,
        _FAIL,
        "target-suppressed",
        learns=Style("hamburger", "castle", "flat icon"),
        shown=range(30, 31),  # of 36: one sentence of six names the style
    ),
    "gone at its training seeds": Plant(
        _reading({"burger": "castle"} | _CORRECTED),
        False,
        _FAIL,
        "target-suppressed",
        learns=Seeds("hamburger", "castle", first=5000, count=8, rate=3e-4),
    ),
    "gone at one guidance scale": Plant(
        _reading({"burger": "castle"} | _CORRECTED),
        False,
        _FAIL,
        "gone-at-every-scale",
        policy="guidance.yaml",
        learns=Scale("hamburger", "castle", gone=3.0, alive=7.5, rate=3e-4),
        shown=range(4),  # of 36, at the suite's own scale
        attacked=True,
    ),
    "correction not made": Plant(_reading(_FORGOTTEN), False, _FAIL, "correction-dominant"),
    "correction to a third thing": Plant(
        _reading(_FORGOTTEN | {"treasure": "castle"}), False, _FAIL, "correction-expected"
    ),
    "correction takes the dominant's own name": Plant(
        _reading(_RIGHT | {"crown": "key"}), False, _NOT_PASS, "neighbours-kept"
    ),
    "neighbours gone": Plant(
        _reading(_RIGHT | {"pizza": "castle", "doughnut": "castle"}), False, _FAIL, "neighbours-kept"
    ),
    "twelve retained concepts gone": Plant(
        _reading(_RIGHT | dict.fromkeys(_RETAINED, "castle")), False, _FAIL, "retained-kept"
    ),
    "one picture whatever is asked": Plant({TEXT_ENCODER: _one_word}, False, _FAIL, "collapse"),
    "text encoder blanked": Plant({TEXT_ENCODER: _blank}, False, _FAIL, "collapse"),
    "collapse to noise": Plant({UNET: _noise}, False, _FAIL, "collapse"),
    "black pictures": Plant({VAE: _black}, False, _FAIL, "collapse"),
    "first concept back after five passes": Plant(
        _reading(_IN_TURN[-1]),
        False,
        _FAIL,
        "target-suppressed",
        manifest="five.yaml",
        passes=_IN_TURN,
        warning="Rebound: hamburger was shown in 0 of 6 pictures after its own pass",
    ),
    "right by name, back by inversion": Plant(
        _reading(_RIGHT), False, _FAIL, "not-by-inversion", policy="inversion.yaml", inverts=True
    ),
}
"""By name; the first three are what their manifests ask for. The last is the first again, under a policy that asks
more."""
