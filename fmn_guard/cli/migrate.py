"""``fmn-guard migrate``: what an older version wrote, in today's formats."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..chain import FILES, SIGNATURE
from ..errors import InputError
from ..migrate import lift_run, lift_text, write_run
from ..record import write_atomic
from .console import shown, talk
from .run import index


@click.command()
@click.argument("path", metavar="FILE|RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="File or new folder to write; a run needs it.")
@click.option("--dry-run", is_flag=True, help="Say what would be changed, and write nothing.")
def migrate(path: Path, out: Path | None, dry_run: bool) -> None:
    """Lift a manifest, policy, suite or run that an older version wrote to today's formats.

    A YAML file is rewritten where it is, with its comments. A run is lifted into another folder, once its own digests
    have been checked, and its audit is judged anew; what was signed stays as it was signed. Nothing is made up: what
    an older run does not tell has to be measured again.
    """
    if path.is_dir():
        _lift_run(path, out, dry_run)
    elif path.suffix == ".json":
        raise InputError(f"{shown(path)} is one record of several", hint="give the run folder, which is lifted as one")
    else:
        _lift_file(path, out or path, dry_run)


def _lift_file(path: Path, out: Path, dry_run: bool) -> None:
    lifted = lift_text(path)
    if not lifted.lifts:
        talk(f"{shown(path)}: nothing to lift")
        return
    for lift in lifted.lifts:
        talk(f"{shown(path)}: {lift.about}")
    if not dry_run:
        write_atomic(out, lifted.text)
        talk(f"wrote {shown(out)}")


def _lift_run(run: Path, out: Path | None, dry_run: bool) -> None:
    lifted = lift_run(run)
    if not lifted.lifts:
        talk(f"{shown(run)}: nothing to lift")
        return
    if out is None and not dry_run:
        raise InputError(
            f"{shown(run)} is not rewritten where it is: its digests are about what it was", hint="give --out FOLDER"
        )
    for lift in lifted.lifts:
        talk(f"{shown(run)}: {lift.about}")
    talk(f"verdict: {lifted.migrated.verdict_before}, and {lifted.report.verdict} when judged anew")
    if out is None or dry_run:
        return
    write_run(lifted, out)
    talk(f"wrote {shown(out)}: the digests of {shown(run)} are superseded there, and stand in migrated.json")
    if not (run / FILES).exists():
        talk(f"{shown(run)} has no {FILES}: its pictures are listed as they are now")
    if (run / SIGNATURE).exists():
        talk(
            f"warning: the signature of {shown(run)} is superseded as well: {shown(out)} is not signed, "
            "sign it with `fmn-guard sign`"
        )
    index(out, lifted.report, talk)
