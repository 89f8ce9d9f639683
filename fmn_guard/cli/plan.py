"""``fmn-guard plan``: what a manifest comes to, before anything is done."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..cost import estimate
from ..findings import undecidable
from ..lint import lint_manifest, lint_policy
from ..plan import Plan, compile_plan
from ..policy import ReleasePolicy
from ..shipped import find, policies
from .console import emit, emit_json, talk


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--policy", default="default", show_default=True, help="Name or file of the policy.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(manifest: Path, policy: str, as_json: bool) -> None:
    """Show the passes, pictures and cost that a manifest comes to.

    Says so on stderr when the policy's suite draws too few pictures to decide a limit.
    """
    document, checkpoint = lint_manifest(manifest)
    rules, suite = lint_policy(find(policy, policies(), Path()))
    show_plan(compile_plan(document, suite, checkpoint), rules, as_json)


def show_plan(compiled: Plan, policy: ReleasePolicy, as_json: bool) -> None:
    """Prints a plan with its cost, and warns of limits it cannot decide."""
    from ..render.terminal import plan_table

    cost = estimate(compiled)
    if as_json:
        emit_json({"digest": compiled.digest, "plan": compiled.model_dump(mode="json"), "cost": cost.model_dump()})
    else:
        emit(plan_table(compiled, cost))
    for warning in undecidable(compiled, policy):
        talk(f"warning: {warning}")
