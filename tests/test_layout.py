"""Imports go one way, without circles; one import name is installed, and nothing unsafe is called."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.quick

ALLOWED = {
    "errors": set[str](),
    "files": {"errors"},
    "archives": {"errors", "files"},
    "models": {"errors", "archives"},
    "convert": {"models", "errors", "files"},
    "scale": {"errors", "files", "models"},
    "loading": {"errors", "models", "convert", "scale"},
    "method": {"errors", "files", "models"},
    "pipeline": {"errors", "files", "models", "archives", "scale", "method"},
    "analysis": {"errors", "method", "pipeline"},
    "show": {"errors", "models", "files", "scale", "method", "pipeline", "analysis"},
    "runs": {"errors", "models", "files", "scale", "method", "pipeline", "__version__"},
    "reports": {"errors", "models", "files", "method", "analysis", "show", "runs"},
    "cli": {
        "errors",
        "models",
        "files",
        "scale",
        "method",
        "pipeline",
        "analysis",
        "show",
        "runs",
        "reports",
        "loading",
        "__version__",
    }
    | {"__version__", "load", "trace", "evaluate", "train_scorer", "view", "Trace", "selectivity", "task", "effects"},
    "__init__": set[str](),
}
"""What each room, or module at the top, may import of the others."""


def sources(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name below ``jstrace``, however deep; packages end in ``__init__``."""
    tops = [root / "jstrace", *(root / name for name in ("models", "convert"))]
    found = {}
    for top in tops:
        below = top if top.name == "jstrace" else root
        for path in sorted(top.rglob("*.py")):
            if not any(part.is_symlink() for part in path.parents):
                found[".".join(path.relative_to(below).with_suffix("").parts)] = path
    return found


SOURCES = sources(ROOT)


def imported(path: Path) -> set[str]:
    """Full names of all that a module imports, inside functions too; modules of the package are told from names."""
    found = set()
    tree = ast.parse(path.read_text())
    aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    found |= {alias.name for alias in aliases if alias.name != "jstrace"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jstrace":
            found.add(f"jstrace.{node.attr}")
    return found


def wrong(name: str, path: Path) -> Iterator[str]:
    """What a module imports that it may not."""
    room = name.split(".")[0]
    for full in imported(path):
        top, _, rest = full.partition(".")
        if top in ("models", "convert", "tests", "experiments", "torch"):
            yield full
        if top == "jstrace" and rest.split(".")[0] not in {room, *ALLOWED[room]}:
            yield full


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name: str) -> None:
    assert not list(wrong(name, SOURCES[name]))


def test_every_room_is_seen() -> None:
    assert {name.split(".")[0] for name in SOURCES} == set(ALLOWED)
    assert {"convert.hf.config", "method.scores.measured", "cli.trace", "reports.page", "models.decoder"} < set(SOURCES)
    order = list(ALLOWED)
    for room, rooms in ALLOWED.items():
        assert all(order.index(other) < order.index(room) for other in rooms if other in order), "one direction"


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    """Lazy ones, whole packages, attributes of the package and what lies deeper: the check itself can fail."""
    module = tmp_path / "module.py"
    for line in (
        "from jstrace.cli import app",
        "def f():\n    from jstrace.runs import run",
        "def f():\n    import jstrace.reports.page",
        "import jstrace\ndef f():\n    return jstrace.runs",
        "from jstrace import reports",
        "import torch",
        "from models import edges",
    ):
        module.write_text(line)
        assert list(wrong("method.new.module", module)), line
    module.write_text("from jstrace.models import EdgeTree\nfrom jstrace.method import graph\nimport numpy")
    assert not list(wrong("method.module", module))


def modules_of(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    found = set()
    for full in imported(SOURCES[name]):
        parts = full.split(".")[1:] if full.startswith("jstrace.") else []
        known = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        found |= set([module for module in known if module in SOURCES][:1])
    return found - {name}


def test_no_circles() -> None:
    """Whoever reads a module has read all that it needs before it."""
    left = {name: modules_of(name) for name in SOURCES}
    while ready := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, "these import one another"


def test_links_are_relative() -> None:
    for name in ("models", "convert"):
        link = ROOT / "jstrace" / name
        if link.is_symlink() or (ROOT / ".git").exists():
            assert os.readlink(link) == f"../{name}"
        else:  # archives of the source hold a copy in the place of a link
            for path in sorted((ROOT / name).rglob("*.py")):
                assert (link / path.relative_to(ROOT / name)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_unsafe(name: str) -> None:
    text = SOURCES[name].read_text()
    unsafe = [
        "allow_pickle" + "=True",
        "trust_remote_code" + "=True",
        "import pickle",
        "torch" + ".load",
    ]
    for call in unsafe:
        assert call not in text
    assert not re.search(r"\b(eval|exec)\(", text)


@pytest.mark.parametrize("name", SOURCES)
def test_keys_name_their_generator(name: str) -> None:
    """JAX's default one can be set to another, whose draws are others."""
    tree = ast.parse(SOURCES[name].read_text())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    made = {call for call in called if call.rpartition(".")[2] in ("PRNGKey", "wrap_key_data", "Rngs")}
    made |= {call for call in called if call.endswith("random.key")}
    assert made == ({"jax.random.key", "jax.random.wrap_key_data"} if name == "models.platforms" else set())


def run_code(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_does_not_import_jax() -> None:
    code = (
        "import sys\nsys.argv = ['jstrace', '--help']\nfrom jstrace.cli import main\n"
        "try:\n    main()\nfinally:\n    assert not {'jax', 'transformers', 'torch'} & set(sys.modules), 'slow'\n"
    )
    assert "trace" in run_code(code)


def test_reports_do_without_jax() -> None:
    """A machine that only draws needs no JAX: results, statistics, figures and the page."""
    modules = [name for name in SOURCES if name.startswith("reports.") and not name.endswith("__init__")]
    lines = [f"import jstrace.{name}" for name in modules]
    check = "import sys; assert not {'jax', 'flax'} & set(sys.modules), sorted(sys.modules)"
    run_code("\n".join([*lines, "from jstrace.reports import read_results, write_report", check]))


def test_kinds_of_edges_have_one_order() -> None:
    """Where JAX is not imported they are written out again."""
    from jstrace.models import EDGE_KINDS
    from jstrace.runs import schema

    assert schema.EDGE_KINDS == EDGE_KINDS


def test_what_there_is_can_be_listed() -> None:
    """Tab completion shows the public names, before any of them is imported."""
    shown = run_code("import jstrace, sys; assert 'jax' not in sys.modules; print(*dir(jstrace))").split()
    named = {"load", "trace", "evaluate", "extract", "Trace", "Evaluation", "EdgeTree", "SIZES", "make_mesh"}
    assert {*named, "__version__"} < set(shown)
    assert "runs" not in shown, "a star import must bind no room"


def test_a_public_class_has_its_name_alone() -> None:
    """Of the choices of the command line, which nothing imports, some are called as what they choose."""
    import jstrace

    public = {name for name in dir(jstrace) if isinstance(getattr(jstrace, name), type)}
    homes: dict[str, list[str]] = {name: [] for name in public}
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name in public and not module.startswith("cli."):
                homes[node.name].append(module)
    assert homes["Selectivity"] == ["pipeline.learning"]
    assert all(len(modules) == 1 for modules in homes.values()), homes
