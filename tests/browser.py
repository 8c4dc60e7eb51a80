"""A real browser for pages, where there is one, and what axe-core finds on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, or the one that playwright fetched."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        own = driver.chromium.executable_path
        path = next(filter(None, map(shutil.which, NAMES)), own if os.path.exists(own) else None)
        if path is None:
            pytest.skip("no Chromium here: pages are not tested in a browser")
        found = driver.chromium.launch(executable_path=path, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page, and afterwards wants no error and no request but for pages themselves."""
    said: list[str] = []
    asked: list[str] = []
    tabs = []

    def call(html: str, mark: str = "", **options: Any) -> Any:
        path = tmp_path / f"page{len(tabs)}.html"
        path.write_text(html, encoding="utf-8")
        tab = browser.new_context(**options).new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("dialog", lambda dialog: said.append("a dialog"))
        tab.goto(path.as_uri() + mark)
        if options.get("java_script_enabled", True):
            tab.wait_for_selector("body[data-ready]")
        tabs.append(tab)
        return tab

    yield call
    for tab in tabs:
        tab.context.close()
    assert not said
    assert all(url.startswith("file:") or url.startswith("blob:") for url in asked)
    assert len(asked) == len(tabs)


def found_by_axe(tab: Any) -> list[str]:
    """What axe-core calls serious or critical, by rule and element; the page's own policy does not bind it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(tab).response["violations"]
    serious = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in serious for node in rule["nodes"]]
