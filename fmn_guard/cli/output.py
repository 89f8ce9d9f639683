"""``-o`` and ``--github``: the formats a verdict is written in, for `report`, `apply` and `audit` alike.

What is asked for is checked before anything runs, and all of it is rendered before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import rich_click as click

from ..attacks.measured import FILE as ATTACKS
from ..chain import CLEANED, FILES, MIGRATED, SIGNATURE
from ..errors import InputError
from ..evidence import Audit, PassRecords
from ..frameworks import ComplianceFramework, load_framework
from ..mscore import FILE as MSCORE
from ..plan import Plan
from ..record import write_atomic
from ..render import FORMATS, format_of, render
from ..report import Report
from ..review import FILE as REVIEW
from ..shipped import find
from ..shipped import frameworks as shipped_frameworks
from .console import Talk, shown
from .pictures import Embed, read_pictures

F = TypeVar("F", bound=Callable[..., None])

_STAGES = (
    "plan.json",
    "passes.json",
    "audit.json",
    MSCORE,
    ATTACKS,
    REVIEW,
    "policy.json",
    MIGRATED,
    FILES,
    CLEANED,
    SIGNATURE,
)
_SUMMARY = "GITHUB_STEP_SUMMARY"


def formats_help() -> str:
    """The formats as a list for ``--help``."""
    wide = max(map(len, FORMATS)) + 2
    lines = "\n".join(f"  {ending:{wide}}{known.about}" for ending, known in FORMATS.items())
    return f"\b\nFormats, by how the name of the file ends:\n{lines}"


def output_options(command: F) -> F:
    """Adds the options; the command gets ``outputs``, ``github``, ``embed_samples`` and ``frameworks``."""
    output = click.option(
        "-o",
        "--output",
        "outputs",
        multiple=True,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write the report in a further format, by the end of the name: r.sarif, ci.junit.xml, model-card.md; see "
        "`fmn-guard report --help`. May be given several times; -.csv and the like go to stdout.",
    )
    github = click.option(
        "--github",
        is_flag=True,
        help="In GitHub Actions: add the summary to the step's, and annotate the manifest.",
    )
    samples = click.option(
        "--embed-samples",
        type=click.Choice(get_args(Embed)),
        default="blurred",
        show_default=True,
        help="Pictures in .html: none, people and the like blurred, or all sharp.",
    )
    framework = click.option(
        "--framework",
        "frameworks",
        multiple=True,
        metavar="NAME|FILE",
        help="Say which of its controls this is evidence for: here in a line, in full in .html, .md and .controls.json "
        "(`fmn-guard policy frameworks` lists some). May be given several times.",
    )
    return output(samples(framework(github(command))))


def read_frameworks(names: tuple[str, ...]) -> tuple[ComplianceFramework, ...]:
    """Reads frameworks by shipped name or by path.

    Raises:
        InputError: there is no such framework, or two are of one name.
        FileProblems: one is not valid.
    """
    found = tuple(load_framework(find(name, shipped_frameworks(), Path())) for name in names)
    called = [framework.metadata.name for framework in found]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"--framework {twice[0]} is given twice", hint="name each framework once")
    return found


@dataclass(frozen=True)
class Outputs:
    """What is asked for: files, whether GitHub is told, and whether stdout gets the report as JSON.

    Raises:
        InputError: a file's format is not known, its folder does not exist, it is given twice or is a stage of the
            run; or there is no step of GitHub's to tell.
    """

    files: tuple[Path, ...]
    github: bool
    samples: Embed
    run: Path
    frameworks: tuple[ComplianceFramework, ...] = ()
    as_json: bool = False

    def __post_init__(self) -> None:
        for path in self.files:
            if format_of(path) is FORMATS["controls.json"] and not self.frameworks:
                raise InputError(f"-o {path}: no framework is named", hint="name those it is about with --framework")
            if self.files.count(path) > 1:
                raise InputError(f"-o {path} is given twice", hint="one file holds one report")
            if not _is_stdout(path):
                with _refused(shown(path)):
                    self._check_place(path)
        if sum(map(_is_stdout, self.files)) + self.as_json > 1:
            raise InputError("two documents for stdout", hint="write all but one to files")
        if self.github and not os.environ.get(_SUMMARY):
            raise InputError(f"--github: {_SUMMARY} is not set", hint="leave it out outside of GitHub Actions")

    def _check_place(self, path: Path) -> None:
        if not path.parent.is_dir() and path.parent.resolve() != self.run.resolve():  # which is made when needed
            raise InputError(f"{shown(path)}: there is no folder {path.parent}", hint="create it first")
        if path.is_dir():
            raise InputError(f"{shown(path)} is a folder", hint="give a file in it")
        if path.resolve() in {(self.run / name).resolve() for name in _STAGES}:
            raise InputError(
                f"{shown(path)} is a stage of the run, which reports are made from", hint="give another name"
            )
        if self.frameworks and path.resolve() == (self.run / "report.md").resolve():
            raise InputError(
                f"{shown(path)} is a file of the run, which says nothing of frameworks", hint="give another name"
            )

    @property
    def to_stdout(self) -> bool:
        """Whether stdout is taken by one of them."""
        return any(map(_is_stdout, self.files))

    def rendered(self, report: Report, plan: Plan, audit: Audit, passes: PassRecords | None) -> Rendered:
        """Renders all of it; nothing is written yet."""
        paged = any(format_of(path) is FORMATS["html"] for path in self.files)
        pictures = read_pictures(self.run, plan, audit, self.samples) if paged else {}
        texts = {path: render(path, report, plan, audit, passes, pictures, self.frameworks) for path in self.files}
        if not self.github:
            return Rendered(texts)
        told = (render(Path(name), report, plan, audit, passes) for name in ("summary.md", "annotations.txt"))
        return Rendered(texts, *told)


@dataclass(frozen=True)
class Rendered:
    """Texts, ready to be written."""

    files: dict[Path, str]
    summary: str = ""
    annotations: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that are written."""
        return tuple(path for path in self.files if not _is_stdout(path))

    def write(self, say: Talk) -> None:
        """Writes the files, and tells GitHub.

        Raises:
            InputError: a file cannot be written.
        """
        for path, text in self.files.items():
            if _is_stdout(path):
                click.echo(text.encode(), nl=False)  # as bytes: CSV has line ends of its own
                continue
            with _refused(shown(path)):
                write_atomic(path, text)
            say(f"wrote {shown(path)}: {format_of(path).about}")
        if self.summary:
            with _refused(_SUMMARY), Path(os.environ[_SUMMARY]).open("a", encoding="utf-8") as step:
                step.write(self.summary)
        if self.annotations:
            click.echo(self.annotations, nl=False, err=True)  # the runner reads both, and stdout is for data


@contextmanager
def _refused(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{name} cannot be written: {error.strerror}", hint="check permissions and the space that is left"
        ) from error


def _is_stdout(path: Path) -> bool:
    return path.parent == Path() and path.name.startswith("-.")
