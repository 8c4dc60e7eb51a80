"""The project's own files: how it is cited, how one contributes, what issues ask for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_readme import dead_links

pytestmark = pytest.mark.quick

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_citation() -> None:
    """The software with the version and licence that it has, and the paper as what to cite."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert not re.search(r": [&*]\w|- \*\w", text), "some readers of it refuse aliases"
    cited = yaml.safe_load(text)
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert [cited[name] for name in ("title", "version", "license")] == [
        PROJECT[name] for name in ("name", "version", "license")
    ]
    paper = cited["preferred-citation"]
    assert paper["title"] == "Tracing Computation Density in LLMs"
    assert paper["url"].endswith("2605.27033")
    assert cited["references"] == [paper]


def test_contributing() -> None:
    """Links lead somewhere, and so do the paths that it names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert not dead_links(ROOT / "CONTRIBUTING.md")
    named = set(re.findall(r"`((?:tests|models|convert|docs)/[\w/.]*)`", text))
    assert len(named) > 5
    assert not [path for path in named if not (ROOT / path).exists()]
    extras = {name for found in re.findall(r'"\.\[([\w,]+)\]"', text) for name in found.split(",")}
    assert {"dev"} <= extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md")), ids=lambda path: path.stem)
def test_issue_templates(path: Path) -> None:
    """What GitHub needs to show them, and links that lead somewhere."""
    _, header, body = path.read_text(encoding="utf-8").split("---\n", 2)
    assert {"name", "about"} <= set(yaml.safe_load(header))
    assert body.strip()
    assert not dead_links(path)
