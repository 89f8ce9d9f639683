"""``fmn-guard policy``: what a policy demands, where that is written, and whether it judges as its author meant."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.table import Table

from ..cases import check_cases
from ..errors import Problem
from ..explain import explain as explain_rule
from ..frameworks import ComplianceFramework, load_framework
from ..gate import exit_code
from ..lint import lint_policy
from ..policy import Place, ReleasePolicy, load_policy, resolve_policy
from ..record import digest
from ..shipped import find, policies
from ..shipped import frameworks as shipped_frameworks
from ..stats import percent
from .console import emit, emit_json, shown, talk


@click.group()
def policy() -> None:
    """Show, explain and test the policies that judge."""


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
@click.option("--resolved", is_flag=True, help="Show every field, with the file and line that it comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(name: str, resolved: bool, as_json: bool) -> None:
    """Show a policy with all that it extends and every default filled in."""
    path = find(name, policies(), Path())
    document, _ = lint_policy(path)
    if not resolved:
        if as_json:
            emit_json(document)
        else:
            _show(document)
        return
    fields = list(resolve_policy(path).fields())
    if as_json:
        rows = [{"field": field, "value": value, **_origin(place)} for field, value, place in fields]
        emit_json({"policy": document.metadata.name, "digest": digest(document), "fields": rows})
    else:
        for field, value, place in fields:
            click.echo(f"{field}: {_value(value)}  [{_where(place)}]")


@policy.command()
@click.argument("rule")
@click.option("--policy", "name", metavar="NAME|FILE", default="default", show_default=True, help="The rule's policy.")
def explain(rule: str, name: str) -> None:
    """Explain a rule: what is counted, what passes, how many pictures it takes, and where its limit comes from."""
    for title, text in explain_rule(resolve_policy(find(name, policies(), Path())), rule).items():
        click.echo(f"{title}: {text}")


@policy.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def test(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Judge the cases in files, and exit with 3 if an outcome is not the one that they expect."""
    wrong: list[Problem] = []
    for file in files:
        document, problems = check_cases(file)
        wrong += problems
        count = len(document.spec.cases)
        talk(f"{shown(file)}: {count} cases, {f'{len(problems)} outcomes' if problems else 'none'} not as expected")
    if as_json:
        emit_json({"files": [shown(file) for file in files], "unexpected": [_unexpected(each) for each in wrong]})
    elif wrong:
        click.echo("\n\n".join(map(str, wrong)))
    if wrong:
        ctx.exit(exit_code("fail"))


@policy.command()
@click.argument("name", metavar="[NAME|FILE]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def frameworks(name: str | None, as_json: bool) -> None:
    """List the frameworks that reports may be evidence for, or show the controls of one.

    A report is evidence, never a statement of compliance.
    """
    if name is not None:
        framework = load_framework(find(name, shipped_frameworks(), Path()))
        if as_json:
            emit_json(framework)
        else:
            _show_framework(framework)
        return
    known = [load_framework(path) for path in sorted(shipped_frameworks().glob("*.yaml"))]
    if as_json:
        emit_json([framework.model_dump(mode="json", by_alias=True) for framework in known])
    else:
        for framework in known:
            spec = framework.spec
            click.echo(f"{framework.metadata.name}: {spec.title}, {len(spec.controls)} controls, {framework.standing}")


def _show(document: ReleasePolicy) -> None:
    spec = document.spec
    rules = Table("Rule", "Limit", "Pictures", "Severity", title=document.metadata.name, box=None)
    for rule in spec.rules:
        rules.add_row(rule.id, rule.words, f">= {rule.min_samples}", rule.severity)
        if rule.scope:
            rules.add_row("", f"only {rule.scope}")
        if rule.on_inconclusive == "fail":
            rules.add_row("", "inconclusive counts as fail")
    emit(rules)
    click.echo(f"""
suite: {spec.suite}
intervals: {spec.confidence:.0%}, two-sided
inconclusive: the base shows what is asked for in less than {percent(spec.base_shows_at_least)} of its pictures
no effect: a target drops by at most {percent(spec.no_effect_below)}
collapse: retained recognition falls below {percent(spec.collapse_below)} of the base's,
  or more than {percent(spec.collapse_degenerate)} of the pictures are constant""")
    required = spec.evidence.model_dump(exclude_defaults=True)
    if required:
        click.echo(f"required evidence: {', '.join(f'{name} {_value(value)}' for name, value in required.items())}")
    for waiver in spec.waivers:
        click.echo(f"waived: {waiver.about}, by {waiver.owner} until {waiver.expires}: {waiver.reason}")


def _show_framework(framework: ComplianceFramework) -> None:
    spec = framework.spec
    click.echo(f"{spec.title}, {framework.standing}\nsource: {spec.source.title}, {spec.source.url}")
    for control in spec.controls:
        click.echo(f"""
{control.id}: {control.title}
  evidence for it: findings on {control.evidence}
  not covered: {control.not_covered}""")


def _value(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(value)


def _file(place: Place) -> str:
    """The file of a field, from the current directory when it lies below."""
    return place.file if place.file.startswith("shipped:") else shown(place.positions.path)


def _where(place: Place | None) -> str:
    return f"{_file(place)}:{place.line}" if place else "default"


def _origin(place: Place | None) -> dict[str, object]:
    return {"file": _file(place) if place else None, "line": place.line if place else None}


def _unexpected(problem: Problem) -> dict[str, object]:
    return {"path": shown(problem.path), "line": problem.line, "message": problem.message, "because": problem.hint}
