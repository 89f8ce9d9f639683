"""Chromium, as tests and photographs of report.html use it.

``python -m tests.browser RUN FOLDER`` writes the page of a run, and photographs the top of it: light, dark and printed.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fmn_guard.cli import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PAPER = (702, 1016)
"""What the margins leave of A4, at 96 pixels an inch."""
MARGIN = 46
"""The margin, in the same pixels."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium that is installed, without a window.

    Raises:
        FileNotFoundError: none is.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        raise FileNotFoundError("no Chromium on the path; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


def photograph(page: Path, folder: Path) -> None:
    """Writes report-light.png, report-dark.png and report-print.png."""
    from PIL import Image, ImageOps

    looks: tuple[tuple[str, Literal["light", "dark"], Literal["screen", "print"], tuple[int, int]], ...] = (
        ("light", "light", "screen", (1280, 1200)),
        ("dark", "dark", "screen", (1280, 1200)),
        ("print", "light", "print", PAPER),
    )
    with chromium() as browser:
        for name, scheme, media, (width, height) in looks:
            tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            tab.emulate_media(media=media)
            tab.goto(page.as_uri())
            taken = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            framed = ImageOps.expand(taken, MARGIN, "white") if media == "print" else taken
            framed.quantize(256).save(folder / f"report-{name}.png", optimize=True)


if __name__ == "__main__":
    run, target = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as home:
        written = Path(home, "report.html")
        main(["report", str(run), "-o", str(written)], standalone_mode=False)
        photograph(written, target)
