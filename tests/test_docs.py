"""The documentation builds into a site of its own: strictly, with the whole reference, asking nothing of a network."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from fmn_guard import untested
from fmn_guard.cli import main
from fmn_guard.render import FORMATS
from fmn_guard.schema import DOCUMENTS, schema_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _build(configuration: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "-f", str(configuration), "-d", str(site)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = _build(ROOT / "properdocs.yml", folder)
    assert built.returncode == 0, built.stderr
    return folder


class _Page(HTMLParser):
    """What a page says, and what it makes a browser fetch."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.fetched: list[str] = []
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address:
            self.fetched.append(address)


def _page(site: Path, name: str) -> _Page:
    return _Page((site / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("broken", ["[gone](gone.md)", "[gone](index.md#gone)"])
def test_link_or_heading_that_is_not_there_fails_the_build(broken: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Start\n\n{broken}\n", encoding="utf-8")
    text = (ROOT / "properdocs.yml").read_text(encoding="utf-8")
    alone = re.sub(r"^(nav:\n(?:  .*\n)*|hooks: .*\n)", "", text, flags=re.MULTILINE)
    (tmp_path / "properdocs.yml").write_text(alone, encoding="utf-8")
    built = _build(tmp_path / "properdocs.yml", tmp_path / "site")
    assert built.returncode != 0
    assert "gone" in built.stderr


def test_every_page_is_built_and_nothing_else_of_the_folder_but_pictures(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == pages | {Path("404.html")}
    assert not list(site.rglob("*.py"))


def test_no_page_or_style_fetches_anything_from_elsewhere(site: Path) -> None:
    fetched = [(path.name, each) for path in site.rglob("*.html") for each in _page(site, str(path)).fetched]
    styles = [
        path for path in site.rglob("*.css") if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text())
    ]
    assert fetched
    assert [each for each in fetched if re.match(r"(https?:)?//", each[1])] == []
    assert styles == []


# ---- reference


def _commands(command: click.Command, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from _commands(below, click.Context(below, info_name=name, parent=context))


@pytest.mark.parametrize(("path", "command"), list(_commands(main, click.Context(main, info_name="fmn-guard"))))
def test_reference_has_every_command_with_all_its_options_and_its_help(
    path: str, command: click.Command, site: Path
) -> None:
    text = _page(site, "reference/commands.html").text
    section = re.search(rf"^{path}¶?$(.*?)(^fmn-guard[a-z -]*¶?$|\Z)", text, re.MULTILINE | re.DOTALL)
    assert section
    said = " ".join(section[1].split())
    for option in (param for param in command.params if isinstance(param, click.Option)):
        assert all(name in said for name in option.opts)
        assert " ".join((option.help or "").replace("`", "").split()) in said
    assert (command.help or "").strip().splitlines()[0].replace("`", "") in said


def test_reference_has_every_report_format(site: Path) -> None:
    text = _page(site, "reference/commands.html").text
    assert all(known.about in text for known in FORMATS.values())


@pytest.mark.parametrize("name", DOCUMENTS)
def test_reference_has_every_field_of_every_file_with_its_description(name: str, site: Path) -> None:
    text = " ".join(_page(site, "reference/schemas.html").text.split())
    schema = schema_of(name)  # type: ignore[arg-type]
    for part in (schema, *schema["$defs"].values()):
        for field, about in part["properties"].items():
            assert f" {field} " in text
            assert " ".join(about.get("description", "").replace("`", "").split()) in text


def test_link_out_of_the_folder_is_a_name_on_the_site(site: Path) -> None:
    page = _page(site, "how-to/write-a-policy.html")
    assert "policies/README.md in the repository" in page.text


# ---- what was not tested


def test_page_of_what_was_not_tested_begins_as_every_report_does() -> None:
    page = (DOCS / "explanation" / "not-tested.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- (.+)$", page, re.MULTILINE)
    assert listed == list(untested._NEVER_TESTED)
