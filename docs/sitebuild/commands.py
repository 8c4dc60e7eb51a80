"""Commands as pages: words and an example in docs/commands/NAME.md, usage and options from the program itself."""

from __future__ import annotations

import inspect
import re
from typing import Any

MARKER = "<!-- usage -->"


def all_commands() -> dict[str, Any]:
    """Every command of the program, by name, in the order of its help."""
    import typer.main

    from jstrace.cli.program import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def usage(name: str) -> str:
    """Usage, description and all options of a command, as markdown."""
    command = all_commands()[name]
    context = command.make_context(name, [], resilient_parsing=True)
    pieces = " ".join(["jstrace", name, *command.collect_usage_pieces(context)])
    parts = [f"## Usage\n\n```text\n{pieces}\n```\n\n{_escaped(inspect.cleandoc(command.help or ''))}"]
    for kind in ("argument", "option"):
        records = [one.get_help_record(context) for one in command.params if one.param_type_name == kind]
        if any(records):
            lines = [
                f"| {kind} | what it is | default, range |",
                "|---|---|---|",
                *(_row(*each) for each in records if each),
            ]
            table = "\n".join(lines)
            parts.append(f'## {kind.capitalize()}s\n\n<div class="options" markdown="1">\n\n{table}\n\n</div>')
    return "\n\n".join(parts)


def page(name: str, text: str) -> str:
    """A command's page with its usage where the marker stands."""
    if text.count(MARKER) != 1:
        raise ValueError(f"docs/commands/{name}.md: one line {MARKER} expected")
    return re.sub(rf"^{MARKER}.*$", lambda _: usage(name), text, flags=re.MULTILINE)


def _row(names: str, said: str) -> str:
    """An option in a table; its help ends with its default, its range and whether it is required, in brackets."""
    found = re.fullmatch(r"(.*?)\s*(?:\[([^\[\]]*)\])?", said, flags=re.DOTALL)
    text, notes = (found[1], found[2] or "") if found else (said, "")
    notes = _escaped(re.sub(r"x>=(-?[\d.]+)", r"at least \1", notes))
    notes = notes.replace("default: ", '<span class="narrow">default: </span>')
    return f"| {_code(names)} | {_escaped(' '.join(text.split()))} | {notes} |"


def _code(text: str) -> str:
    return (
        "<code>"
        + text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;").replace("*", "&#42;")
        + "</code>"
    )


def _escaped(text: str) -> str:
    for sign in "\\*_<|[]":
        text = text.replace(sign, f"&#{ord(sign)};")
    return text
