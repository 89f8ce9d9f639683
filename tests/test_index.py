"""The index of a folder of runs: append only, and every byte of it counts."""

from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fmn_guard.chain import write_files
from fmn_guard.errors import BrokenChain
from fmn_guard.gate import check_run, verify_run
from fmn_guard.index import append_line, check_index, read_index
from fmn_guard.report import Report, judge

from .builder import make_audit, make_plan, make_policy
from .concluded import write_run


def _report(name: str) -> Report:
    plan = make_plan().model_copy(update={"name": name})
    return judge(plan, make_audit(plan), make_policy())


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of three runs."""
    for name in ("one", "two", "three"):
        assert append_line(tmp_path / name, _report(name))
    return tmp_path / "index.jsonl"


def test_each_line_holds_the_digest_of_the_one_before(index: Path) -> None:
    previous = None
    for text, name in zip(index.read_text(encoding="utf-8").splitlines(), ("one", "two", "three"), strict=True):
        line = json.loads(text)
        assert (line["folder"], line["verdict"], line["previous"]) == (name, "pass", previous)
        previous = line.pop("digest")
        spelled = json.dumps(line, sort_keys=True, separators=(",", ":"))
        assert previous == f"sha256:{hashlib.sha256(spelled.encode()).hexdigest()}"


def test_same_conclusion_is_not_drawn_twice_and_another_is(index: Path) -> None:
    assert not append_line(index.parent / "two", _report("two"))
    assert append_line(index.parent / "two", _report("other"))
    assert append_line(index.parent / "two", _report("two"))
    assert [line.folder for line in read_index(index)] == ["one", "two", "three", "two", "two"]
    assert check_index(index.parent / "two", _report("two")) == 5


def test_any_flipped_bit_is_found_in_its_line(index: Path) -> None:
    whole, draw = index.read_bytes(), random.Random(1)
    for _ in range(300):
        offset, bit = draw.randrange(len(whole)), draw.randrange(8)
        spoiled = bytearray(whole)
        spoiled[offset] ^= 1 << bit
        index.write_bytes(spoiled)
        with pytest.raises(BrokenChain) as caught:
            read_index(index)
        number = whole.count(b"\n", 0, offset) + 1
        assert caught.value.message.startswith(f"{index}:{number}: this line"), (offset, bit)


@pytest.mark.parametrize(("kept", "broken"), [([1, 2], 1), ([0, 2], 2), ([0, 2, 1], 2), ([0, 0, 1, 2], 2)])
def test_lines_taken_out_moved_or_doubled_break_the_chain(index: Path, kept: list[int], broken: int) -> None:
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join(lines[i] for i in kept))
    with pytest.raises(BrokenChain, match=rf"index\.jsonl:{broken}: this line does not follow"):
        read_index(index)


def test_half_a_line_is_damage_and_nothing_is_added_after_it(index: Path) -> None:
    index.write_bytes(half := index.read_bytes()[:-20])
    with pytest.raises(BrokenChain, match=r"index\.jsonl:3: "):
        append_line(index.parent / "four", _report("four"))
    assert index.read_bytes() == half


def test_lines_added_at_the_same_time_follow_each_other(tmp_path: Path) -> None:
    report = _report("many")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append_line(tmp_path / f"run-{i}", report), range(40)))
    assert {line.folder for line in read_index(tmp_path / "index.jsonl")} == {f"run-{i}" for i in range(40)}


def test_verify_asks_the_index_beside_the_run(tmp_path: Path) -> None:
    (run := tmp_path / "run").mkdir()
    write_run(run)
    write_files(run, None, ())
    assert verify_run(run).index_lines is None
    append_line(tmp_path / "other", _report("other"))
    with pytest.raises(BrokenChain, match=r"index\.jsonl says nothing of the run run"):
        verify_run(run)
    append_line(run, check_run(run))
    assert verify_run(run).index_lines == 2
    append_line(run, _report("other"))
    with pytest.raises(BrokenChain, match=r"index\.jsonl tells of another report"):
        verify_run(run)
    index = tmp_path / "index.jsonl"
    index.write_bytes(index.read_bytes().replace(b"pass", b"fail", 1))
    with pytest.raises(BrokenChain, match=r"index\.jsonl:1: "):
        verify_run(run)
