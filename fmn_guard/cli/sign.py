"""``fmn-guard sign``: stand behind a run."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..chain import SIGNATURE, check_files
from ..gate import check_run
from ..signing import sign_run
from .console import shown, talk
from .keys import passphrase, passphrase_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="Private key, of `fmn-guard keygen`.")
@passphrase_option
def sign(run: Path, key: Path, passphrase_env: str | None) -> None:
    """Verify a run and sign it, whatever its verdict: the statement says which it is.

    Writes an in-toto test result in a DSSE envelope, signature.dsse.json, in place of an earlier one.
    """
    files = check_files(run)
    report = check_run(run)
    made = sign_run(run, report, files, key, lambda: passphrase(passphrase_env))
    talk(f"wrote {shown(run / SIGNATURE)}: verdict {report.verdict}, key {made.keyid[:12]}")
