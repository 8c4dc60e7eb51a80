"""The picture of the first page: the gallery's pair of prompts in a browser, at a size where the trace succeeds.

Command: ``python experiments/figures/first_picture.py`` (seconds; ``pip install playwright`` and a Chromium) writes
docs/view.png and docs/view-dark.png from docs/gallery/mary.html, which docs/view.md has the command of.

Expected: at 0.6% of the edges the sub-graph predicts ' Mary' again; nearly all attention edges read the second ' John'.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[2] / "docs"
WIDTH, MARGIN = 1400, 12
BOTTOM = "Math.max(...[...document.querySelectorAll('.maps, .key')].map(part => part.getBoundingClientRect().bottom))"
PICTURES = {"light": "view.png", "dark": "view-dark.png"}
"""By the colour scheme of who looks."""


def main() -> None:
    """Take the page in both schemes, down to the end of its last map."""
    page = (DOCS / "gallery" / "mary.html").as_uri() + "#k=14"
    with sync_playwright() as driver:
        own = driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=own if os.path.exists(own) else shutil.which("chromium"))
        for scheme, name in PICTURES.items():
            context = browser.new_context(color_scheme=scheme, viewport={"width": WIDTH, "height": 900})
            tab = context.new_page()
            tab.goto(page)
            tab.wait_for_selector("body[data-ready]")
            tab.evaluate("document.querySelectorAll('.key ~ p').forEach((note) => note.remove())")
            bottom = tab.evaluate(BOTTOM)
            clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom + MARGIN}
            tab.screenshot(path=DOCS / name, full_page=True, clip=clip)
        browser.close()


if __name__ == "__main__":
    main()
