"""YAML files: what is read, where it is written, and every way in which a file can be wrong."""

import time
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator, model_validator

from fmn_guard.errors import FileProblems, Problem
from fmn_guard.record import Record, Slug
from fmn_guard.yamlfile import RuleViolation, RuleViolations, load_yaml, load_yaml_positions


class ObjectConcept(Record):
    """A thing."""

    kind: Literal["object"]
    phrase: str = Field(min_length=1)
    """What prompts call it."""
    aliases: tuple[str, ...] = ()
    """Other names for it."""
    weight: float = Field(default=1.0, ge=0, le=2)


class StyleConcept(Record):
    """A manner of drawing; it has a field that is called like a kind, to be mixed up with it."""

    kind: Literal["style"]
    object: str = "a tree"
    artist: Slug


Concept = Annotated[ObjectConcept | StyleConcept, Field(discriminator="kind")]


class Spec(Record):
    """What to do."""

    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    steps: int = Field(default=10, ge=1, le=100)
    """Between 1 and 100."""
    size: tuple[int, int] = (8, 8)
    device: Literal["cpu", "cuda"] = "cpu"
    retrieved: date | None = None
    names: str | tuple[str, ...] = ()
    notes: dict[Literal["why", "who"], str] = Field(default={})
    level: Annotated[int, Field(ge=1)] | Annotated[str, Field(min_length=2)] = 1
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    even: int = 0
    fast: bool = False
    example: str = Field(default="x", examples=["y"])

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd numbers are not even")
        return value

    @model_validator(mode="after")
    def _rules(self) -> "Spec":
        if self.steps == 13:
            raise RuleViolation("unlucky-steps", "13 steps", hint="take 12", loc=("steps",))
        phrases = [concept.phrase for concept in self.concepts if isinstance(concept, ObjectConcept)]
        twice = [index for index, phrase in enumerate(phrases) if phrase in phrases[:index]]
        if twice:
            raise RuleViolations(
                RuleViolation("same-phrase", f"{phrases[i]!r} again", loc=("concepts", i, "phrase")) for i in twice
            )
        return self


class Manifest(Record):
    """A small file format with everything the real ones have."""

    api_version: Literal["test/v1"] = Field(alias="apiVersion")
    kind: Literal["Manifest"]
    """Says what this file is."""
    spec: Spec


HEAD = "apiVersion: test/v1\nkind: Manifest\n"
GOOD = HEAD + "spec:\n  concepts:\n    - kind: object\n      phrase: bicycle\n"
"""A good file of 6 lines, to which lines of `spec` can be added."""


def problems_of(tmp_path: Path, content: str | bytes) -> list[Problem]:
    path = tmp_path / "x.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(FileProblems) as caught:
        load_yaml(path, Manifest)
    return list(caught.value.problems)


def places(problems: list[Problem]) -> list[tuple[str, int, int]]:
    return [(problem.rule, problem.line, problem.column) for problem in problems]


def load(tmp_path: Path, content: str) -> Manifest:
    (tmp_path / "x.yaml").write_text(content, "utf-8")
    return load_yaml(tmp_path / "x.yaml", Manifest)


