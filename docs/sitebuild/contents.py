"""All pages of the site: those of docs/, of other folders, and those that are made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.sitebuild import citation, commands, notebooks, places, reference, tasks


def texts() -> Iterator[tuple[str, str, str]]:
    """Every page: the path in the repository that its links start from, where it stands on the site, its markdown."""
    docs = places.ROOT / "docs"
    for path in sorted(docs.rglob("*.md")):
        page, text = path.relative_to(docs).as_posix(), path.read_text(encoding="utf-8")
        folder, _, name = page.rpartition("/")
        if folder == "commands":
            text = text if name == "index.md" else commands.page(name.removesuffix(".md"), text)
        text = text.replace(citation.MARKER, citation.shown())
        yield f"docs/{page}", page, text
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        yield name, name.lower(), (places.ROOT / name).read_text(encoding="utf-8")
    for path, page in places.results().items():
        text = path.read_text(encoding="utf-8")
        yield path.relative_to(places.ROOT).as_posix(), page, text if path in _findings() else _later(text, 0.3)
    yield "experiments/index.md", "experiments/index.md", _results()
    for path in places.notebooks():
        yield f"docs/tutorials/{path.name}", f"tutorials/{path.stem}.md", notebooks.page(path)[0]
    for page, text in tasks.texts():
        yield page, page, _later(text, 0.4)
    for page, text in reference.texts(tasks.tables()):
        yield page, page, _later(text, 0.1)


def _later(text: str, boost: float) -> str:
    """A page that a search shows below those that answer a question, though it has the words more often."""
    return f"---\nsearch:\n  boost: {boost}\n---\n{text}"


def images() -> Iterator[tuple[str, bytes]]:
    """Figures that notebooks drew, and where they stand."""
    for path in places.notebooks():
        for name, image in notebooks.page(path)[1].items():
            yield f"tutorials/{name}", image


def warnings() -> Iterator[str]:
    """What is missing."""
    for path in places.notebooks():
        if not notebooks.is_as_it_ran(path):
            yield f"{path.name} does not show what it says: run python -m docs.sitebuild.notebooks first"
    for name in commands.all_commands():
        if not (places.ROOT / "docs" / "commands" / f"{name}.md").exists():
            yield f"jstrace {name} has no page: docs/commands/{name}.md"


_FIRST = ("smollm2", "four-models", "pairs", "indirect-objects", "scores", "fitted", "peers")
"""Folders of findings in the order in which the first page of the results names them; others come after these."""
_FOUND = re.compile(r"# (?P<title>[^\n]+)\n+(?:\*\*(?P<headline>.+?)\*\*)?", flags=re.DOTALL)


def _finding(path: Path) -> tuple[str, str]:
    """The title of a page, and the sentences in bold that it begins with: what was found."""
    found = _FOUND.match(path.read_text(encoding="utf-8"))
    return (found["title"], " ".join((found["headline"] or "").split())) if found else (path.parent.name, "")


def _findings() -> dict[Path, str]:
    """Pages of results that begin with what was found, and where they stand on the site."""
    found = {path: page for path, page in places.results("README").items() if _finding(path)[1]}
    names = [*_FIRST, *(path.parent.name for path in found)]
    return dict(sorted(found.items(), key=lambda item: names.index(item[0].parent.name)))


def _results() -> str:
    found = {path: Path(page).name for path, page in _findings().items()}
    found[places.ROOT / "docs" / "known-circuits.md"] = "../known-circuits.md"
    rows = "\n".join(f"- **[{_finding(path)[0]}]({page})**: {_finding(path)[1]}" for path, page in found.items())
    records = "\n".join(f"- [{_finding(path)[0]}]({Path(page).name})" for path, page in _records().items())
    return (
        "# Results\n\nWhat was measured with jstrace, a page for each question, with the commands that made it.\n\n"
        f"{rows}\n\n## Records\n\nAll tables, and what was tried. [Performance](../performance.md) sums up speed and"
        f" memory.\n\n{records}\n"
    )


def navigation(nav: list[Any] | None) -> list[Any]:
    """The navigation of mkdocs.yml with its empty sections filled; what it leaves out of docs/ comes last.

    Pages that it names in a section that is filled stand after the first one there.
    """
    made: dict[str, list[Any]] = {
        "Tutorials": ["tutorials/index.md", *(f"tutorials/{path.stem}.md" for path in _in_order())],
        "Commands": [
            "commands/index.md",
            *({f"jstrace {name}": f"commands/{name}.md"} for name in commands.all_commands()),
        ],
        "Results": ["experiments/index.md", *_findings().values(), {"Records": [*_records().values()]}],
        "Reference": reference.navigation(tasks.navigation()),
    }
    filled = [
        {title: [*made.get(title, [])[:1], *inner, *made.get(title, [])[1:]] for title, inner in entry.items()}
        for entry in nav or []
    ]
    named = set(re.findall(r"'([\w./-]+\.md)'", repr(filled)))
    left = [path.name for path in sorted((places.ROOT / "docs").glob("*.md")) if path.name not in named]
    return filled + ([{"More": left}] if left else [])


def _records() -> dict[Path, str]:
    """What stands behind the findings, and where on the site."""
    return {path: page for path, page in places.results().items() if path not in _findings()}


def _in_order() -> list[Any]:
    """Tutorials in the order in which their first page names them."""
    first = (places.ROOT / "docs" / "tutorials" / "index.md").read_text(encoding="utf-8")
    return sorted(places.notebooks(), key=lambda path: first.find(f"({path.name})"))
