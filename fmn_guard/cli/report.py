"""``fmn-guard report``: a finished run in other formats, or under another policy."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..attacks.measured import read_attacks
from ..chain import read_files
from ..evidence import Audit, PassRecords
from ..gate import check_run, check_suite
from ..lint import lint_policy
from ..mscore import read_mscore
from ..plan import Plan
from ..record import read_record
from ..report import judge
from ..review import read_review
from ..shipped import find, policies
from .console import emit, talk
from .output import Outputs, formats_help, output_options, read_frameworks
from .pictures import Embed
from .run import index, list_files, reports, write_report
from .today import today


@click.command(
    help=f"""Print a finished run's verdict, or write it in other formats; the exit code says nothing about it.

{formats_help()}"""
)
@click.argument("run", type=click.Path(path_type=Path))
@output_options
@click.option("--policy", help="Judge the audit again under this policy, and rewrite the report.")
def report(
    run: Path,
    outputs: tuple[Path, ...],
    github: bool,
    embed_samples: Embed,
    frameworks: tuple[str, ...],
    policy: str | None,
) -> None:
    """Shows a finished run, or judges it again."""
    from ..render.terminal import verdict_table

    asked = Outputs(outputs, github, embed_samples, run, read_frameworks(frameworks))
    plan = read_record(run / "plan.json", Plan)
    audit = read_record(run / "audit.json", Audit)
    passes = read_record(run / "passes.json", PassRecords) if audit.passes_digest is not None else None
    rules = None
    if policy is None:
        result = check_run(run)
    else:
        rules, suite = lint_policy(find(policy, policies(), Path()))
        check_suite(plan, rules, suite)
        result = judge(
            plan,
            audit,
            rules,
            passes,
            mscore=read_mscore(run),
            attacks=read_attacks(run),
            review=read_review(run),
            judged_on=today(),
        )
    rendered = asked.rendered(result, plan, audit, passes)
    listed = read_files(run)
    written = list(rendered.paths)
    if rules is not None:
        write_report(run, rules, result, plan, audit, passes, talk)
        written += reports(run)
    rendered.write(talk)
    if rules is not None or listed is not None:
        list_files(run, listed, written, talk)
    if rules is not None:
        index(run, result, talk)
    if not outputs:
        emit(verdict_table(result, asked.frameworks))
