"""A report in the formats people and pipelines read; one file per format.

report.md by `markdown`, tables for a terminal by `terminal`, report.json here: it is the record itself.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..plan import Plan
from ..record import pretty_json
from ..report import Report
from .html.samples import Pictures
from .markdown import markdown


def render(
    path: Path,
    report: Report,
    plan: Plan,
    audit: Audit,
    passes: PassRecords | None,
    pictures: Pictures = MappingProxyType({}),
) -> str:
    """The text of a report, in the format that a file's suffix names.

    Args:
        path: The file it is meant for; nothing is written.
        report: What to show.
        plan: What was planned.
        audit: What was measured; for formats that show single pictures.
        passes: What the eraser did; None for a checkpoint that fmn-guard did not make.
        pictures: Pictures for formats that show them.

    Raises:
        InputError: the suffix is not known.
    """
    match path.suffix.lower():
        case ".md":
            return markdown(report, plan, passes)
        case ".json":
            return pretty_json(report)
        case ".html":
            from .html.page import html  # the gate needs no jinja2

            return html(report, plan, audit, passes, pictures)
        case _:
            raise InputError(f"{path.name}: no report format {path.suffix!r}", hint="known are .html, .json and .md")
