"""``fmn-guard lint``: everything that is wrong with files, at once."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import FileProblems, Problem
from ..lint import lint_file, policy_warnings
from .console import emit_json, shown, talk
from .today import today


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def lint(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Check manifests, policies, suites, cases and frameworks, and report all problems with line and column.

    A manifest is also checked against its base checkpoint and its pictures, a policy against its suite and what it
    extends. Exits with 2 if there is any problem; an expired waiver is a warning.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for file in files:
        try:
            kind = lint_file(file)
        except FileProblems as error:
            problems += error.problems
        else:
            warnings += policy_warnings(file, today())
            talk(f"{shown(file)}: {kind}, no problems")
    for warning in warnings:
        talk(f"warning: {warning}")
    if as_json:
        found = {"problems": [_plain(each) for each in problems], "warnings": [_plain(each) for each in warnings]}
        emit_json({"files": [shown(file) for file in files], **found})
    elif problems:
        click.echo("\n\n".join(map(str, problems)))
    if problems:
        ctx.exit(FileProblems.exit_code)


def _plain(problem: Problem) -> dict[str, object]:
    return {
        "path": shown(problem.path),
        "line": problem.line,
        "column": problem.column,
        "rule": problem.rule,
        "message": problem.message,
        "hint": problem.hint,
    }
