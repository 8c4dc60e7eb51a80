"""Parameters that a docstring describes together, told apart for the reference, so that each has its type."""

from __future__ import annotations

import re

_TOGETHER = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<said>.*(?:\n(?P=indent) +.*)*)$", re.MULTILINE)


def apart(docstring: str) -> str:
    """``a, b: words`` under ``Args:`` as a line for each."""
    head, args, rest = docstring.partition("Args:\n")
    section, end, after = rest.partition("\n\n")

    def each(found: re.Match[str]) -> str:
        return "\n".join(f"{found['indent']}{name}: {found['said']}" for name in found["names"].split(", "))

    return head + args + _TOGETHER.sub(each, section) + end + after
