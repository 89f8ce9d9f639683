"""The list of files of a run: every byte counts, and pictures can be removed on purpose."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from fmn_guard.chain import absent_pictures, check_files, read_files, remove, write_files
from fmn_guard.errors import BrokenChain, FmnGuardError, InputError
from fmn_guard.gate import check_run, verify_run
from fmn_guard.record import file_digest
from fmn_guard.signing import make_keys, sign_run

FLIPS = 500


def _names(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def test_list_holds_the_digest_of_every_file_but_itself(run: Path) -> None:
    listed = check_files(run)
    assert listed.files == {name: file_digest(run / name) for name in _names(run) - {"files.json"}}
    assert listed.digest == file_digest(run / "files.json")
    assert verify_run(run).verdict == "pass"


@pytest.mark.parametrize("with_key", [True, False])
def test_any_flipped_bit_of_any_file_is_found_and_its_file_named(run: Path, tmp_path: Path, with_key: bool) -> None:
    key = tmp_path / "key"
    public = make_keys(key)
    keys = [public] if with_key else []
    sign_run(run, check_run(run), check_files(run), key, lambda: b"")
    remove(run, ["images/base/a.png"])
    names = sorted(_names(run))
    assert {"files.json", "cleaned.json", "signature.dsse.json", "report.md", "images/patched/a.png"} <= set(names)
    verify_run(run, keys)
    draw = random.Random(20)
    for i in range(FLIPS):
        name = names[i % len(names)]
        whole = (run / name).read_bytes()
        offset, bit = draw.randrange(len(whole)), draw.randrange(8)
        spoiled = bytearray(whole)
        spoiled[offset] ^= 1 << bit
        (run / name).write_bytes(spoiled)
        with pytest.raises(FmnGuardError) as caught:
            verify_run(run, keys)
        assert name in caught.value.message, (name, offset, bit)
        assert caught.value.exit_code == 2
        (run / name).write_bytes(whole)
    verify_run(run, keys)


def _white_space(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("name", ["plan.json", "audit.json", "policy.json", "report.json", "files.json"])
def test_white_space_that_no_record_notices_breaks_the_chain(run: Path, name: str) -> None:
    _white_space(run / name)
    check_run(run)
    with pytest.raises(BrokenChain, match=name):
        verify_run(run)


@pytest.mark.parametrize("name", ["notes.txt", "images/base/c.png", ".hidden"])
def test_file_that_is_not_listed_breaks_the_chain(run: Path, name: str) -> None:
    (run / name).write_bytes(b"more")
    with pytest.raises(BrokenChain, match=rf"{name} is not listed"):
        check_files(run)


def test_link_breaks_the_chain_even_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    picture = run / "images" / "base" / "a.png"
    picture.rename(tmp_path / "elsewhere.png")
    picture.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(BrokenChain, match=r"a\.png is a link"):
        check_files(run)


def test_first_file_in_the_order_of_making_is_named(run: Path) -> None:
    for name in ("report.md", "audit.json", "images/base/a.png", "passes.json"):
        _white_space(run / name)
    with pytest.raises(BrokenChain, match=r"passes\.json: .* files\.json says"):
        check_files(run)


def test_files_that_agree_with_a_rewritten_list_must_still_agree_with_each_other(run: Path) -> None:
    page = run / "report.md"
    page.write_text(page.read_text(encoding="utf-8").replace("PASS", "FAIL"), encoding="utf-8")
    write_files(run, None, ())
    check_files(run)
    with pytest.raises(BrokenChain, match=r"report\.md"):
        verify_run(run)


def test_run_without_a_list_says_how_to_get_one(run: Path) -> None:
    (run / "files.json").unlink()
    with pytest.raises(InputError, match=r"files\.json is missing") as caught:
        verify_run(run)
    assert caught.value.hint is not None and "fmn-guard report" in caught.value.hint


def test_writing_a_report_does_not_vouch_for_a_picture_that_somebody_changed(run: Path) -> None:
    _white_space(run / "images" / "base" / "a.png")
    (run / "report.sarif").write_text("{}", encoding="utf-8")
    assert write_files(run, read_files(run), [run / "report.sarif", run.parent / "elsewhere.md"])
    with pytest.raises(BrokenChain, match=r"a\.png"):
        check_files(run)


def test_list_is_left_alone_when_nothing_changed(run: Path) -> None:
    before = (run / "files.json").stat().st_mtime_ns
    assert not write_files(run, read_files(run), [run / "report.json"])
    assert (run / "files.json").stat().st_mtime_ns == before


def test_pictures_may_be_absent_where_that_is_asked_for_and_nothing_else_may(run: Path) -> None:
    for side in ("base", "patched"):
        (run / "images" / side / "a.png").unlink()
    listed = check_files(run, without_pictures=True)
    assert absent_pictures(run, listed) == ("images/base/a.png", "images/patched/a.png")
    _white_space(run / "images" / "base" / "b.png")
    with pytest.raises(BrokenChain, match=r"b\.png"):
        check_files(run, without_pictures=True)
    (run / "images" / "base" / "b.png").unlink()
    (run / "report.md").unlink()
    with pytest.raises(BrokenChain, match=r"report\.md is missing"):
        check_files(run, without_pictures=True)


@pytest.mark.parametrize("names", [["audit.json"], ["images/base/x.png"], ["images/base/b.png", "images/base/a.png"]])
def test_only_listed_pictures_can_be_called_cleaned(run: Path, names: list[str]) -> None:
    remove(run, ["images/base/a.png"])
    cleaned = {"files": names, "schema_version": "fmn-guard/cleaned/v1"}
    (run / "cleaned.json").write_text(json.dumps(cleaned, indent=2) + "\n", encoding="utf-8")
    with pytest.raises(BrokenChain, match=r"cleaned\.json"):
        check_files(run)
