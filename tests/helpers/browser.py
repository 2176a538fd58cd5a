"""Debian's Chromium for tests, driven by Playwright, cut off from every network."""

import io
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium():
    """A browser without a window; skips where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is not tested in a browser: pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("the page is not tested in a browser: there is no Chromium; apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """One tab of a browser, which opens files one after the other: what a page asked for and complained of is kept apart.

    Args:
        browser: from `chromium`.
    """

    def __init__(self, browser):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, accept_downloads=True)
        context.set_default_timeout(20_000)
        self.page = context.new_page()
        self.address, self.asked, self.complaints = None, [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))

    def open(self, path, *, scheme="light"):
        """Show a file to an eye that likes a colour scheme; returns this visitor."""
        self.address, self.asked, self.complaints = path.resolve().as_uri(), [], []
        self.page.emulate_media(color_scheme=scheme)
        self.page.goto(self.address)
        self.settled()
        return self

    def settled(self, *, example=None, view=None, layer=None, head=None, query=None):
        """Wait until the page shows a head, or the one that is named; returns the page."""
        wanted = [value if value is None else str(value) for value in (example, view, layer, head, query)]
        self.page.wait_for_function(
            """wanted => {
                const shown = document.documentElement.dataset.shown?.split("/");
                return shown && wanted.every((value, at) => value === null || value === shown[at]);
            }""",
            arg=wanted,
        )
        return self.page

    def texts(self, selector):
        """The texts of all elements that a selector finds, at once."""
        return self.page.eval_on_selector_all(selector, "found => found.map(one => one.textContent)")

    def found_fault(self):
        """What the page asked for besides itself, and what it complained of."""
        return [url for url in self.asked if url != self.address and not url.startswith(("data:", "blob:"))], self.complaints


def read(text):
    """A number as the page writes it."""
    return float(text.replace("−", "-"))


def close(found, wanted):
    """Equal to the four digits that a table shows, of numbers in float16."""
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=1.1e-3, atol=2e-8)


def table_of(one):
    """The columns of the page's table by their names."""
    names = one.texts("#table thead th")
    cells = [one.texts(f"#table tbody tr > :nth-child({column + 1})") for column in range(len(names))]
    return dict(zip(names, cells, strict=True))


def numbers_of(one, selector):
    """The numbers that elements show, in order."""
    shown = one.page.eval_on_selector_all(selector, "found => found.map(one => one.dataset.value)")
    return [read(text) for text in shown]


def picture_of(locator):
    """What an element looks like, `[height, width, 3]`."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)
