"""``fmn-guard audit-merge``: one audit of the shards that several machines drew."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..assembly import finish, one_head, partial_store, partial_stores, remove_partial_stores
from ..errors import InputError
from ..evidence import Audit, Distances, PassRecords
from ..gate import check_suite
from ..lint import lint_policy
from ..plan import Plan
from ..record import read_record
from ..shipped import find, policies
from ..store import Store, merged
from .console import keep_quiet, shown, talk
from .output import Outputs, output_options, read_frameworks
from .pictures import Embed
from .plan import warn_of_limits
from .run import conclude, unlist


@click.command("audit-merge")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("--policy", default="default", show_default=True, help="Name or file of the policy that judges.")
@click.option("--no-images", is_flag=True, help="Do not keep the pictures that were judged.")
@output_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
@click.option("--quiet", is_flag=True, help="No talk.")
def audit_merge(
    runs: tuple[Path, ...],
    policy: str,
    no_images: bool,
    outputs: tuple[Path, ...],
    github: bool,
    embed_samples: Embed,
    frameworks: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Put the shards of an audit together, judge it, and exit by the verdict.

    RUN... are the folders that `fmn-guard audit --shard` wrote, one or several; the first receives audit.json, pictures
    and report. Nothing is drawn, and no torch is needed; distances to the base take numpy. Shards of another plan,
    checkpoint or detector are refused.
    """
    say = keep_quiet if quiet else talk
    run, *others = runs
    plan = read_record(run / "plan.json", Plan)
    for other in others:
        if read_record(other / "plan.json", Plan).digest != plan.digest:
            raise InputError(f"{shown(other)} is of another plan than {shown(run)}", hint="give shards of one audit")
    rules, suite = lint_policy(find(policy, policies(), Path()))
    check_suite(plan, rules, suite)
    asked = Outputs(outputs, github, embed_samples, run, read_frameworks(frameworks), as_json)
    if (run / "audit.json").exists():
        raise InputError(
            f"{shown(run)} is put together already", hint="judge it again with `fmn-guard report RUN --policy NAME`"
        )
    into = partial_store(run)
    shards = [path for folder in runs for path in partial_stores(folder) if path != into]
    warn_of_limits(plan, rules, say)
    with merged(into, shards) as store:
        say(f"put {len(shards)} shards into {shown(into)}")
        head = one_head(plan, store)
        passes = read_record(run / "passes.json", PassRecords) if head.passes_digest else None
        unlist(run)
        measured = finish(plan, head, store, run, keep_images=not no_images, distances=_distances)
    remove_partial_stores(run)
    conclude(run, rules, plan, measured, passes, asked, say)


def _distances(plan: Plan, audit: Audit, store: Store) -> Distances:
    from ..audit.distances import distances_of

    return distances_of(plan, audit, store)
