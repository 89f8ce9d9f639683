"""``fmn-guard no-pickle``: nothing in here runs code when it is loaded."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from ..errors import FileProblems, Problem
from ..pickles import why_pickle

_HINT = (
    "save weights as safetensors, for one with save_pretrained(..., safe_serialization=True); "
    "leave a file that is something else out of the check"
)


@click.command("no-pickle")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def no_pickle(files: tuple[Path, ...]) -> None:
    """Refuse files that can run code when they are loaded, by name and by content; none is loaded.

    Looks for .bin, .ckpt, .pt, .pth, .pkl and .pickle, and for pickles under any other name, .safetensors too. Exits
    with 2 if there is one. Meant for a pre-commit hook.
    """
    problems = [problem for file in files if (problem := _problem(file))]
    if problems:
        raise FileProblems(problems)


def _problem(file: Path) -> Problem | None:
    try:
        reason = why_pickle(file)
    except OSError as error:
        return Problem(file, 1, 1, "unreadable-file", str(error.strerror), "check the path and its permissions")
    return Problem(file, 1, 1, "pickle", f"this {reason}", _HINT) if reason else None
