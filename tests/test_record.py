"""Records, their canonical spelling and digest, and files that are written whole or not at all."""

import copy
import hashlib
import json
import os
import struct
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from fmn_guard.errors import InputError
from fmn_guard.record import (
    Digest,
    Record,
    Slug,
    canonical_json,
    digest,
    field_docs,
    file_digest,
    parse_plain,
    read_record,
    slugify,
    write_atomic,
    write_record,
)


class Inner(Record):
    """A record inside a record."""

    names: tuple[str, ...] = ()


class Sample(Record):
    """A record with a field of each kind."""

    count: int = 0
    """How many there are."""
    share: float = 0.0
    flag: bool = False
    day: date | None = None
    api_version: str = Field(default="v1", alias="apiVersion")
    inner: Inner = Inner()


class Names(Record):
    """The constrained strings."""

    slug: Slug = "a"
    digest: Digest = "sha256:" + "0" * 64


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children),
    max_leaves=20,
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in JSON data that holds nothing else."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, child in children for leaf in leaves(child, (*path, key))] or [path]


def reordered(value: Any) -> Any:
    """The same JSON data with the keys of each mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


# RFC 8785, appendix B: IEEE 754 bits and their spelling.
NUMBERS = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
"""


@pytest.mark.parametrize(("bits", "spelling"), [line.split() for line in NUMBERS.split("\n") if line])
def test_numbers_are_spelled_as_rfc_8785_publishes_them(bits: str, spelling: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == spelling.encode()


def test_keys_sort_by_utf_16_units_as_rfc_8785_publishes_them() -> None:
    # RFC 8785, section 3.2.3
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    in_order = json.loads(canonical_json(dict.fromkeys(keys, 0)))
    assert list(in_order) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_the_example_of_rfc_8785_comes_out_to_the_byte() -> None:
    # RFC 8785, sections 3.2.2 and 3.2.4
    data = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
             "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    expected = (
        r'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        r'"string":"€$\u000f\nA' + r"'B\"\\\\\"/" + '"}'
    )
    assert canonical_json(data) == expected.encode()


@given(JSON)
def test_canonical_json_reads_back_as_what_it_was(value: Any) -> None:
    # JSON has one kind of number, the double: 2.0 is spelled 2, and large floats without a point.
    assert json.loads(canonical_json(value), parse_int=float) == value


@given(JSON)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_json(reordered(value)) == canonical_json(value)


@given(JSON, st.data())
def test_changing_any_leaf_changes_the_digest(value: Any, data: st.DataObject) -> None:
    document = {"root": value}
    changed = copy.deepcopy(document)
    *above, last = data.draw(st.sampled_from(leaves(document)))
    holder: Any = changed
    for key in above:
        holder = holder[key]
    holder[last] = {"was": holder[last]}
    assert digest(changed) != digest(document)


def test_a_digest_is_the_sha256_of_the_canonical_json() -> None:
    assert digest({"b": 1, "a": []}) == sha256(b'{"a":[],"b":1}')


def test_a_record_is_spelled_with_the_names_that_files_use() -> None:
    assert json.loads(canonical_json(Sample(day=date(2026, 11, 30)))) == {
        "apiVersion": "v1",
        "count": 0,
        "day": "2026-11-30",
        "flag": False,
        "inner": {"names": []},
        "share": 0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, {1: 2}, {"a": {3}}, "\ud800"])
def test_what_canonical_json_cannot_spell_is_an_input_error(value: object) -> None:
    with pytest.raises(InputError, match="no canonical JSON"):
        canonical_json(value)


def test_a_file_digest_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"\0" * 3_000_000)
    assert file_digest(path) == sha256(b"\0" * 3_000_000)


