"""The command line. One file per command; torch is imported in command bodies only, so that the rest starts at once.

Data goes to stdout, talk and progress to stderr. Exit codes: 0 pass, 1 error, 2 bad input, 3 fail, 4 inconclusive,
130 interrupted.
"""

from __future__ import annotations

import rich_click as click

from .. import __version__
from .apply import apply
from .audit import audit
from .clean import clean
from .completion import completion
from .diff import diff
from .doctor import doctor
from .gate import gate
from .init import init
from .keygen import keygen
from .lint import lint
from .migrate import migrate
from .plan import plan
from .policy import policy
from .program import Program
from .replay import replay
from .report import report
from .sample import sample
from .schema import schema
from .sign import sign
from .verify import verify


@click.group("fmn-guard", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Make a text-to-image checkpoint forget, prove that it did, and gate the release on the proof.

    The whole flow is `fmn-guard apply manifest.yaml`; the other commands are its stages and what surrounds them.

    Exit codes: 0 pass, 1 error, 2 bad usage or input, 3 fail, 4 inconclusive, 130 interrupted.
    """


for command in (
    *(init, lint, plan, apply, audit, report, gate),
    *(verify, keygen, sign, replay, diff, clean, migrate),
    *(policy, schema, sample, doctor, completion),
):
    main.add_command(command)
