"""The built site, looked through: every link within it leads to a page and an anchor, and no page needs the network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
_NEEDED = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "manifest"}
"""What a ``link`` may be that browsers fetch by themselves."""


class _Page(HTMLParser):
    """Anchors of a page, what it links to and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors, self.links, self.loaded = set[str](), set[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        at = {name: value or "" for name, value in attrs}
        self.anchors |= {at[name] for name in ("id", "name") if name in at}
        if tag == "a" and "href" in at:
            self.links.add(at["href"])
        if tag in _LOADED and _LOADED[tag] in at:
            self.loaded.add(at[_LOADED[tag]])
        if tag == "link" and set(at.get("rel", "").split()) & _NEEDED:
            self.loaded.add(at["href"])


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the site in a folder, a line each."""
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        for target in sorted(page.links | page.loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    yield f"{where}: loads {target} from the network"
                continue
            goal = _goal(site, path, unquote(parts.path))
            if not goal.exists():
                yield f"{where}: links to {target}, which is not there"
            elif parts.fragment and goal in pages and not _has(pages[goal], unquote(parts.fragment)):
                yield f"{where}: links to {target}, which has no such anchor"
    for path in sorted(site.rglob("*.css")):
        for found in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site).as_posix()}: loads {found} from the network"


def _goal(site: Path, page: Path, path: str) -> Path:
    goal = page if not path else (site / path.lstrip("/") if path.startswith("/") else page.parent / path)
    return (goal / "index.html" if goal.is_dir() else goal).resolve()


def _has(page: _Page, fragment: str) -> bool:
    return fragment in page.anchors or "=" in fragment or fragment.startswith("__")
