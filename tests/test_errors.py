"""The error tree: what users see, and what survives a process boundary."""

import pickle
import time
from pathlib import Path

import pytest

from fmn_guard.errors import (
    BrokenChain,
    FileProblems,
    FmnGuardError,
    InputError,
    MissingDependency,
    PassError,
    Problem,
    RefusedArtefact,
)

BIKE = Problem(
    Path("manifests/x.yaml"),
    7,
    7,
    "unknown-key",
    "'alias' is not a field of an object concept",
    "did you mean 'aliases'?",
    "      alias: [bike]",
)


def test_an_error_reads_as_its_message_when_there_is_no_hint() -> None:
    assert str(PassError("no token of 'van gogh'")) == "no token of 'van gogh'"


def test_the_hint_follows_after_an_empty_line() -> None:
    error = PassError("no token of 'van gogh'", hint="check the phrase")
    assert str(error) == "no token of 'van gogh'\n\nhint: check the phrase"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FmnGuardError("x"), 1),
        (MissingDependency("torch", "run"), 1),
        (PassError("x"), 1),
        (InputError("x"), 2),
        (FileProblems([BIKE]), 2),
        (RefusedArtefact("x"), 2),
        (BrokenChain("x"), 2),
    ],
)
def test_each_error_has_the_exit_code_of_its_branch(error: FmnGuardError, code: int) -> None:
    assert error.exit_code == code


def test_a_missing_dependency_says_which_extra_to_install() -> None:
    error = MissingDependency("torch", "run")
    assert "'torch'" in error.message
    assert error.hint == "pip install 'fmn-guard[run]'"


@pytest.mark.parametrize(
    "error",
    [
        PassError("message", hint="hint"),
        MissingDependency("torch", "run"),
        FileProblems(iter([BIKE, BIKE])),
    ],
)
def test_errors_survive_a_process_boundary(error: FmnGuardError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.hint == error.hint


def test_a_problem_shows_place_rule_line_caret_and_hint() -> None:
    assert str(BIKE) == (
        "manifests/x.yaml:7:7: unknown-key: 'alias' is not a field of an object concept\n"
        "    7 |       alias: [bike]\n"
        "      |       ^\n"
        "hint: did you mean 'aliases'?"
    )


def test_a_problem_of_the_whole_file_is_one_line() -> None:
    problem = Problem(Path("x.yaml"), 1, 1, "empty-file", "the file holds no data")
    assert str(problem) == "x.yaml:1:1: empty-file: the file holds no data"


def test_file_problems_are_separated_by_empty_lines() -> None:
    assert str(FileProblems([BIKE, BIKE])) == f"{BIKE}\n\n{BIKE}"


@pytest.mark.parametrize("column", [1, 2, 50, 51, 100, 101, 499, 500, 501])
def test_a_long_line_is_clipped_and_the_caret_still_points_at_its_character(column: int) -> None:
    line = "".join(chr(0x4E00 + i) for i in range(500))
    _, excerpt, caret = str(Problem(Path("x.yaml"), 1, column, "rule", "message", None, line)).splitlines()
    assert len(excerpt) <= len("    1 | ") + 106
    pointed_at = excerpt[caret.index("^") :][:1]
    assert pointed_at == line[column - 1 : column]


def test_many_problems_of_one_long_line_are_told_in_no_time() -> None:
    line = "1," * 500_000
    began = time.process_time()
    for column in range(1, 100_000, 200):
        str(Problem(Path("x.yaml"), 1, column, "rule", "message", None, line))
    assert time.process_time() - began < 2


def test_tabs_and_escape_sequences_of_the_file_do_not_reach_the_terminal() -> None:
    text = str(Problem(Path("x.yaml"), 1, 3, "rule", "message", None, "\t\x1b[31mred"))
    assert "\x1b" not in text
    assert "\t" not in text
