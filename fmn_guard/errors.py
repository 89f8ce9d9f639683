"""Every error that fmn-guard raises on purpose.

    FmnGuardError             exit 1   something failed, and the message says what and the way out
    |-- MissingDependency     exit 1   an optional extra is not installed
    |-- PassError             exit 1   the eraser cannot do what the plan says
    `-- InputError            exit 2   bad usage or bad input
        |-- FileProblems      exit 2   all problems of one YAML file at once
        |-- RefusedArtefact   exit 2   pickle, remote code, a link out of the folder, the wrong base
        `-- BrokenChain       exit 2   a digest does not match what it was made from

Catch ``FmnGuardError`` to catch them all; ``exit_code`` is what the command line exits with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

_EXCERPT_WIDTH = 100


def quoted(value: object) -> str:
    """A stranger's value in a message: one line, printable, not endless."""
    text = repr(value)
    return text if len(text) <= _EXCERPT_WIDTH else f"{text[: _EXCERPT_WIDTH - 3]}..."


class FmnGuardError(Exception):
    """Base of all errors; printed as the message, an empty line and the hint.

    Args:
        message: What went wrong, naming the value and the rule.
        hint: The way out, when there is one.
    """

    exit_code: ClassVar[int] = 1

    # Exception.__new__ has put the arguments of the class into `args`, from which an error is rebuilt when it
    # crosses a process boundary. Exception.__init__ would replace them by the message, so it is not called.
    def __init__(self, message: str, /, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class MissingDependency(FmnGuardError):
    """An optional part of fmn-guard is not installed.

    Args:
        module: The module that could not be imported.
        extra: The extra of the fmn-guard distribution that brings it.
    """

    def __init__(self, module: str, extra: str, /) -> None:
        super().__init__(f"the Python module {module!r} is not installed", hint=f"pip install 'fmn-guard[{extra}]'")


class PassError(FmnGuardError):
    """A pass cannot do what the plan says: its token is not found, its hooks see nothing."""


class InputError(FmnGuardError):
    """Bad usage or bad input."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem at one place of a text file; lines and columns count from 1.

    Attributes:
        path: The file.
        line: The line the caret stands under.
        column: The column the caret stands under.
        rule: Stable id of the broken rule, such as ``unknown-key``.
        message: What is wrong, with the value.
        hint: The way out, when there is one.
        source_line: The line as written; None when the problem is about the whole file.
    """

    path: Path
    line: int
    column: int
    rule: str
    message: str
    hint: str | None = None
    source_line: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.path}:{self.line}:{self.column}: {self.rule}: {self.message}"]
        if self.source_line is not None:
            parts += self._excerpt(self.source_line)
        if self.hint is not None:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)

    def _excerpt(self, source_line: str) -> list[str]:
        text, caret = source_line, self.column - 1
        if len(text) > _EXCERPT_WIDTH:
            start = max(0, min(caret - _EXCERPT_WIDTH // 2, len(text) - _EXCERPT_WIDTH))
            before = "..." if start > 0 else ""
            after = "..." if start + _EXCERPT_WIDTH < len(text) else ""
            text = before + text[start : start + _EXCERPT_WIDTH] + after
            caret += len(before) - start
        # Tabs would shift the caret, and escape sequences of a hostile file must not reach a terminal.
        text = "".join(char if char.isprintable() else " " for char in text)
        return [f"{self.line:>5} | {text}".rstrip(), f"      | {' ' * caret}^"]


class FileProblems(InputError):
    """All problems of one file, in the order in which they stand in it.

    Args:
        problems: At least one problem.
    """

    def __init__(self, problems: Iterable[Problem], /) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.args = (self.problems,)  # an iterator could not be pickled
        super().__init__("\n\n".join(map(str, self.problems)))


class RefusedArtefact(InputError):
    """An artefact that is not safe to load, or not the one that the plan was made for."""

    @classmethod
    def of(cls, path: Path, rule: str, message: str, hint: str) -> "RefusedArtefact":
        """An error in one line about one file of it: ``path: rule: message``.

        Args:
            path: The file.
            rule: Stable id of the broken rule, such as ``not-finite``.
            message: What is wrong, with the value; `quoted` where the value is the file's.
            hint: The way out.
        """
        # Names of files are a stranger's too: an escape sequence or a line of its own must not reach a terminal.
        where = "".join(char if char.isprintable() else "?" for char in str(path))
        return cls(f"{where}: {rule}: {message}", hint=hint)


class BrokenChain(InputError):
    """A digest in an artefact does not match the file it points to."""
