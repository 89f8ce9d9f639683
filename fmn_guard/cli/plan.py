"""``fmn-guard plan``: what a manifest comes to, before anything is done."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..cost import estimate
from ..findings import undecidable
from ..lint import lint_manifest, lint_policy
from ..mscore import Cost as MScoreCost
from ..mscore import plan_mscore
from ..plan import Plan, compile_plan
from ..policy import Metric, ReleasePolicy
from ..shipped import find, policies
from .console import Talk, emit, emit_json, talk

_MEASURED_BY: dict[Metric, str] = {"inversion_recognised": "mscore", "attack_success_rate": "attack"}


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--policy", default="default", show_default=True, help="Name or file of the policy.")
@click.option(
    "--mscore", "with_mscore", is_flag=True, help="Tell what `fmn-guard mscore` would cost; times a few steps."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(manifest: Path, policy: str, with_mscore: bool, as_json: bool) -> None:
    """Show the passes, pictures and cost that a manifest comes to.

    Says so on stderr when the policy's suite draws too few pictures to decide a limit.
    """
    document, checkpoint = lint_manifest(manifest)
    rules, suite = lint_policy(find(policy, policies(), Path()))
    compiled = compile_plan(document, suite, checkpoint)
    inversion = None
    if with_mscore:
        from ..model.checkpoint import load_pipeline
        from .mscore import cost_of

        protocol = plan_mscore(compiled, checkpoint.words())
        inversion = cost_of(protocol, compiled, load_pipeline(checkpoint.folder))
    show_plan(compiled, rules, as_json, inversion)


def show_plan(compiled: Plan, policy: ReleasePolicy, as_json: bool, mscore: MScoreCost | None = None) -> None:
    """Prints a plan with its cost, and that of an M-Score where it is asked for; warns of limits it cannot decide."""
    from ..render.terminal import plan_table

    cost = estimate(compiled)
    if as_json:
        document = {"digest": compiled.digest, "plan": compiled.model_dump(mode="json"), "cost": cost.model_dump()}
        emit_json(document | ({"mscore": mscore.model_dump()} if mscore else {}))
    else:
        emit(plan_table(compiled, cost))
        if mscore:
            click.echo(f"M-Score: {mscore.words}")
    warn_of_limits(compiled, policy, talk)


def warn_of_limits(compiled: Plan, policy: ReleasePolicy, say: Talk) -> None:
    """Says which limits the planned pictures cannot decide, and which wait for another command."""
    for warning in undecidable(compiled, policy):
        say(f"warning: {warning}")
    if all(spec.kind == "correction" for spec in compiled.passes):  # nobody inverts or attacks these
        return
    for rule in policy.spec.rules:
        if rule.metric in _MEASURED_BY:
            say(f"note: rule {rule.id} waits for `fmn-guard {_MEASURED_BY[rule.metric]} RUN`")
