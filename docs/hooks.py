"""What the build of the site adds to the pages: the reference, from the program itself, and names for what is outside.

Pages are written to be read in the repository too. There, a page of the reference tells below its mark where else to
look, and a link that leads out of ``docs/`` works; on the site, the reference is below the mark, and the link a name.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Any

import click

from fmn_guard.cli import main
from fmn_guard.schema import DOCUMENTS, schema_of

Schema = dict[str, Any]


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by ProperDocs with the text of each page, before it becomes HTML."""
    path = page.file.src_uri
    if path in GENERATED:
        above, mark, _ = markdown.partition(MARK)
        if not mark:
            raise ValueError(f"docs/{path} has no place for what is generated: {MARK}")
        markdown = above + GENERATED[path]()
    return _without_links_outside(markdown, posixpath.dirname(path))


def commands() -> str:
    """Every command as its ``--help`` tells it, in Markdown."""
    context = click.Context(main, info_name="fmn-guard", **main.context_settings)
    return "\n".join(_command(main, context))


def schemas() -> str:
    """Every kind of file, field by field, from its JSON Schema, in Markdown."""
    return "\n".join(line for name in DOCUMENTS for line in _document(f"fmn-guard schema {name}", schema_of(name)))


MARK = "<!-- generated -->"
GENERATED: dict[str, Callable[[], str]] = {"reference/commands.md": commands, "reference/schemas.md": schemas}


# ---- commands


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"## {context.command_path}\n"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        # Click keeps the lines of a paragraph that begins with a backspace.
        yield f"```text\n{paragraph[2:]}\n```\n" if paragraph.startswith("\b\n") else f"{paragraph}\n"
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [(f"`{names}`", _prose(text)) for names, text in filter(None, records) if names.startswith("-")]
    yield from _table(("option", "meaning"), rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None  # it was just listed
            yield from _command(below, click.Context(below, info_name=name, parent=context))


# ---- schemas


def _document(command: str, schema: Schema) -> Iterator[str]:
    kind, parts = schema["properties"]["kind"]["const"], schema["$defs"]
    yield f"## {kind}\n"
    yield f"`{command}` prints the schema that this is made from.\n"
    yield from _fields(kind, schema)
    for part in _parts(schema, parts):
        yield f"### {kind}: {part}\n"
        yield f"{_prose(parts[part]['description'])}\n"
        yield from _fields(kind, parts[part])


def _parts(schema: Schema, parts: Schema) -> list[str]:
    """Parts in the order in which a reader comes upon them."""
    named = re.findall(r"'#/\$defs/(\w+)'", str(schema["properties"]))
    return list(dict.fromkeys(found for part in named for found in (part, *_parts(parts[part], parts))))


def _fields(kind: str, schema: Schema) -> Iterator[str]:
    required = schema.get("required", ())
    rows = [
        (
            f"`{field}`",
            _type(kind, about),
            "required" if field in required else _default(about),
            _prose(about.get("description", "")),
        )
        for field, about in schema["properties"].items()
    ]
    yield from _table(("field", "is", "left out", "meaning"), rows)


def _type(kind: str, about: Schema) -> str:
    """A type in words, such as ``number, above 0, at most 1``; a part is linked."""
    match about:
        case {"$ref": ref}:
            part = ref.rpartition("/")[2]
            return f"[{part}](#{kind.lower()}-{part.lower()})"
        case {"anyOf": several} | {"oneOf": several}:
            return " or ".join(_type(kind, each) for each in several if each.get("type") != "null")
        case {"const": value}:
            return f"`{value}`"
        case {"enum": values}:
            return " or ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(kind, items)}"
        case {"type": "object"}:
            [values] = about.get("patternProperties", {"": about.get("additionalProperties")}).values()
            names = {"type": "string", **about.get("propertyNames", {})}
            return f"map from {_type(kind, names)} to {_type(kind, values)}"
        case {"format": name} | {"type": name}:
            bounds = (
                f"{words} {about[bound]:,}".removesuffix(".0") for bound, words in _BOUNDS.items() if bound in about
            )
            return ", ".join([_TYPES[name], *bounds])
        case _:
            raise ValueError(f"no words for {about}")


_TYPES = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "`true` or `false`",
    "date": "day",
}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _default(about: Schema) -> str:
    match about.get("default"):
        case None | "" | []:
            return "nothing"
        case dict():
            return "its own defaults"
        case list() as values:
            return ", ".join(f"`{value}`" for value in values)
        case value:
            return f"`{json.dumps(value)}`".replace('"', "")


# ---- Markdown


def _prose(text: str) -> str:
    """A docstring or help text, on one line; what is in angle brackets is no HTML."""
    parts = " ".join(text.replace("``", "`").split()).split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _without_links_outside(markdown: str, folder: str) -> str:
    """Names what a link out of ``docs/`` leads to: the site holds no other file of the repository."""

    def name(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link["target"]))
        return link[0] if target.startswith("docs/") else f"{link['text']} (`{target}` in the repository)"

    return re.sub(r"\[(?P<text>[^\]]+)\]\((?P<target>\.\./[^)\s#]*)(#[^)\s]*)?\)", name, markdown)