# What stands in the way of reading at all: content, rule, line, column, words of the message or hint.
UNREADABLE = {
    "not utf-8": (b"a: 1\nb: \xe9\n", "not-utf-8", 2, 4, "0xe9"),
    "utf-16": ("a: 1".encode("utf-16"), "not-utf-8", 1, 1, "save the file as UTF-8"),
    "too large": (b"#" * (1024 * 1024 + 1), "file-too-large", 1, 1, "1024 KiB"),
    "open bracket": ("a: [1, 2\nb: 3\n", "yaml-syntax", 2, 2, "starts on line 1"),
    "tab": ("a:\n\t- b\n", "yaml-syntax", 2, 1, "spaces"),
    "colon in value": ("a: b: c\n", "yaml-syntax", 1, 5, "quotes"),
    "unknown alias": ("a: *b\n", "yaml-syntax", 1, 4, "undefined alias 'b'"),
    "control character": ("a: 1\nb: \x1b[0m\n", "yaml-syntax", 2, 4, "U+001B"),
    "no such character": ('a: 1\nb: "x\\U00110000"\n', "yaml-syntax", 2, 6, "no character with this number"),
    "far beyond any character": ('"\\UFFFFFFFF"\n', "yaml-syntax", 1, 2, "no character with this number"),
    "empty": ("", "empty-file", 1, 1, "no data"),
    "only a comment": ("# nothing\n---\n", "empty-file", 1, 1, "no data"),
    "two documents": ("a: 1\n---\nb: 2\n", "several-documents", 3, 1, "one document"),
    "old yaml": ("# x\n%YAML 1.1\n---\na: no\n", "yaml-directive", 2, 1, "%YAML"),
    "cycle in a list": ("a: &a [1, *a]\n", "cyclic-alias", 1, 4, "&a"),
    "cycle in a merge": ("a: &a\n  <<: *a\n", "cyclic-alias", 1, 4, "&a"),
    "deep": ("a: " + "[" * 70 + "]" * 70, "too-deep", 1, 67, "64"),
    "deep through aliases": (
        "\n".join(["- &a0 [x]", *(f"- &a{i} [*a{i - 1}]" for i in range(1, 5000))]),
        "too-deep",
        64,
        3,
        "once aliases are written out",
    ),
    "billion laughs": (
        "\n".join(["- &a0 [x]", *(f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30))]),
        "too-many-nodes",
        6,
        3,
        "100000",
    ),
    "very many values": (f"a: [{'1,' * 400_000}]\n", "too-many-nodes", 1, 199_999, "split the file"),
    "one long text many times": (
        f"- &a {'x' * 500_000}\n- [{', '.join(['*a'] * 1000)}]\n",
        "too-many-nodes",
        2,
        3,
        "100000",
    ),
}


