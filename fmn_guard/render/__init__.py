"""A report in the formats people and pipelines read; one file per format.

Each is a pure function of what a run folder holds, and is listed once, in `FORMATS`. report.json is here: it is the
record itself. Tables for a terminal are in `terminal`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..plan import Plan
from ..record import pretty_json
from ..report import Report
from .annotations import github_annotations
from .badge import badge
from .bom import bom
from .controls import Frameworks, controls_json
from .csvfile import csvfile
from .html.samples import Pictures
from .junit import junit
from .markdown import markdown
from .modelcard import modelcard
from .summary import summary


class Run(NamedTuple):
    """What a report is written from, as `render` is given it."""

    report: Report
    plan: Plan
    audit: Audit
    passes: PassRecords | None
    pictures: Pictures = MappingProxyType({})
    frameworks: Frameworks = ()


class Format(NamedTuple):
    """One way to write a report."""

    about: str
    """What it is, in a few words for ``--help``."""
    write: Callable[[Run], str]
    """The text of the file."""


def _sarif(run: Run) -> str:
    from .sarif import sarif  # defining its records takes longer than all other formats together

    return sarif(run.report, run.plan)


def _html(run: Run) -> str:
    from .html.page import html  # the gate needs no jinja2

    return html(*run)


FORMATS: Mapping[str, Format] = {
    "html": Format("one page with pictures, for people", _html),
    "md": Format("all of it, for people", lambda run: markdown(run.report, run.plan, run.passes, run.frameworks)),
    "json": Format("all of it, for programs", lambda run: pretty_json(run.report)),
    "controls.json": Format(
        "evidence for controls, with --framework", lambda run: controls_json(run.report, run.frameworks)
    ),
    "sarif": Format("SARIF 2.1.0, for code scanning", _sarif),
    "junit.xml": Format("JUnit, for the test reports of CI", lambda run: junit(run.report, run.plan)),
    "csv": Format("a row per finding", lambda run: csvfile(run.report, run.plan)),
    "cdx.json": Format("CycloneDX 1.6 ML-BOM", lambda run: bom(run.report, run.plan, run.passes)),
    "card.md": Format("section of a Hugging Face model card", lambda run: modelcard(run.report, run.plan)),
    "summary.md": Format("summary of a GitHub step", lambda run: summary(run.report, run.plan)),
    "annotations.txt": Format("GitHub annotations, the 10 worst", lambda run: github_annotations(run.report, run.plan)),
    "badge.json": Format("shields.io endpoint badge", lambda run: badge(run.report)),
}
"""Every format, by how the name of its file ends."""


def format_of(path: Path) -> Format:
    """The format that a file's name asks for: ``report.sarif``, ``ci.junit.xml``, ``model-card.md``, ``badge.json``.

    The longest ending wins; before it stands nothing, or a dot, dash or underscore. Case does not matter.

    Raises:
        InputError: no format's name ends so.
    """
    for ending in sorted(FORMATS, key=len, reverse=True):
        if re.search(rf"(^|[._-]){re.escape(ending)}$", path.name.lower()):
            return FORMATS[ending]
    raise InputError(f"{path.name}: no report format ends so", hint=f"known are {', '.join(FORMATS)}")


def render(
    path: Path,
    report: Report,
    plan: Plan,
    audit: Audit,
    passes: PassRecords | None,
    pictures: Pictures = MappingProxyType({}),
    frameworks: Frameworks = (),
) -> str:
    """The text of a report, in the format that a file's name asks for.

    Args:
        path: The file it is meant for; nothing is written.
        report: What to show.
        plan: What was planned.
        audit: What was measured; for formats that show single pictures.
        passes: What the eraser did; None for a checkpoint that fmn-guard did not make.
        pictures: Pictures for formats that show them.
        frameworks: What HTML, Markdown and ``controls.json`` are to name evidence for.

    Raises:
        InputError: no format's name ends so.
    """
    return format_of(path).write(Run(report, plan, audit, passes, pictures, frameworks))
