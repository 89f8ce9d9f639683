"""What a Markdown document is made of: sections, tables, lists, and text that cannot break out of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .text import one_line


def sections(parts: Mapping[str, Iterable[str]], level: int) -> Iterator[str]:
    """Each part under its heading; those without lines are left out."""
    for title, body in parts.items():
        if content := list(body):
            yield from ("", f"{'#' * level} {title}", "", *content)


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A table, or nothing without rows."""
    body = [f"| {' | '.join(map(cell, row))} |" for row in rows]
    if body:
        yield f"| {' | '.join(header)} |"
        yield f"|{'---|' * len(header)}"
        yield from body


def bullets(items: Iterable[str]) -> Iterator[str]:
    """A list, or nothing without items."""
    return (f"- {item}" for item in items)


def cell(text: str) -> str:
    """Text that cannot break out of its place, nor name a folder."""
    return re.sub(r"([\\`*<>|\[\]&#~$])", r"\\\1", one_line(text))
