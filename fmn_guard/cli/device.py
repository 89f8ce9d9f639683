"""``--device`` and ``--dtype``: where to compute and in which precision, checked before anything is loaded."""

from __future__ import annotations

import re
from typing import Literal, get_args

import rich_click as click

Precision = Literal["float32", "bfloat16", "float16"]
"""That of `fmn_guard.model.placement`, which commands may not import before they need torch."""
Where = tuple[str, Precision]
"""Device and precision."""


def _known(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"{value!r} is not auto, cpu, cuda, cuda:N or mps", ctx, param)
    return value


device_option = click.option(
    "--device", callback=_known, default="cpu", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
)
dtype_option = click.option(
    "--dtype",
    "precision",
    type=click.Choice(get_args(Precision)),
    default="float32",
    show_default=True,
    help="Precision of what draws and of text encoders; edits and autoencoder are float32 whatever it is.",
)
