"""``fmn-guard policy``: what a policy demands."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import rich_click as click
from rich.table import Table

from ..lint import lint_policy
from ..manifest import Kind
from ..policy import PER_CONCEPT, ReleasePolicy, load_policy
from ..shipped import find, policies
from ..stats import percent
from .console import emit, emit_json


@click.group()
def policy() -> None:
    """Show the policies that judge."""


@policy.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_policies(as_json: bool) -> None:
    """List the policies that come with fmn-guard."""
    shipped = [load_policy(path).metadata for path in sorted(policies().glob("*.yaml"))]
    if as_json:
        emit_json([metadata.model_dump() for metadata in shipped])
    else:
        for metadata in shipped:
            click.echo(f"{metadata.name}: {metadata.description}")


@policy.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, as_json: bool) -> None:
    """Show a policy with every default filled in."""
    document, _ = lint_policy(find(name, policies(), Path()))
    if as_json:
        emit_json(document)
    else:
        _show(document)


def _show(document: ReleasePolicy) -> None:
    spec = document.spec
    rules = Table("Rule", "Limit", "Pictures", "Severity", title=document.metadata.name, box=None)
    for rule in spec.rules:
        rules.add_row(rule.id, rule.words, f">= {rule.min_samples}", rule.severity)
        if rule.metric in PER_CONCEPT and set(rule.kinds) != set(get_args(Kind)):
            rules.add_row("", f"only for {', '.join(rule.kinds)}")
    emit(rules)
    click.echo(f"""
suite: {spec.suite}
intervals: {spec.confidence:.0%}, two-sided
inconclusive: the base shows what is asked for in less than {percent(spec.base_shows_at_least)} of its pictures
no effect: a target drops by at most {percent(spec.no_effect_below)}
collapse: retained recognition falls below {percent(spec.collapse_below)} of the base's,
  or more than {percent(spec.collapse_degenerate)} of the pictures are constant""")
