"""Where a manifest stands: lines and a path that mean the same on another machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fmn_guard.lint import lint_manifest
from fmn_guard.plan import Plan, compile_plan
from fmn_guard.record import read_record, write_record
from fmn_guard.shipped import suites
from fmn_guard.source import Source, portable
from fmn_guard.suite import load_suite

from .paper import MANIFEST

CORRECTION = """\
  corrections:
    - prompt: the captain
      dominant: Bruno Vale
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, which is in no repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _manifest(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.yaml"
    path.write_text(MANIFEST + CORRECTION, encoding="utf-8")
    return path


def _plan(manifest: Path) -> Plan:
    document, checkpoint = lint_manifest(manifest)
    return compile_plan(document, load_suite(suites() / "smoke"), checkpoint)


def test_plan_knows_its_manifest_and_the_line_of_each_concept(home: Path) -> None:
    _manifest(home / "release")
    source = _plan(Path("release/manifest.yaml")).source
    assert source == Source(path="release/manifest.yaml", lines={"hamburger": 10, "pistol": 14, "the-captain": 16})
    lines = (MANIFEST + CORRECTION).splitlines()
    for words, subject in (("hamburger", "hamburger"), ("pistol", "pistol"), ("the captain", "the-captain")):
        assert lines[source.line_of(subject) - 1].endswith(words)


def test_what_is_about_the_whole_model_stands_on_the_first_line() -> None:
    source = Source(path="a.yaml", lines={"pistol": 3})
    assert (source.line_of(None), source.line_of("unknown"), source.line_of("pistol")) == (1, 1, 3)


def test_place_of_the_manifest_changes_no_digest(home: Path) -> None:
    here, there = _plan(_manifest(home / "here")), _plan(_manifest(home / "over" / "there"))
    assert here.source != there.source
    assert here.digest == there.digest == here.model_copy(update={"source": None}).digest


def test_plan_written_before_places_were_known_is_read_with_the_same_digest(home: Path) -> None:
    plan = _plan(_manifest(home))
    old = plan.model_copy(update={"source": None})
    write_record(home / "plan.json", old)
    text = (home / "plan.json").read_text(encoding="utf-8").replace(',\n  "source": null', "")
    assert "source" not in text.replace("sources", "")
    (home / "plan.json").write_text(text, encoding="utf-8")
    assert read_record(home / "plan.json", Plan).digest == plan.digest


def test_path_starts_at_the_top_of_the_repository_wherever_the_command_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _manifest(home / "repository" / "release")
    (home / "repository" / ".git").mkdir()
    for folder, given in ((home, path), (path.parent, Path("manifest.yaml")), (path.parent, Path("../release") / path)):
        monkeypatch.chdir(folder)
        assert portable(given) == "release/manifest.yaml"


def test_path_outside_of_the_working_directory_is_the_name_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _manifest(home / "elsewhere")
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    assert portable(path) == portable(Path("../elsewhere/manifest.yaml")) == "manifest.yaml"


def test_link_to_a_manifest_keeps_its_own_name(home: Path) -> None:
    (home / "link.yaml").symlink_to(_manifest(home / "elsewhere"))
    assert portable(Path("link.yaml")) == "link.yaml"


def test_name_that_is_no_utf_8_can_be_written(home: Path) -> None:
    assert portable(Path(os.fsdecode(b"\xff.yaml"))) == "\ufffd.yaml"
