"""``--device``: where to compute, a name that is checked before anything is loaded."""

from __future__ import annotations

import re

import rich_click as click


def _known(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", value):
        raise click.BadParameter(f"{value!r} is not cpu, cuda, cuda:N or mps", ctx, param)
    return value


device_option = click.option(
    "--device", callback=_known, default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps."
)
