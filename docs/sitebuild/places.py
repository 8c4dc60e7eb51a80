"""Where files of the repository stand on the site, and links between them rewritten to go there.

Pages link to files of the repository, as GitHub reads them. On the site a module is its page of the reference, a
notebook the page that it makes, and any other file that a page links to is copied, or shown if it is Python.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from docs.sitebuild import reference

ROOT = reference.ROOT
_TOP = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<label>\[(?:`[^`]*`|[^\]`])*\])\((?P<target>[^)\s]+)\)|(?P<code>(?P<ticks>`+).+?(?P=ticks))")
"""A link, whose label may be code, or a span of code, which may look like a link."""


def pages() -> dict[str, str]:
    """Paths of the repository that are pages, and where: all but commands' and modules' are markdown of their own."""
    docs = ROOT / "docs"
    found = {path.relative_to(ROOT).as_posix(): path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    found |= _TOP
    for path, page in results().items():
        found[path.relative_to(ROOT).as_posix()] = page
    found |= {"experiments/results": "experiments/index.md", "jstrace": "reference/index.md"}
    for path in notebooks():
        found[path.relative_to(ROOT).as_posix()] = f"tutorials/{path.stem}.md"
    for module in reference.modules().values():
        found[module.path.relative_to(ROOT).as_posix()] = module.page
    return found


def results(name: str = "*") -> dict[Path, str]:
    """Findings of every folder of results (``README``), records behind them (``record``), and their pages."""
    ends = {"README": "", "record": "-record"}
    paths = sorted((ROOT / "experiments" / "results").glob(f"*/{name}.md"))
    return {path: f"experiments/{path.parent.name}{ends[path.stem]}.md" for path in paths if path.stem in ends}


def notebooks() -> list[Path]:
    """The tutorials."""
    return sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def outside_blocks(text: str, change: Callable[[str], str]) -> str:
    """Markdown with everything but its blocks of code changed."""

    def parts() -> Iterator[str]:
        start = 0
        for found in _FENCE.finditer(text):
            yield change(text[start : found.start()])
            yield found[0]
            start = found.end()
        yield change(text[start:])

    return "".join(parts())


def linked(text: str, source: str, page: str, known: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A page's markdown with links that hold on the site, and files that it needs there.

    Args:
      text: the markdown.
      source: where it stands in the repository.
      page: where it stands on the site.
      known: of ``pages``.

    Returns:
      the text, and where on the site each file stands that is no page, by its path in the repository.
    """
    needed: dict[str, str] = {}

    def one(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        target, _, heading = found["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = known.get(path)
        if goal is None:
            if not (ROOT / path).is_file():
                return found[0]  # mkdocs warns of it
            goal = needed[path] = _copied(path)
        heading = heading or reference.anchor(path, found["label"].strip("[]`"))
        relative = posixpath.relpath(goal, posixpath.dirname(page) or ".")
        return f"{found['label']}({relative}{'#' if heading else ''}{heading})"

    return outside_blocks(text, lambda part: _LINK.sub(one, part)), needed


def _copied(path: str) -> str:
    """Where a file stands that is no page: Python as a page with its source, files of docs as they are."""
    if path.endswith(".py"):
        return f"source/{path.removesuffix('.py')}.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"


def shown_source(path: str) -> str:
    """The page of a Python file that is no module of the package."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````python\n{text.rstrip()}\n````\n"
