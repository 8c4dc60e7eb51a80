"""The reference: a page for every module of every room but the command line's, and tables of the public names.

What is public is what the stubs (``__init__.pyi``) name. Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("models", "convert", "scale", "method", "pipeline", "analysis", "show", "runs", "reports")
_LOOSE = ("loading", "errors", "files", "archives")
"""Modules at the top of the package."""


class Module(NamedTuple):
    """A module, where it is read from and where it is shown."""

    name: str
    path: Path
    page: str


@functools.cache
def modules() -> dict[str, Module]:
    """Every module that has a page, by its dotted name, rooms in the order of imports."""
    found = {}
    for room in ROOMS:
        top = _folder(room)
        for path in sorted(top.rglob("*.py"), key=lambda path: (path.parent, path.stem != "__init__", path.stem)):
            parts = [room, *path.relative_to(top).with_suffix("").parts]
            if parts[-1] == "__init__":
                parts[-1] = "index"
            name = ".".join(["jstrace", *(part for part in parts if part != "index")])
            found[name] = Module(name, path, f"reference/{'/'.join(parts)}.md")
    for name in _LOOSE:
        found[f"jstrace.{name}"] = Module(f"jstrace.{name}", ROOT / "jstrace" / f"{name}.py", f"reference/{name}.md")
    return found


def _folder(room: str) -> Path:
    return ROOT / room if room in ("models", "convert") else ROOT / "jstrace" / room


@functools.cache
def tree(path: Path) -> ast.Module:
    """A parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def public(room: str = "") -> dict[str, str]:
    """Public names of a room, or of the package itself, and the full names that they stand for.

    A room without a stub has those that its ``__all__`` imports, or none.
    """
    folder = _folder(room)
    stub = folder / "__init__.pyi"
    path = stub if stub.exists() else folder / "__init__.py"
    package = f"jstrace.{room}" if room else "jstrace"
    names: dict[str, str] = {}
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("jstrace.")):
            module = f"{package}.{node.module}" if node.level else f"{node.module}"
            names |= {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    if not stub.exists():
        names = {name: names[name] for name in _listed(path)}
    return {name: home(full) for name, full in names.items()}


def _listed(path: Path) -> list[str]:
    """What ``__all__`` names."""
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found: list[str] = ast.literal_eval(node.value) if isinstance(node.value, ast.List) else []
            return found
    return []


def home(full: str) -> str:
    """Where a name is defined: a room may pass it on from another."""
    module, _, name = full.rpartition(".")
    if name in definitions(module):
        return full
    if module.count(".") == 1 and module in modules():
        passed = public(module.partition(".")[2])
        return passed.get(name, full)
    for node in tree(modules()[module].path).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return home(f"{node.module}.{name}")
    return full


@functools.cache
def definitions(module: str) -> dict[str, str]:
    """Names that a module defines, methods and fields as ``Class.name``, and the first line of what describes them."""
    if module not in modules():
        return {}
    return dict(_defined(tree(modules()[module].path).body, ""))


def docstring(full: str) -> str:
    """All of what describes a function, a class or a constant."""
    module, _, own = full.rpartition(".")
    body, found = tree(modules()[module].path).body, ""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == own:  # the last: overloads say nothing
            found = ast.get_docstring(node) or ""
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == own and isinstance(after, ast.Expr):
            found = str(ast.literal_eval(after.value))
    return found


def summary(full: str) -> str:
    """The first line of that, for a cell of a table."""
    module, _, own = full.rpartition(".")
    return _cell(definitions(module).get(own, ""))


def _defined(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if not node.name.startswith("_"):
                yield prefix + node.name, (ast.get_docstring(node) or "").partition("\n")[0]
                if isinstance(node, ast.ClassDef):
                    yield from _defined(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If):
            yield from _defined(node.body, prefix)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and str(after.value.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("_"):
                    yield prefix + target.id, (said or "").partition("\n")[0]


def anchor(path: str, label: str) -> str:
    """The heading of a module's page that a link's label names; none where it names nothing in it."""
    found = [module for module in modules().values() if module.path == ROOT / path]
    parts = label.removesuffix("()").split(".")
    for module in found:
        for start in range(len(parts)):
            if ".".join(parts[start:]) in definitions(module.name):
                return f"{module.name}.{'.'.join(parts[start:])}"
    return ""


def table(names: dict[str, str], page: str) -> str:
    """Public names with what they are in a line, linked to where they are described."""
    lines = ["| name | what it is |", "|---|---|"]
    for name, full in names.items():
        module = full.rpartition(".")[0]
        goal = modules()[module].page.removeprefix("reference/")
        up = "../" * (page.count("/") - 1)
        lines.append(f"| [`{name}`]({up}{goal}#{full}) | {summary(full)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|") if "`" not in text else text.replace("|", "&#124;")


def texts(by_task: str) -> Iterator[tuple[str, str]]:
    """Every page of the reference but those of tasks, which the first one lists, and its markdown."""
    yield "reference/index.md", _front(by_task)
    for module in modules().values():
        yield module.page, _page(module)


def _front(by_task: str) -> str:
    rooms = "\n".join(
        f"| [`jstrace.{room}`]({room}/index.md) | {_first(modules()[f'jstrace.{room}'])} |" for room in ROOMS
    )
    loose = "\n".join(f"| [`jstrace.{name}`]({name}.md) | {_first(modules()[f'jstrace.{name}'])} |" for name in _LOOSE)
    return (
        "# Reference\n\nThese pages are made from the docstrings. Shapes are those of [jaxtyping](https://docs.kidger.site/jaxtyping/):"
        ' `Float32[Array, "T D"]` is a float32 array of T tokens by D; all letters are in'
        " [`jstrace.models.edges`](models/edges.md). [The graph by family](../graph-families.md) has"
        " what families of models change.\n\n## `jstrace`\n\nWhat most programs need, by task.\n\n"
        f"{by_task}\n\n## Sub-packages\n\nImports go one way, down this table"
        " ([architecture](../architecture.md)).\n\n| sub-package | what is in it |\n|---|---|\n"
        f"{rooms}\n\nAt the top of the package:\n\n| module | what is in it |\n|---|---|\n{loose}\n"
    )


def _first(module: Module) -> str:
    return _cell((ast.get_docstring(tree(module.path)) or "").partition("\n\n")[0].replace("\n", " "))


def _page(module: Module) -> str:
    if not module.page.endswith("/index.md"):
        return f"# `{module.name}`\n\n::: {module.name}\n"
    said = ast.get_docstring(tree(module.path)) or ""
    room = module.name.removeprefix("jstrace.")
    names = public(room) if room in ROOMS else {}
    inner = [one for one in modules().values() if one.name.startswith(f"{module.name}.")]
    folder = module.page.removesuffix("index.md")
    rows = "\n".join(f"| [`{one.name}`]({one.page.removeprefix(folder)}) | {_first(one)} |" for one in inner)
    shown = f"## Public names\n\n{table(names, module.page)}\n\n" if names else ""
    return f"# `{module.name}`\n\n{said}\n\n{shown}## Modules\n\n| module | what is in it |\n|---|---|\n{rows}\n"


def navigation(tasks: list[object]) -> list[object]:
    """The reference in the site's navigation: the package by task, each room with its modules, what is at the top."""
    entries: list[object] = ["reference/index.md", {"By task": tasks}]
    for room in ROOMS:
        inner = [module for module in modules().values() if module.name.startswith(f"jstrace.{room}.")]
        listed = [{module.name.removeprefix(f"jstrace.{room}."): module.page} for module in inner]
        entries.append({room: [f"reference/{room}/index.md", *listed]})
    return [*entries, *({name: f"reference/{name}.md"} for name in _LOOSE)]
