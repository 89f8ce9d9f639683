"""What commands print: data on stdout, talk on stderr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..record import pretty_json

Talk = Callable[[str], None]


def talk(text: str) -> None:
    """Says something on stderr."""
    click.echo(text, err=True)


def keep_quiet(text: str) -> None:
    """What `talk` is under ``--quiet``."""


def emit_json(value: object) -> None:
    """Prints a record or plain data as the one JSON document of stdout."""
    click.echo(pretty_json(value), nl=False)


def emit(table: Table) -> None:
    """Prints a table on stdout; colours only on a terminal, none under NO_COLOR."""
    Console().print(table)


def shown(path: Path) -> str:
    """A path as people read it: from the current directory when it lies below."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(path)
