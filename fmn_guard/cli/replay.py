"""``fmn-guard replay``: draw a sample of the pictures again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from ..errors import BrokenChain
from ..evidence import Audit
from ..gate import check_run
from ..plan import Plan
from ..record import read_record
from .console import emit_json
from .device import Precision, device_option, dtype_option
from .models import audited_model, described
from .progress import reporting

if TYPE_CHECKING:
    from ..audit.replay import Redrawn

_NAMED = 5  # probes that the message names


def _share(ctx: click.Context, param: click.Parameter, value: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)
    if found is None or not 0 < float(found[1]) <= 100:
        raise click.BadParameter(f"{value!r} is no share above 0 % and up to 100 %, such as 5%", ctx, param)
    return float(found[1]) / 100


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--sample", "share", callback=_share, default="5%", show_default=True, help="Share of the probes.")
@click.option("--seed", default=0, show_default=True, help="Which sample; the same seed draws the same one.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 255),
    default=0.0,
    show_default=True,
    help="Grey levels by which a picture may differ on average from the one that was kept. 0 asks for the same pixels.",
)
@click.option("--base", help="Where the base is now, if not where the manifest said.")
@click.option("--checkpoint", help="The audited checkpoint, of a run of `fmn-guard audit`.")
@device_option
@dtype_option
@click.option("--json", "as_json", is_flag=True, help="Print what was drawn as one JSON document.")
@click.option("--quiet", is_flag=True, help="No progress.")
def replay(
    run: Path,
    share: float,
    seed: int,
    tolerance: float,
    base: str | None,
    checkpoint: str | None,
    device: str,
    precision: Precision,
    as_json: bool,
    quiet: bool,
) -> None:
    """Draw a sample of a run's pictures again, on both sides, and compare their pixels with audit.json.

    Whole batches are drawn, since a picture depends on its batch in its last bits. Exits with 2 if any differs: then
    the audit is of other pictures, or this machine computes otherwise (another device, another version of torch); for
    the latter there is --tolerance, which compares with the pictures that the run kept.
    """
    check_run(run)
    plan, audit = read_record(run / "plan.json", Plan), read_record(run / "audit.json", Audit)
    original = described(base or plan.base.reference, plan.base.identity, "--base")

    from ..audit.replay import replay as draw_again
    from ..model.checkpoint import load_pipeline

    patched = audited_model(run, audit, original, checkpoint, (device, precision))
    with reporting(quiet) as progress:
        found = draw_again(
            plan,
            audit,
            load_pipeline(original.folder, device, precision),
            patched,
            share=share,
            seed=seed,
            run=run,
            tolerance=tolerance,
            progress=progress,
        )
    if as_json:
        emit_json(found)
    if found.differing:
        named = ", ".join(f"{each.probe} ({each.side}{_by(each)})" for each in found.differing[:_NAMED])
        more = f" and {len(found.differing) - _NAMED} more" if len(found.differing) > _NAMED else ""
        raise BrokenChain(
            f"{run / 'audit.json'}: {len(found.differing)} of {found.drawn} pictures come out otherwise: {named}{more}",
            hint="replay on the device and with the versions of the audit, or with --tolerance where pictures were "
            "kept; if device and versions are the same, ask who made it",
        )
    if not as_json:
        same = f"{found.drawn - len(found.within)} are the same, the others within {tolerance:g} grey levels on average"
        came_out = same if found.within else "all of them are the same"
        click.echo(f"{found.drawn} of {found.planned} pictures were drawn again: {came_out}")


def _by(other: Redrawn) -> str:
    return "" if other.difference is None else f", by {other.difference:.2g} grey levels"
