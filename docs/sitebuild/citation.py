"""How to cite, from CITATION.cff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from docs.sitebuild import places

MARKER = "<!-- citation -->"


def shown() -> str:
    """The paper and the software, in words and as BibTeX."""
    software = yaml.safe_load((places.ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = software["preferred-citation"]
    entries = "\n\n".join([_bibtex("article", paper, "strace"), _bibtex("software", software, software["title"])])
    authors = ", ".join(_names(paper["authors"]))
    return f"{authors}: *{paper['title']}*, {paper['year']}. <{paper['url']}>\n\n```bibtex\n{entries}\n```"


def _names(authors: Sequence[Mapping[str, str]]) -> list[str]:
    return [author.get("family-names") or f"{author['name']}" for author in authors]


def _bibtex(kind: str, entry: Mapping[str, Any], key: str) -> str:
    names = (f"{{{name}}}" if " " in name else name for name in _names(entry["authors"]))
    fields = {"title": f"{{{entry['title']}}}", "author": " and ".join(names)}
    fields |= {name: str(entry[name]) for name in ("year", "version", "url") if name in entry}
    return f"@{kind}{{{key},\n" + "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items()) + "}"
