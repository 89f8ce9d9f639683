"""The command line. One file per command, imported when it is asked for; torch is imported in command bodies only.

Data goes to stdout, talk and progress to stderr. Exit codes: 0 pass, 1 error, 2 bad input, 3 fail, 4 inconclusive,
130 interrupted.
"""

from __future__ import annotations

import rich_click as click

from .. import __version__
from .program import Commands, Program


@click.group("fmn-guard", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Make a text-to-image checkpoint forget, prove that it did, and gate the release on the proof.

    The whole flow is `fmn-guard apply manifest.yaml`; the other commands are its stages and what surrounds them.

    Exit codes: 0 pass, 1 error, 2 bad usage or input, 3 fail, 4 inconclusive, 130 interrupted.
    """


# Not an argument of the group: rich-click looks each of those up at once.
main.commands = Commands(
    *("init", "lint", "plan", "apply", "audit", "audit-merge", "report", "gate"),
    *("conceptbench", "mscore", "attack", "review", "verify", "keygen", "sign", "replay", "diff", "clean", "migrate"),
    *("patch", "no-pickle", "convert", "fuse", "policy", "schema", "sample", "doctor", "completion"),
)
