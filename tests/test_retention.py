"""What is kept of a run: its evidence always, its pictures by choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fmn_guard.chain import check_files, read_cleaned, read_files, write_files
from fmn_guard.errors import BrokenChain, InputError
from fmn_guard.gate import check_run, verify_run
from fmn_guard.record import file_digest
from fmn_guard.retention import Keep, clean
from fmn_guard.signing import make_keys, sign_run

from .concluded import PLAN, write_run
from .pictures import write_pictures


def _names(run: Path) -> set[str]:
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def test_cleaned_run_is_verified_by_the_digests_that_stay(run: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    public = make_keys(key)
    sign_run(run, check_run(run), check_files(run), key, lambda: b"")
    pictures = {name for name in _names(run) if name.startswith("images/")}
    stays = {name: (run / name).read_bytes() for name in _names(run) - pictures}
    (run / "audit.partial.jsonl").write_text("half", encoding="utf-8")
    (run / ".0123456789abcdef.tmp").write_text("half", encoding="utf-8")
    removed = clean(run)
    assert set(removed.files) == pictures
    assert set(removed.leftovers) == {"audit.partial.jsonl", ".0123456789abcdef.tmp"}
    assert {name: (run / name).read_bytes() for name in stays} == stays
    assert _names(run) == {*stays, "cleaned.json"}
    verified = verify_run(run, [public])
    assert set(verified.cleaned) == pictures
    assert pictures <= set(verified.files)


def test_picture_removed_by_hand_breaks_the_chain(run: Path) -> None:
    (run / "images" / "base" / "a.png").unlink()
    with pytest.raises(BrokenChain, match=r"a\.png is missing"):
        check_files(run)


def test_dry_run_names_what_would_go_and_removes_nothing(run: Path) -> None:
    before = _names(run)
    assert clean(run, dry_run=True).files == {n: (run / n).stat().st_size for n in before if n.startswith("images/")}
    assert _names(run) == before


def test_cleaning_twice_removes_nothing_more(run: Path) -> None:
    clean(run)
    once = (run / "cleaned.json").read_bytes()
    assert clean(run) == ({}, {}, 0)
    assert (run / "cleaned.json").read_bytes() == once


def test_cleaning_goes_on_after_it_was_killed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Path] = []
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".png" and removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        clean(run)
    check_files(run)
    assert len(clean(run).files) == 3
    assert len(read_cleaned(run).files) == 4


def _spoil_picture(run: Path) -> None:
    picture = run / "images" / "base" / "a.png"
    picture.write_bytes(picture.read_bytes() + b" ")


def _drop_picture(run: Path) -> None:
    (run / "images" / "base" / "a.png").unlink()


@pytest.mark.parametrize("spoil", [_spoil_picture, _drop_picture])
def test_what_was_changed_is_not_cleaned_away(run: Path, spoil: Callable[[Path], None]) -> None:
    spoil(run)
    before = _names(run)
    with pytest.raises(BrokenChain, match=r"a\.png"):
        clean(run)
    assert _names(run) == before


def test_run_without_a_list_keeps_its_pictures(run: Path) -> None:
    (run / "files.json").unlink()
    before = _names(run)
    with pytest.raises(InputError, match=r"files\.json is missing"):
        clean(run)
    assert _names(run) == before


# ---- what is kept


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A concluded run with a picture of every probe on both sides, and a page."""
    (folder := tmp_path / "run").mkdir()
    write_run(folder)
    write_pictures(folder, tuple(probe.picture_name.removesuffix(".png") for probe in PLAN.probes))
    (folder / "report.html").write_text("<img src='data:image/png;base64,AAAA'>", encoding="utf-8")
    (folder / "report.sarif").write_text("{}", encoding="utf-8")
    write_files(folder, None, ())
    return folder


def test_samples_are_the_pairs_that_a_report_shows(whole: Path) -> None:
    removed = clean(whole)
    # one of each of the six sentences that ask for the pistol; nothing shows it still, and nothing was lost
    kept = {f"images/{side}/target-pistol-{i}-{i}.png" for side in ("base", "patched") for i in range(6)}
    assert {name for name in _names(whole) if name.startswith("images/")} == kept
    assert removed.kept == len(kept)
    assert len(removed.files) == 2 * len(PLAN.probes) - len(kept)
    assert verify_run(whole).cleaned == tuple(sorted(removed.files))


@pytest.mark.parametrize(("keep", "page"), [("samples", True), ("all-but-images", True), ("evidence", False)])
def test_evidence_alone_has_no_picture_and_no_page_with_one(whole: Path, keep: Keep, page: bool) -> None:
    before = _names(whole)
    removed = clean(whole, keep)
    assert (whole / "report.html").exists() == page
    assert (whole / "images").exists() == (keep == "samples")
    assert {name for name in before if not name.startswith("images/")} - _names(whole) == (
        set() if page else {"report.html"}
    )
    assert verify_run(whole).cleaned == tuple(sorted(removed.files))


def test_less_can_be_kept_later_but_not_more(whole: Path) -> None:
    first = clean(whole)
    assert len(clean(whole, "evidence").files) == first.kept + 1
    assert clean(whole) == ({}, {}, 0)
    assert len(read_cleaned(whole).files) == 2 * len(PLAN.probes) + 1


def test_page_that_is_written_again_after_cleaning_is_listed_anew(whole: Path) -> None:
    clean(whole, "evidence")
    (whole / "report.html").write_text("without pictures", encoding="utf-8")
    with pytest.raises(BrokenChain, match=r"report\.html"):
        check_files(whole)
    assert write_files(whole, read_files(whole), [whole / "report.html"])
    verified = verify_run(whole)
    assert verified.files["report.html"] == file_digest(whole / "report.html")
    assert "report.html" not in verified.cleaned


def test_run_that_does_not_hold_together_keeps_its_pictures(whole: Path) -> None:
    page = whole / "report.md"
    page.write_text(page.read_text(encoding="utf-8").replace("PASS", "FAIL"), encoding="utf-8")
    write_files(whole, None, ())
    before = _names(whole)
    with pytest.raises(BrokenChain, match=r"report\.md"):
        clean(whole, "evidence")
    assert _names(whole) == before
