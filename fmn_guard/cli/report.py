"""``fmn-guard report``: a finished run in other formats, or under another policy."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import rich_click as click

from ..evidence import Audit, PassRecords
from ..gate import check_run, check_suite
from ..lint import lint_policy
from ..plan import Plan
from ..record import read_record, write_atomic
from ..report import judge
from ..shipped import find, policies
from .console import emit, shown, talk
from .pictures import Embed, read_pictures
from .run import write_report


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", "outputs", multiple=True, type=click.Path(path_type=Path), help="File to write, by its suffix."
)
@click.option(
    "--embed-samples",
    type=click.Choice(get_args(Embed)),
    default="blurred",
    show_default=True,
    help="Pictures in .html: none, people and the like blurred, or all sharp.",
)
@click.option("--policy", help="Judge the audit again under this policy, and rewrite the report.")
def report(run: Path, outputs: tuple[Path, ...], embed_samples: Embed, policy: str | None) -> None:
    """Print a finished run's verdict, or write it in other formats; the exit code says nothing about it."""
    from ..render import render
    from ..render.terminal import verdict_table

    plan = read_record(run / "plan.json", Plan)
    audit = read_record(run / "audit.json", Audit)
    passes = read_record(run / "passes.json", PassRecords) if audit.passes_digest is not None else None
    rules = None
    if policy is None:
        result = check_run(run)
    else:
        rules, suite = lint_policy(find(policy, policies(), Path()))
        check_suite(plan, rules, suite)
        result = judge(plan, audit, rules, passes)
    paged = any(output.suffix.lower() == ".html" for output in outputs)
    pictures = read_pictures(run, plan, audit, embed_samples) if paged else {}
    if rules is not None:
        write_report(run, rules, result, plan, audit, passes, talk)
    for output in outputs:
        write_atomic(output, render(output, result, plan, audit, passes, pictures))
        talk(f"wrote {shown(output)}")
    if not outputs:
        emit(verdict_table(result))
