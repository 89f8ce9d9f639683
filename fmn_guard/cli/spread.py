"""Where an audit is drawn: in part, by whom, and where its results are kept meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import rich_click as click

from ..assembly import Shard

F = TypeVar("F", bound=Callable[..., None])


def _shard(ctx: click.Context, param: click.Parameter, value: str | None) -> Shard | None:
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})/([1-9]\d{0,4})", value)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{value!r} is no part such as 2/8: the second of eight", ctx, param)
    return Shard(int(found[1]), int(found[2]))


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and ctx.params.get("executor") != "ray":
        raise click.BadParameter("only a Ray cluster has one: give --executor ray as well", ctx, param)
    return value


def spread_options(command: F) -> F:
    """Adds the options; the command gets ``store``, ``shard``, ``executor`` and ``address``."""
    store = click.option(
        "--store",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Results store that several audits share and that is kept: what it knows is not drawn again. By default, "
        "one in the run folder, removed at the end.",
    )
    shard = click.option(
        "--shard",
        metavar="I/N",
        callback=_shard,
        help="Draw the I-th of N parts and stop; `fmn-guard audit-merge` puts all of them together.",
    )
    executor = click.option(
        "--executor",
        type=click.Choice(["inline", "ray"]),
        default="inline",
        show_default=True,
        is_eager=True,
        help="Who draws and looks: this process, or actors of Ray (extra [ray]). The report is the same.",
    )
    address = click.option(
        "--address", metavar="ADDRESS", callback=_address, help="Ray cluster to use; by default, one is started here."
    )
    return store(shard(executor(address(command))))
