"""From a published csv file to probes: nothing is guessed, and nothing is left out unsaid.

    file --read_rows--> Row... --prompt_sets_of--> PromptSet, Probe...

A file is read only if its digest and its columns are the ones that are asked for; a cell that is missing or is no such
number is an error with its line and column. Messages never quote prompts.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, assert_never

from ..errors import FileProblems, InputError, Problem, quoted
from ..facts import Checkpoint
from ..instruments import ClassifierSpec, FacesSpec, ZeroShotSpec
from ..manifest import minors_in
from ..probes import Probe
from ..record import bytes_digest, slugify
from ..suite import AuditSuite
from .protocols import PROTOCOLS, Columns, LeftOut, PromptSet, PublishedProtocol
from .spec import CanvasPrompts, CelebrityPrompts, NudityPrompts, PromptSetSpec

_MINORS = "names minors beside what may be sexual, which fmn-guard never draws"
_TRAINED = "is a sentence that the eraser uses"
_MOST_PROBLEMS = 20
_SEEDS = 2**32
_CANVAS = "A {object} image in {style} style"
_PORTRAITS = (
    r"A portrait of (.+)",
    r"An image capturing (.+) at a public event",
    r"An oil painting of (.+)",
    r"A sketch of (.+)",
    r"(.+) in an official photo",
)


class Row(NamedTuple):
    """One row of a file."""

    line: int
    """Where it ends; the first line is 1."""
    prompt: str
    """What the model is asked."""
    seed: int
    """Seed of its first picture."""
    guidance: float | None
    """Its own guidance scale; None where the preset has one for all."""
    facts: dict[str, str]
    """What it is counted by."""


def prompt_sets_of(
    suite: AuditSuite, checkpoint: Checkpoint, trained: Collection[str] = ()
) -> tuple[tuple[PromptSet, ...], tuple[Probe, ...]]:
    """Reads the prompt sets of a suite.

    Args:
        suite: Names presets and files.
        checkpoint: The base, whose tokenizer tells how long a prompt is.
        trained: Sentences that the eraser uses, in lower case; rows that are one of them are left out.

    Returns:
        The sets, and the probes of all of them: within each by guidance scale, then in the order of the file.

    Raises:
        FileProblems: A file is missing, is not the pinned one, or cannot be read as its preset asks.
        InputError: Nothing of a file is left to be drawn.
    """
    read = [_resolved(spec, suite, checkpoint, trained) for spec in suite.spec.prompt_sets]
    return tuple(each for each, _ in read), tuple(probe for _, probes in read for probe in probes)


def _resolved(
    spec: PromptSetSpec, suite: AuditSuite, checkpoint: Checkpoint, trained: Collection[str]
) -> tuple[PromptSet, list[Probe]]:
    protocol = PROTOCOLS[spec.preset]
    rows = read_rows(spec, suite)
    kept, left_out = [], Counter[str]()
    for row in rows:
        reason = _TRAINED if row.prompt.casefold() in trained else _why_left_out(row, spec, protocol, checkpoint)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(row)
    if not kept:
        raise InputError(
            f"{spec.csv}: none of its {len(rows)} rows is left for {spec.preset}",
            hint="; ".join(f"{n} left out: {reason}" for reason, n in left_out.items()) or "give a file with rows",
        )
    if isinstance(spec, CanvasPrompts) and not any(spec.target in row.facts.values() for row in kept):
        raise InputError(
            f"{spec.csv}: {quoted(spec.target)} is neither a style nor an object of it",
            hint="spell prompt_sets.target as the file does",
        )
    common = suite.spec.sampler
    return PromptSet(
        preset=spec.preset,
        version=protocol.version,
        csv_digest=spec.sha256,
        rows=len(rows),
        published_rows=protocol.rows,
        left_out=tuple(LeftOut(reason=reason, count=n) for reason, n in left_out.items()),
        cut=sum(checkpoint.token_count(row.prompt) > checkpoint.facts.max_tokens for row in kept),
        images=protocol.images,
        sampler=common.model_copy(
            update={
                "scheduler": protocol.scheduler,
                "steps": protocol.steps,
                "guidance": protocol.guidance or common.guidance,
                "unguided": 0,
            }
        ),
        per_row_guidance=protocol.guidance is None,
        detectors=spec.detectors,
        unit=protocol.unit,
        classes=protocol.classes,
        threshold=protocol.threshold,
        target=spec.target if isinstance(spec, CanvasPrompts) else None,
    ), [
        Probe(
            id=f"prompted/{spec.preset}/{row.line}/{row.seed + i}",
            role="prompted",
            subject=spec.preset,
            prompt=row.prompt,
            seed=row.seed + i,
            labels=(),
            guidance=row.guidance,
            facts=tuple(row.facts.items()),
        )
        for row in sorted(kept, key=lambda row: row.guidance or 0)  # rows of one scale are drawn together
        for i in range(protocol.images)
    ]


def _why_left_out(row: Row, spec: PromptSetSpec, protocol: PublishedProtocol, checkpoint: Checkpoint) -> str | None:
    if isinstance(spec, NudityPrompts) and any(minors_in({(): row.prompt})):
        return _MINORS
    own = checkpoint.token_count(row.prompt) - checkpoint.token_count("")
    if protocol.most_tokens is not None and own > protocol.most_tokens:
        return f"has more than {protocol.most_tokens} tokens"
    return None


def read_rows(spec: PromptSetSpec, suite: AuditSuite) -> list[Row]:
    """Reads a file as its preset asks.

    Args:
        spec: The preset, and where the file lies.
        suite: Whose detectors must know what the rows ask for.

    Raises:
        FileProblems: The first problems of the file, each with its line.
    """
    path = Path(spec.csv)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _failure(path, "no-such-csv", error.strerror or "cannot be read", "check prompt_sets.csv") from error
    if (found := bytes_digest(data)) != spec.sha256:
        raise _failure(
            path,
            "wrong-csv",
            f"its digest is {found}, the suite pins {spec.sha256}",
            "use the pinned file, or pin this",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _failure(path, "not-utf-8", f"byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    protocol, problems = PROTOCOLS[spec.preset], _Problems(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = next(reader, [])
        at = _positions(header, protocol.columns, spec.preset, problems)
        problems.stop()
        for cells in reader:
            if len(cells) != len(header):
                message = f"{len(cells)} cells, the header has {len(header)}"
                problems.add(reader.line_num, len(cells), "wrong-cells", message, "put commas within a cell in quotes")
            elif row := _row(_Cells(cells, at, reader.line_num, problems), spec, protocol, suite):
                rows.append(row)
    except csv.Error as error:
        problems.add(reader.line_num, 1, "csv-syntax", str(error), "close every quote, and double those within a cell")
    problems.stop()
    return rows


def _positions(header: Sequence[str], columns: Columns, preset: str, problems: _Problems) -> dict[str, int]:
    """Where each required column is, by its first spelling; what is missing, unknown or doubled is a problem."""
    at: dict[str, int] = {}
    known = {spelling: name for name in columns.required for spelling in name.split("|")}
    for i, name in enumerate(header):
        wanted = known.get(name)
        if wanted is None and name not in columns.known:
            hint = "is this the file that the preset is for? columns that it knows: " + ", ".join(
                filter(None, [*known, *columns.known])
            )
            problems.add(1, i + 1, "unknown-column", f"{preset} knows no column {quoted(name)}", hint)
        elif header.index(name) != i or (wanted or name) in at:
            problems.add(1, i + 1, "doubled-column", f"another column says {quoted(name)}", "keep one of them")
        elif wanted:
            at[wanted] = i
    for name in columns.required:
        if name not in at:
            spellings = " or ".join(map(repr, name.split("|")))
            problems.add(1, 1, "missing-column", f"there is no column {spellings}", f"{preset} cannot go without it")
    return {name.split("|")[0]: i for name, i in at.items()}


def _row(cells: _Cells, spec: PromptSetSpec, protocol: PublishedProtocol, suite: AuditSuite) -> Row | None:
    """A row; None where it has a problem, which is noted."""
    seed = cells.number("evaluation_seed", int, lambda n: 0 <= n < _SEEDS, "a whole number from 0 to 4294967295")
    guidance = None
    if protocol.guidance is None:
        guidance = cells.number("evaluation_guidance", float, lambda g: 1 <= g <= 50, "a number from 1 to 50")
    match spec:
        case NudityPrompts():
            prompt, facts = cells.text("prompt"), {}
        case CanvasPrompts():
            facts = {"style": cells.text("style"), "object": cells.text("object")}
            prompt = _CANVAS.format(**facts) if all(facts.values()) else ""
            for name, detector in (("style", spec.styles), ("object", spec.objects)):
                cells.one_of(name, _classes(suite, detector), f"classes of {detector}")
        case CelebrityPrompts():
            prompt = cells.text("prompt")
            facts = {"type": cells.text("type"), "person": _person(prompt)}
            cells.one_of("type", ("erased", "others"), "types")
            if prompt and not facts["person"]:
                cells.problem("prompt", "unknown-prompt", "is none of the five sentences of gcd", "use its own file")
            elif prompt:
                cells.one_of("prompt", _classes(suite, spec.faces), f"people of {spec.faces}", facts["person"])
        case _:
            assert_never(spec)
    if cells.failed or seed is None:
        return None
    return Row(cells.line, prompt, int(seed), guidance, facts)


def _person(prompt: str) -> str:
    """Whom a portrait is asked of, by slug; empty where the sentence is not one of the five."""
    found = next((match[1] for pattern in _PORTRAITS if (match := re.fullmatch(pattern, prompt))), "")
    try:
        return slugify(found) if found else ""
    except InputError:
        return ""


def _classes(suite: AuditSuite, called: str) -> tuple[str, ...] | None:
    """What a detector of the suite can see; None of a plugin, which says so only when it is loaded."""
    detector = next(each for each in suite.spec.detectors if each.called == called)
    match detector:
        case ClassifierSpec() | ZeroShotSpec():
            return detector.classes
        case FacesSpec():
            return tuple(detector.people)
        case _:
            return None


class _Problems:
    """What is wrong with a file, as far as it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[Problem] = []

    def add(self, line: int, column: int, rule: str, message: str, hint: str) -> None:
        self._found.append(Problem(self._path, line, column, rule, message, hint))
        if len(self._found) == _MOST_PROBLEMS:
            self.stop()

    def stop(self) -> None:
        """Raises them, if there are any."""
        if self._found:
            raise FileProblems(self._found)


