"""Mathematics as MathML, which browsers show by themselves: no script, nothing fetched when a page is read."""

from __future__ import annotations

import html
import re

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', flags=re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', flags=re.DOTALL)
_TAG = re.compile(r"\\tag\{(.*?)\}")


def rendered(page: str) -> str:
    """A page's HTML with the TeX that arithmatex marked as MathML."""
    return _INLINE.sub(lambda found: _mathml(found[1], "inline"), _BLOCK.sub(lambda found: _equation(found[1]), page))


def _equation(tex: str) -> str:
    """On a line of its own, with its number if it has one."""
    tag = _TAG.search(tex)
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    return f'<div class="equation">{_mathml(_TAG.sub("", tex), "block")}{number}</div>'


def _mathml(tex: str, display: str) -> str:
    from latex2mathml.converter import convert

    return str(convert(html.unescape(tex).strip(), display=display))
