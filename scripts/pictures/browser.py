"""Screenshots of pages that the project writes, in headless Chromium. Needs playwright and chromium."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Where the picture was made is nobody's concern.
_SHORTEN = """work => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode()); ) node.nodeValue = node.nodeValue.replaceAll(work, "/data");
}"""


@contextmanager
def opened(
    path: Path, work: str, width: int, scheme: Literal["light", "dark"] = "light", style: str = ""
) -> Iterator[Page]:
    """Open a page from disk, `width` pixels wide, with a style of the picture; `work` is shown as /data."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit(f"error: none of {', '.join(NAMES)} is installed; apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        context = started.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(path.as_uri())
        page.add_style_tag(content=style)
        page.evaluate(_SHORTEN, work)
        yield page
        started.close()


def at_each(page: Page, selectors: Sequence[str]) -> list[bytes]:
    """The screen of the page when it is scrolled to each element."""
    screens = []
    for selector in selectors:
        page.locator(selector).first.evaluate("each => each.scrollIntoView({block: 'start'})")
        page.wait_for_timeout(300)
        screens.append(page.screenshot())
    return screens
