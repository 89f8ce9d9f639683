"""``fmn-guard doctor``: is everything here that the commands need?"""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

import rich_click as click

from ..record import file_digest
from ..shipped import models
from .console import emit_json

EXTRAS = ("run", "nudenet", "opennsfw", "faces", "sign", "ray")
NUDENET_LICENCE = "NudeNet and its weights are AGPL-3.0, whatever its metadata says; see NOTICE before you ship them."


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show versions, extras, built-in models and threads.

    Exits with 1 if a built-in model is missing or not the one that was released.
    """
    versions = {extra: {name: _version(name) for name in _distributions(extra)} for extra in ("", *EXTRAS)}
    weights = _weights()
    cores = os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    if as_json:
        emit_json(
            {
                "python": platform.python_version(),
                "versions": versions[""],
                "extras": {extra: found for extra, found in versions.items() if extra},
                "models": weights,
                "cores": cores,
                "OMP_NUM_THREADS": threads,
                "notes": [NUDENET_LICENCE],
            }
        )
    else:
        click.echo(f"Python {platform.python_version()}")
        for extra, found in versions.items():
            missing = f" (incomplete: pip install 'fmn-guard[{extra}]')" if extra and None in found.values() else ""
            click.echo(f"{f'extra {extra}' if extra else 'base'}{missing}")
            for name, number in found.items():
                click.echo(f"  {name} {number or 'missing'}")
        if not weights:
            click.echo("built-in models: no SHA256SUMS to check them by")
        for file, state in weights.items():
            click.echo(f"built-in {file}: {state}")
        click.echo(f"{cores} cores, OMP_NUM_THREADS {threads or 'not set'}")
        click.echo(f"note: {NUDENET_LICENCE}")
    if not weights or set(weights.values()) != {"ok"}:
        ctx.exit(1)


def _distributions(extra: str) -> list[str]:
    """What an extra brings, by fmn-guard's own metadata; "" is what every install has."""
    found = [] if extra else ["fmn-guard"]
    for requirement in requires("fmn-guard") or ():
        name, _, condition = requirement.partition(";")
        of = re.search(r"extra == ['\"](.+?)['\"]", condition)
        if (of.group(1) if of else "") == extra:
            found.append(re.split(r"[^\w.-]", name)[0])
    return sorted(found)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _weights() -> dict[str, str]:
    """State of each file of weights that SHA256SUMS lists, in the format of the program of that name."""
    sums = models() / "SHA256SUMS"
    if not sums.is_file():
        return {}
    states = {}
    for line in sums.read_text(encoding="ascii").splitlines():
        digest, _, name = line.partition("  ")
        file = models() / name
        states[name] = (
            "missing" if not file.is_file() else "ok" if file_digest(file) == f"sha256:{digest}" else "damaged"
        )
    return states