def test_lists_become_tuples_integers_floats_and_iso_strings_dates() -> None:
    record = parse_plain({"share": 1, "day": "2026-11-30", "inner": {"names": ["a", "b"]}}, Sample)
    assert record.share == 1.0
    assert record.day == date(2026, 11, 30)
    assert record.inner.names == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        {"count": "3"},
        {"count": True},
        {"count": 3.0},
        {"share": "1"},
        {"share": float("nan")},
        {"flag": 1},
        {"inner": {"names": "abc"}},
        {"inner": {"names": [1]}},
        {"unknown": 1},
        {"api_version": "v1"},
    ],
)
def test_nothing_is_converted_by_guesswork_and_nothing_unknown_is_accepted(data: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse_plain(data, Sample)


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().count = 1  # type: ignore[misc]


def test_docstrings_under_fields_are_their_descriptions() -> None:
    assert field_docs(Sample)["count"] == "How many there are."


def test_docstrings_of_inherited_fields_are_their_descriptions_too() -> None:
    class Derived(Sample):
        other: int
        """Another."""

    assert field_docs(Derived) == {**field_docs(Sample), "other": "Another."}


@pytest.mark.parametrize("slug", ["", "A", "a--b", "-a", "a-", "a_b", "a\n", "a" * 64])
def test_what_is_not_a_slug_is_refused(slug: str) -> None:
    with pytest.raises(ValidationError):
        Names(slug=slug)


@pytest.mark.parametrize("value", ["0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64])
def test_what_is_not_a_digest_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Names(digest=value)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Vincent van Gogh", "vincent-van-gogh"),
        ("  Édith_Piaf! ", "edith-piaf"),
        ("R2-D2", "r2-d2"),
        ("a東b", "a-b"),
        ("ﬁne", "fine"),
        ("x" * 62 + " y z", "x" * 62),
    ],
)
def test_slugify_keeps_ascii_letters_and_digits(text: str, slug: str) -> None:
    assert slugify(text) == slug


@given(st.text())
def test_slugify_makes_a_slug_or_says_that_it_cannot(text: str) -> None:
    try:
        slug = slugify(text)
    except InputError as error:
        assert error.hint
    else:
        assert Names(slug=slug).slug == slugify(slug)


def test_slugify_refuses_a_text_of_which_nothing_is_left() -> None:
    with pytest.raises(InputError, match="東京"):
        slugify("東京")


def test_write_atomic_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_atomic(path, "nü\r\n")
    assert path.read_bytes() == "nü\r\n".encode()
    assert os.listdir(tmp_path) == ["file"]


def test_write_atomic_makes_files_as_readable_as_any_other(tmp_path: Path) -> None:
    ordinary, atomic = tmp_path / "ordinary", tmp_path / "atomic"
    ordinary.write_bytes(b"")
    write_atomic(atomic, b"")
    assert atomic.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("existing", [None, b"old"])
@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_write_atomic_leaves_nothing_behind_when_it_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    existing: bytes | None,
    function: str,
    failure: BaseException,
) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)

    def fail(*_: object) -> NoReturn:
        raise failure

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(type(failure)):
        write_atomic(path, b"new content")
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == ({"file": existing} if existing else {})


@given(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_a_written_record_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, count: int, share: float, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("record") / "sample.json"
    record = Sample(count=count, share=share, inner=Inner(names=tuple(names)))
    write_record(path, record)
    assert read_record(path, Sample) == record


def test_a_record_file_is_indented_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_record(tmp_path / "x.json", Inner(names=("é",)))
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "names": [\n    "é"\n  ]\n}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "unreadable-file: No such file"),
        (b"{", "bad-json"),
        (b"\xff", "bad-json"),
        (b"[]", "wrong-shape: not a Sample: file"),
        (b'{"inner": {"names": [1]}, "more": 1}', r"wrong-shape: not a Sample: inner.names.0: .*; more: "),
    ],
)
def test_a_bad_record_file_is_an_input_error_with_path_rule_and_hint(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "sample.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_record(path, Sample)
    assert caught.value.message.startswith(f"{path}: ")
    assert caught.value.hint