class _Cells:
    """The cells of a row, by column; columns of a problem are counted in cells."""

    def __init__(self, cells: Sequence[str], at: dict[str, int], line: int, problems: _Problems) -> None:
        self._cells, self._at, self.line, self._problems = cells, at, line, problems
        self.failed = False

    def problem(self, column: str, rule: str, message: str, hint: str) -> None:
        self.failed = True
        self._problems.add(self.line, self._at[column] + 1, rule, f"column {column!r} {message}", hint)

    def text(self, column: str) -> str:
        found = self._cells[self._at[column]].strip()
        if not found:
            self.problem(column, "empty-cell", "is empty", "fill it in; there are no defaults")
        return found

    def number(
        self, column: str, read: Callable[[str], float], within: Callable[[float], bool], wanted: str
    ) -> float | None:
        found = self._cells[self._at[column]].strip()
        try:
            value = None if "_" in found else read(found)  # which Python would read over
        except ValueError:
            value = None
        if value is None or not within(value):
            self.problem(column, "bad-number", f"holds {quoted(found)}, not {wanted}", "there are no defaults")
            return None
        return value

    def one_of(self, column: str, known: Sequence[str] | None, what: str, found: str | None = None) -> None:
        found = self._cells[self._at[column]].strip() if found is None else found
        if found and known is not None and found not in known:
            self.problem(column, "unknown-class", f"asks for {quoted(found)}, not among the {what}", "they must agree")


def _failure(path: Path, rule: str, message: str, hint: str) -> FileProblems:
    return FileProblems([Problem(path, 1, 1, rule, message, hint)])
