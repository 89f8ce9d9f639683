"""``--device``: where to compute, a name that is checked before anything is loaded."""

from __future__ import annotations

import re

import rich_click as click


class _Device(click.ParamType):
    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"cpu|mps|cuda(:[0-9]+)?", value):
            self.fail(f"{value!r} is not cpu, cuda, cuda:N or mps", param, ctx)
        return value


device_option = click.option(
    "--device", type=_Device(), default="cpu", show_default=True, help="cpu, cuda, cuda:N or mps."
)
