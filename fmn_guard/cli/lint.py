"""``fmn-guard lint``: everything that is wrong with files, at once."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import FileProblems, Problem
from ..lint import lint_file
from .console import emit_json, shown, talk


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def lint(ctx: click.Context, files: tuple[Path, ...], as_json: bool) -> None:
    """Check manifests, policies and suites, and report all problems with line and column.

    A manifest is also checked against its base checkpoint and its pictures, a policy against its suite.
    Exits with 2 if there is any problem.
    """
    problems: list[Problem] = []
    for file in files:
        try:
            kind = lint_file(file)
        except FileProblems as error:
            problems += error.problems
        else:
            talk(f"{shown(file)}: {kind}, no problems")
    if as_json:
        emit_json({"files": [shown(file) for file in files], "problems": [_plain(problem) for problem in problems]})
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
