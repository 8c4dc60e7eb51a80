"""What mkdocs calls: pages that are made, links that hold on the site, mathematics, and a look through the result."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # mkdocs runs anywhere

from docs.sitebuild import checking, contents, mathematics, places, reference

log = logging.getLogger("mkdocs.hooks.jstrace")  # with --strict a warning ends the build


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The parts of the navigation that are made; sources are read anew, for mkdocs serve builds more than once."""
    for kept in (reference.modules, reference.tree, reference.definitions):
        kept.cache_clear()
    config.nav = contents.navigation(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages of other folders and made ones; links in all of them rewritten; files that they link to."""
    known, needed = places.pages(), dict[str, str]()
    for source, page, text in contents.texts():
        text, more = places.linked(text, source, page, known)
        needed |= more
        _put(files, File.generated(config, page, content=text))
    for path, goal in needed.items():
        if path.endswith(".py"):
            source = places.shown_source(path)
            _put(files, File.generated(config, goal, content=source, inclusion=InclusionLevel.NOT_IN_NAV))
        else:
            _put(files, File.generated(config, goal, abs_src_path=str(places.ROOT / path)))
    for name, image in contents.images():
        _put(files, File.generated(config, name, content=image))
    for warning in contents.warnings():
        log.warning(warning)
    return files


def _put(files: Files, file: File) -> None:
    there = files.get_file_from_path(file.src_uri)
    if there is not None:
        files.remove(there)
    files.append(file)


_CELL = re.compile(r"(<(?:code|td|strong)\b[^>]*>)([^<]+)")
_WHOLE = re.compile(r"--[a-z][a-z-]+|\d\.\de-\d\d|\d?\.\d+(?: [/|±] \d?\.\d+)+")
"""Options, numbers and short series of them, in which no line may break."""
_TD = re.compile(r"<td>(.*?)</td>", flags=re.DOTALL)
_WORDY = 60
"""Characters of a cell that needs room beside those with a name or a number."""


def on_page_content(html: str, **_: Any) -> str:
    """TeX as MathML; options and series of numbers in one piece; room for words in tables."""
    whole = _CELL.sub(
        lambda cell: cell[1] + _WHOLE.sub(r'<span class="whole">\g<0></span>', cell[2]), mathematics.rendered(html)
    )
    return _TD.sub(_roomy, whole)


def _roomy(cell: re.Match[str]) -> str:
    text = re.sub(r"<[^>]*>", "", cell[1])
    return f'<td class="wordy">{cell[1]}</td>' if len(text) > _WORDY else cell[0]


def on_post_page(output: str, **_: Any) -> str:
    """The theme's dialog has no name, and screen readers read one."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_post_build(config: MkDocsConfig) -> None:
    """What is wrong with the site, as warnings."""
    for problem in checking.problems(Path(config.site_dir)):
        log.warning(problem)
