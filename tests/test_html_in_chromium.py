"""report.html as a reviewer has it: opened from disk in Chromium, in both themes, on a telephone, and on paper."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fmn_guard.render.html.page import html
from fmn_guard.report import judge

from .browser import PAPER, chromium
from .builder import make_audit, make_plan, make_policy
from .pages import make_page, make_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

VERDICTS = ("pass", "fail", "inconclusive")  # each has its colours


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for each verdict, on disk."""
    folder = tmp_path_factory.mktemp("pages")
    plan = make_plan()
    audit = make_audit(plan)
    texts = {
        "pass": html(judge(plan, audit, make_policy()), plan, audit, None, make_pictures(plan, audit)),
        "fail": make_page(no_effect_below=0.95),
        "inconclusive": make_page(),
    }
    for verdict, text in texts.items():
        assert f"<title>{verdict.capitalize()}: " in text
        (folder / f"{verdict}.html").write_text(text, encoding="utf-8")
    return {verdict: folder / f"{verdict}.html" for verdict in texts}


class Visit:
    """A tab with a page in it, and what it asked for and complained of meanwhile."""

    def __init__(self, browser: Browser, page: Path, **options: Any) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.tab: Page = browser.new_page(**options)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(page.as_uri(), wait_until="load")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_page_loads_nothing_but_itself_and_complains_of_nothing(
    browser: Browser, pages: dict[str, Path], verdict: str
) -> None:
    visit = Visit(browser, pages[verdict])
    assert [url for url in visit.asked if not url.startswith("data:")] == [pages[verdict].as_uri()]
    assert visit.complaints == []
    broken = "[...document.images].filter(i => i.naturalWidth === 0).length"
    assert visit.tab.evaluate(broken) == 0
    assert visit.tab.evaluate("document.images.length") > 0


def test_security_policy_stops_what_is_slipped_into_the_page(browser: Browser, tmp_path: Path) -> None:
    slipped = tmp_path / "slipped.html"
    extra = "<script>document.title = 'run'</script><img src='https://example.org/x.png'><p style='color: red'>"
    slipped.write_text(make_page().replace("</main>", f"{extra}</main>"), encoding="utf-8")
    visit = Visit(browser, slipped)
    assert visit.tab.title() != "run"
    assert len([words for words in visit.complaints if "Content Security Policy" in words]) >= 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("verdict", VERDICTS)
def test_axe_finds_nothing_serious(browser: Browser, pages: dict[str, Path], verdict: str, scheme: str) -> None:
    visit = Visit(browser, pages[verdict], color_scheme=scheme)
    visit.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    visit.tab.evaluate(Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8"))
    found = visit.tab.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert any(rule["id"] == "color-contrast" for rule in found["passes"])
    said = [f"{rule['impact']}: {rule['id']}: {node['html']}" for rule in found["violations"] for node in rule["nodes"]]
    assert not said, "\n".join(said)


def test_themes_differ_and_paper_is_always_light(browser: Browser, pages: dict[str, Path]) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.body).color"
    light, dark = (Visit(browser, pages["fail"], color_scheme=scheme).tab for scheme in ("light", "dark"))
    assert light.evaluate(paper) != dark.evaluate(paper)
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(ink) == light.evaluate(ink)


@pytest.mark.parametrize("width", [320, 360, 768, 1280, 1920])
def test_page_never_scrolls_sideways(browser: Browser, pages: dict[str, Path], width: int) -> None:
    visit = Visit(browser, pages["fail"], viewport={"width": width, "height": 800})
    visit.tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert visit.tab.evaluate("document.documentElement.scrollWidth") <= width


def test_page_works_without_javascript_and_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(pages["fail"].as_uri())
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**#main")
    summary = tab.locator("summary").first
    summary.focus()
    tab.keyboard.press("Enter")
    assert tab.locator("details table").first.is_visible()


def test_focus_is_seen(browser: Browser, pages: dict[str, Path]) -> None:
    tab = Visit(browser, pages["fail"]).tab
    for _ in range(3):
        tab.keyboard.press("Tab")
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(outline.removesuffix("px")) >= 2


def test_print_has_pages_opens_details_and_clips_no_table(browser: Browser, pages: dict[str, Path]) -> None:
    tab = Visit(browser, pages["fail"], viewport=dict(zip(("width", "height"), PAPER, strict=True))).tab
    pdf = tab.pdf(format="A4")
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 3
    tab.emulate_media(media="print")
    assert tab.locator("details table").first.is_visible()
    clipped = "[...document.querySelectorAll('table')].filter(t => t.getBoundingClientRect().right > innerWidth).length"
    assert tab.evaluate(clipped) == 0
    assert not tab.locator("nav").is_visible()