@pytest.mark.parametrize(("content", "rule", "line", "column", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_refused_with_its_rule_and_place(
    tmp_path: Path, content: str | bytes, rule: str, line: int, column: int, words: str
) -> None:
    (problem,) = problems_of(tmp_path, content)
    assert places([problem]) == [(rule, line, column)]
    assert problem.hint
    assert words in f"{problem.message} {problem.hint}"


# What is wrong with a file that can be read: content, rule, line, column, message, words of the hint.
FAULTS = {
    "unknown key": (
        GOOD + "      alias: [bike]\n",
        ("unknown-key", 7, 7),
        "'alias' is not a field of an object concept",
        "did you mean 'aliases'?",
    ),
    "unknown key, nothing close": (
        GOOD + "      zzz: 1\n",
        ("unknown-key", 7, 7),
        "'zzz' is not a field of an object concept",
        "known here: kind, phrase, aliases, weight",
    ),
    "python name of a field": (
        GOOD + "api_version: test/v1\n",
        ("unknown-key", 7, 1),
        "'api_version' is not a field of a manifest",
        "did you mean 'apiVersion'?",
    ),
    "unknown key beside a key like a kind": (
        HEAD + "spec:\n  concepts:\n    - kind: style\n      object: tree\n      artist: monet\n      atist: x\n",
        ("unknown-key", 8, 7),
        "'atist' is not a field of a style concept",
        "did you mean 'artist'?",
    ),
    "missing key with description": (
        HEAD + "spec:\n  concepts:\n    - kind: object\n",
        ("missing-key", 5, 7),
        "an object concept needs 'phrase'",
        "phrase: What prompts call it.",
    ),
    "missing key without description": (
        HEAD + "spec:\n  concepts:\n    - kind: style\n",
        ("missing-key", 5, 7),
        "a style concept needs 'artist'",
        "artist: a string",
    ),
    "missing section": (HEAD, ("missing-key", 1, 1), "a manifest needs 'spec'", "spec: a mapping"),
    "missing kind of file": (
        GOOD.replace("kind: Manifest\n", ""),
        ("missing-key", 1, 1),
        "a manifest needs 'kind'",
        "add kind: Manifest",
    ),
    "missing item": (
        GOOD + "  size: [1]\n",
        ("missing-key", 7, 3),
        "a spec needs 'size[1]'",
        "a whole number",
    ),
    "missing kind of concept": (
        HEAD + "spec:\n  concepts:\n    - phrase: x\n",
        ("missing-key", 5, 7),
        "'kind' is missing",
        "kind: one of 'object', 'style'",
    ),
    "unknown kind of concept": (
        HEAD + "spec:\n  concepts:\n    - phrase: x\n      kind: objct\n",
        ("unknown-kind", 6, 13),
        "'kind' is the string 'objct', wanted one of 'object', 'style'",
        "did you mean 'object'?",
    ),
    "unknown choice": (
        GOOD + "  device: cudo\n",
        ("unknown-value", 7, 11),
        "'device' is the string 'cudo', wanted 'cpu' or 'cuda'",
        "did you mean 'cuda'?",
    ),
    "unknown key of a dictionary": (
        GOOD + "  notes:\n    whi: x\n",
        ("unknown-key", 8, 5),
        "'whi' cannot be a key here: it should be 'why' or 'who'",
        "did you mean 'wh",
    ),
    "value of a dictionary": (
        GOOD + "  notes: {why: 3}\n",
        ("wrong-type", 7, 16),
        "'why' is the number 3, wanted a string",
        "quotes",
    ),
    "number for a string": (
        GOOD.replace("bicycle", "1984"),
        ("wrong-type", 6, 15),
        "'phrase' is the number 1984, wanted a string",
        "put it in quotes",
    ),
    "string for a list": (
        GOOD + "      aliases: bike\n",
        ("wrong-type", 7, 16),
        "'aliases' is the string 'bike', wanted a list of strings",
        "[bike]",
    ),
    "nothing for a list": (
        GOOD + "      aliases:\n",
        ("wrong-type", 8, 1),
        "'aliases' is empty, wanted a list of strings",
        "Other names for it.",
    ),
    "item of a list": (
        GOOD + "      aliases: [a, 2]\n",
        ("wrong-type", 7, 20),
        "'aliases[1]' is the number 2, wanted a string",
        "quotes",
    ),
    "string for a number": (
        GOOD + '  steps: "3"\n',
        ("wrong-type", 7, 10),
        "'steps' is the string '3', wanted a whole number",
        "without quotes",
    ),
    "true for a number": (
        GOOD + "  steps: true\n",
        ("wrong-type", 7, 10),
        "'steps' is true, wanted a whole number",
        "Between 1 and 100.",
    ),
    "fraction for a whole number": (
        GOOD + "  steps: 2.5\n",
        ("wrong-type", 7, 10),
        "'steps' is the number 2.5, wanted a whole number",
        "Between 1 and 100.",
    ),
    "mapping for either of two": (
        GOOD + "  names: {a: b}\n",
        ("wrong-type", 7, 10),
        "'names' is a mapping, wanted a string or a list of strings",
        None,
    ),
    "wrong item in one of two": (
        GOOD + "  names: [a, 1]\n",
        ("wrong-type", 7, 14),
        "'names[1]' is the number 1, wanted a string",
        "quotes",
    ),
    "string for a mapping": (
        HEAD + "spec:\n  concepts:\n    - bicycle\n",
        ("wrong-type", 5, 7),
        "'concepts[0]' is the string 'bicycle', wanted a mapping",
        None,
    ),
    "a list for a file": ("- 1\n", ("wrong-type", 1, 1), "the file is a list, wanted a mapping", None),
    "yaml 1.1 truth": (
        GOOD + "  fast: yes\n",
        ("wrong-type", 7, 9),
        "'fast' is the string 'yes', wanted true or false",
        None,
    ),
    "no merge": (
        GOOD + "  <<: 3\n",
        ("wrong-type", 7, 7),
        "'<<' takes a mapping or a list of mappings",
        "anchor",
    ),
    "number beyond its range": (
        GOOD + "  steps: 0\n",
        ("out-of-range", 7, 10),
        "'steps' is the number 0, wanted at least 1 and at most 100",
        "Between 1 and 100.",
    ),
    "number beyond the range of an optional field": (
        GOOD + "  share: 2\n",
        ("out-of-range", 7, 10),
        "'share' is the number 2, wanted more than 0 and at most 1",
        None,
    ),
    "number beyond the range of one of two": (
        GOOD + "  level: 0\n",
        ("out-of-range", 7, 10),
        "'level' is the number 0, wanted at least 1",
        None,
    ),
    "not a finite number": (
        GOOD + "      weight: .nan\n",
        ("out-of-range", 7, 15),
        "'weight' is the number nan, wanted a finite number",
        None,
    ),
    "empty string": (
        GOOD.replace("bicycle", '""'),
        ("out-of-range", 6, 15),
        "'phrase' has 0 characters, wanted at least 1",
        "What prompts call it.",
    ),
    "empty list": (
        HEAD + "spec:\n  concepts: []\n",
        ("out-of-range", 4, 13),
        "'concepts' has 0 items, wanted at least 1",
        None,
    ),
    "one item too many": (
        GOOD + "  size: [1, 2, 3]\n",
        ("out-of-range", 7, 9),
        "'size' has 3 items, wanted at most 2",
        None,
    ),
    "not a slug": (
        HEAD + "spec:\n  concepts:\n    - kind: style\n      artist: Van Gogh\n",
        ("bad-format", 6, 15),
        "'artist' is the string 'Van Gogh', which does not match ^[a-z0-9]+(-[a-z0-9]+)*$",
        None,
    ),
    "not a date": (
        GOOD + "  retrieved: soon\n",
        ("bad-format", 7, 14),
        "'retrieved' is the string 'soon': it should be a valid date",
        None,
    ),
    "not what its tag says": (
        GOOD + "  steps: !!int ten\n",
        ("bad-format", 7, 10),
        "this cannot be read as int",
        "quotes",
    ),
    "half a character": (
        GOOD + '  example: "\\uD83D"\n',
        ("bad-format", 7, 12),
        "half of a surrogate pair is no character",
        "UXXXXXXXX",
    ),
    "half a character in a key": (
        GOOD + '  "\\uD83D": x\n',
        ("bad-format", 7, 3),
        "half of a surrogate pair is no character",
        "UXXXXXXXX",
    ),
    "python tag": (
        GOOD + "  example: !!python/object/apply:os.system [ls]\n",
        ("unknown-tag", 7, 12),
        "the tag !!python/object/apply:os.system is not allowed here",
        "delete the tag",
    ),
    "own tag": (
        GOOD + "  example: !secret x\n",
        ("unknown-tag", 7, 12),
        "the tag !secret is not allowed here",
        "delete the tag",
    ),
    "number as a key": (
        GOOD + "  1: x\n",
        ("non-string-key", 7, 3),
        "this key is not a string",
        "quotes",
    ),
    "list as a key": (
        GOOD + "  ? [a]\n  : x\n",
        ("non-string-key", 7, 5),
        "this key is not a string",
        "quotes",
    ),
    "duplicate key": (
        GOOD + "      phrase: car\n",
        ("duplicate-key", 7, 7),
        "'phrase' is already set on line 6",
        "keep one",
    ),
    "wrong version": (
        GOOD.replace("test/v1", "test/v2"),
        ("wrong-api-version", 1, 13),
        "'apiVersion' is the string 'test/v2', wanted 'test/v1'",
        "did you mean 'test/v1'?",
    ),
    "wrong kind of file": (
        "apiVersion: test/v1\nkind: Policy\nspec: {limits: []}\n",
        ("wrong-kind", 2, 7),
        "'kind' is the string 'Policy', wanted 'Manifest'",
        None,
    ),
    "plain error of a validator": (
        GOOD + "  even: 3\n",
        ("bad-value", 7, 9),
        "'even' is the number 3: odd numbers are not even",
        None,
    ),
    "rule of a validator": (GOOD + "  steps: 13\n", ("unlucky-steps", 7, 10), "13 steps", "take 12"),
}


@pytest.mark.parametrize(("content", "place", "message", "hint"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_reported_with_rule_place_message_and_hint(
    tmp_path: Path, content: str, place: tuple[str, int, int], message: str, hint: str | None
) -> None:
    problem = next(problem for problem in problems_of(tmp_path, content) if problem.rule == place[0])
    assert (problem.rule, problem.line, problem.column) == place
    assert message in problem.message
    assert hint is None or hint in str(problem.hint)


# A value that YAML itself cannot make sense of does not have the right type either.
TWOFOLD = ("own tag", "python tag", "half a character in a key", "not what its tag says")


@pytest.mark.parametrize("name", [name for name in FAULTS if name not in TWOFOLD])
def test_one_fault_gives_one_problem(tmp_path: Path, name: str) -> None:
    assert len(problems_of(tmp_path, FAULTS[name][0])) == 1


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match=r"no\.yaml:1:1: no-such-file: ") as caught:
        load_yaml(tmp_path / "no.yaml", Manifest)
    assert caught.value.exit_code == 2


def test_a_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileProblems, match="is-a-folder"):
        load_yaml(tmp_path, Manifest)


def test_a_path_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileProblems, match="unreadable-file: Not a directory"):
        load_yaml(tmp_path / "file" / "x.yaml", Manifest)


def test_duplicate_key_is_reported_with_both_lines(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, GOOD + "  steps: 1\n  even: 2\n  steps: 3\n")
    assert places([problem]) == [("duplicate-key", 9, 3)]
    assert problem.message == "'steps' is already set on line 7"


def test_all_problems_of_a_file_are_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    content = GOOD + (
        "      alias: [bike]\n"
        "    - kind: objct\n"
        "    - kind: object\n"
        "      phrase: 3\n"
        "      phrase: x\n"
        "  steps: 0\n"
        "  1: x\n"
        "  even: !odd 3\n"
        "  <<: 4\n"
        "more: x\n"
        "more: x\n"
    )
    assert places(problems_of(tmp_path, content)) == [
        ("unknown-key", 7, 7),
        ("unknown-kind", 8, 13),
        ("wrong-type", 10, 15),
        ("duplicate-key", 11, 7),
        ("out-of-range", 12, 10),
        ("non-string-key", 13, 3),
        ("unknown-tag", 14, 9),
        ("wrong-type", 14, 9),
        ("wrong-type", 15, 7),
        ("unknown-key", 16, 1),
        ("duplicate-key", 17, 1),
    ]


def test_several_violations_of_one_validator_are_all_reported(tmp_path: Path) -> None:
    again = "    - {kind: object, phrase: bicycle}\n"
    assert places(problems_of(tmp_path, GOOD + again + again)) == [
        ("same-phrase", 7, 30),
        ("same-phrase", 8, 30),
    ]


def test_a_list_with_a_wrong_item_is_not_called_too_short_as_well(tmp_path: Path) -> None:
    content = HEAD + "spec:\n  concepts:\n    - kind: object\n      phrase: 3\n"
    assert places(problems_of(tmp_path, content)) == [("wrong-type", 6, 15)]


def test_a_problem_shows_its_line_with_a_caret(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, GOOD + "      alias: [bike]\n")
    assert str(problem) == (
        f"{tmp_path}/x.yaml:7:7: unknown-key: 'alias' is not a field of an object concept\n"
        "    7 |       alias: [bike]\n"
        "      |       ^\n"
        "hint: did you mean 'aliases'?"
    )


def test_yaml_1_2_words_and_dates_are_strings_where_strings_are_wanted(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD + "      aliases: [no, on, 2026-11-30, 12:30:45, =, <<]\n")
    assert manifest.spec.concepts[0].model_dump()["aliases"] == (
        "no",
        "on",
        "2026-11-30",
        "12:30:45",
        "=",
        "<<",
    )


def test_a_date_is_a_date_where_a_date_is_wanted(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD + "  retrieved: 2026-11-30\n").spec.retrieved == date(2026, 11, 30)


def test_a_whole_number_will_do_for_a_float_and_core_tags_are_understood(tmp_path: Path) -> None:
    manifest = load(tmp_path, GOOD + "      weight: 2\n      aliases: [!!str 3]\n")
    assert manifest.spec.concepts[0].model_dump() == {
        "kind": "object",
        "phrase": "bicycle",
        "aliases": ("3",),
        "weight": 2.0,
    }


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    _, positions = load_yaml_positions(tmp_path / "x.yaml", Manifest)
    assert positions.of("apiVersion") == (1, 1)


def test_merge_keys_fill_in_and_own_keys_win(tmp_path: Path) -> None:
    content = HEAD + (
        "spec:\n"
        "  concepts:\n"
        "    - &bike {kind: object, phrase: bicycle, weight: 2}\n"
        "    - {<<: *bike, phrase: car}\n"
        "    - {phrase: tram, <<: [{weight: 0.5}, *bike]}\n"
    )
    concepts = load(tmp_path, content).spec.concepts
    assert [(c.phrase, c.weight) for c in concepts if isinstance(c, ObjectConcept)] == [
        ("bicycle", 2.0),
        ("car", 2.0),
        ("tram", 0.5),
    ]


def test_a_fault_in_a_merged_key_is_placed_where_it_is_written(tmp_path: Path) -> None:
    content = HEAD + (
        "spec:\n  concepts:\n    - &bike {kind: object, phrase: a, weight: 3}\n    - {<<: *bike, phrase: b}\n"
    )
    assert places(problems_of(tmp_path, content)) == [("out-of-range", 5, 47)]


def test_positions_point_at_keys_and_items_and_fall_back_to_the_closest_ancestor(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# a comment\n" + GOOD)
    _, positions = load_yaml_positions(tmp_path / "x.yaml", Manifest)
    assert positions.of() == (2, 1)
    assert positions.of("spec") == (4, 1)
    assert positions.of("spec", "concepts", 0) == (6, 7)
    assert positions.of("spec", "concepts", 0, "phrase") == (7, 7)
    assert positions.of("spec", "concepts", 0, "aliases", 3) == (6, 7)
    assert positions.of("spec", "concepts", 9) == (5, 3)


def test_positions_word_problems_that_show_later(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    _, positions = load_yaml_positions(tmp_path / "x.yaml", Manifest)
    loc = ("spec", "concepts", 0, "phrase")
    on_value = positions.problem("no-token", "too long", *loc, hint="shorten it")
    on_key = positions.problem("no-token", "too long", *loc, on_key=True)
    assert (on_value.line, on_value.column, on_value.hint) == (6, 15, "shorten it")
    assert (on_key.line, on_key.column, on_key.source_line) == (6, 7, "      phrase: bicycle")


def test_values_are_counted_while_they_are_read(tmp_path: Path) -> None:
    # Read whole before they are counted, five times as many would take five times as long.
    seconds = []
    for values in (100_100, 500_000):
        start = time.process_time()
        problems_of(tmp_path, f"a: [{'1,' * values}]\n")
        seconds.append(time.process_time() - start)
    assert seconds[1] < 2.5 * seconds[0]


def test_a_billion_laughs_is_refused_in_no_time(tmp_path: Path) -> None:
    start = time.process_time()
    problems_of(tmp_path, str(UNREADABLE["billion laughs"][0]))
    assert time.process_time() - start < 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="abz019:-[]{}#&*!%|>'\"\\,?<=~. \n\t\r\x00\x85\ud7ff\ufeff\U0001f600", max_size=60))
def test_any_text_is_either_read_or_refused_with_places_inside_it(tmp_path: Path, text: str) -> None:
    for content in (text, GOOD + "  notes: " + text):
        (tmp_path / "x.yaml").write_text(content, "utf-8", newline="")
        try:
            load_yaml(tmp_path / "x.yaml", Manifest)
        except FileProblems as error:
            assert error.problems
            assert all(1 <= problem.line <= len(content.splitlines()) + 1 for problem in error.problems)
