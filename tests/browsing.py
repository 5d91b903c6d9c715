"""A real browser for the tests of pages, watched: what the pages ask for, and what they complain of."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
try:
    import playwright.sync_api as driver
except ImportError:
    MISSING = "playwright is not installed"
else:
    MISSING = "" if CHROMIUM else "no Chromium here"
NEEDED = [pytest.mark.browser, pytest.mark.skipif(bool(MISSING), reason=MISSING or "there")]


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    with driver.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


class Watched:
    """A browser context that keeps every request of its pages, and every error and warning."""

    def __init__(self, context: BrowserContext) -> None:
        self.context, self.asked, self.wrong = context, list[str](), list[str]()
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None)
        context.on("weberror", lambda error: self.wrong.append(str(error.error)))

    def open(self, url: str) -> Page:
        page = self.context.new_page()
        page.goto(url)
        return page


@contextlib.contextmanager
def watching(browser: Browser, expected: Callable[[str], bool], **usual: Any) -> Iterator[Callable[..., Watched]]:
    """Opens contexts that must end without an error and without a request that is not `expected`."""
    there: list[Watched] = []

    def fresh(**more: Any) -> Watched:
        there.append(Watched(browser.new_context(**{"locale": "en-US", **usual, **more})))
        return there[-1]

    yield fresh
    assert there
    for found in there:
        found.context.close()
        assert found.wrong == []
        assert found.asked
        assert [url for url in found.asked if not expected(url)] == []
