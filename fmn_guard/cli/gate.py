"""``fmn-guard gate``: may it be released?"""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..gate import exit_code, gate_run
from ..lint import lint_policy
from ..report import at_gate
from ..shipped import find, policies
from .console import emit, emit_json, talk
from .keys import keys_option
from .today import today


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--policy", help="Name or file of the policy that must have judged it.")
@keys_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.pass_context
def gate(ctx: click.Context, run: Path, policy: str | None, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check every file of a run folder, judge its audit anew, and exit by the verdict.

    Pictures may be absent, as in a clone, and a signature is checked against a key only: what was not checked is told.
    """
    from ..render.terminal import verdict_table

    demanded = lint_policy(find(policy, policies(), Path())) if policy else None
    report, unchecked = gate_run(run, keys, demanded)
    if as_json:
        emit_json(report)
    else:
        emit(verdict_table(report))
    outcome, reasons = at_gate(report, today(), signed=bool(keys))
    for reason in (*unchecked, *reasons):
        talk(reason)
    ctx.exit(exit_code(outcome))
