"""``fmn-guard fuse``: a base and LoRA files into one checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import rich_click as click

from ..errors import InputError
from ..facts import describe_checkpoint
from ..manifest import CheckpointRef
from .console import shown, talk


@click.command()
@click.argument("base")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lora",
    "loras",
    required=True,
    multiple=True,
    metavar="FILE[=WEIGHT]",
    help="Safetensors file of a LoRA, and what its change is multiplied by; 1 by default. May be repeated.",
)
def fuse(base: str, out: Path, loras: tuple[str, ...]) -> None:
    """Fuse LoRA files into a base: a diffusers folder to forget from, in which all of them are one model.

    Reads LoRAs as kohya's scripts and diffusers write them. Pickles are refused, and so is a file with a tensor that is
    for no layer of the base. OUT/lora-stack.json tells base, files and weights by their digests. Prints the weights
    digest, which a manifest pins as spec.base.digest.
    """
    given = dict(map(_weighted, loras))
    if len(given) < len(loras):
        raise InputError("a LoRA is given twice", hint="give it once, with the sum of the weights")
    checkpoint = describe_checkpoint(CheckpointRef(checkpoint=base), Path())

    from ..model.stack import fuse

    made = fuse(checkpoint, given, out)
    talk(f"wrote {shown(out)}")
    click.echo(made.weights_digest)


def _weighted(text: str) -> tuple[Path, float]:
    name, given, number = text.rpartition("=")
    if not given or number.endswith(".safetensors"):
        return Path(text), 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(f"--lora {text}: {number!r} is no number", hint="for one: --lora style.safetensors=0.8")
    return Path(name), weight
