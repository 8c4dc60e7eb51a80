"""Imports go one way, one import name is installed, and nothing unsafe is called."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"models": {"models"}, "convert": {"models", "convert"}, "jstrace": {"models", "jstrace", "convert"}}
LOADING = {"model.py"}
SOURCES = [path for folder in ALLOWED for path in sorted((ROOT / folder).glob("*.py"))]


def imported(path: Path) -> set[str]:
    """Full names of everything that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_go_one_way(path: Path) -> None:
    folder = path.parent.name
    for name in imported(path):
        top, _, rest = name.partition(".")
        assert top not in ("models", "convert", "tests", "experiments", "torch"), f"{path}: {name}"
        if top == "jstrace":
            part = rest.split(".")[0]
            home = part if part in ("models", "convert") else "jstrace"
            assert home in ALLOWED[folder], f"{path}: {name}"
            if folder == "jstrace" and home == "convert":
                assert path.name in LOADING, f"{path}: only the loading facade imports convert"


def test_links_are_relative() -> None:
    for name in ("models", "convert"):
        assert os.readlink(ROOT / "jstrace" / name) == f"../{name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_nothing_unsafe(path: Path) -> None:
    text = path.read_text()
    unsafe = [
        "allow_pickle" + "=True",
        "trust_remote_code" + "=True",
        "import pickle",
        "torch" + ".load",
        "eval(",
        "exec(",
    ]
    for call in unsafe:
        assert call not in text


def test_help_does_not_import_jax() -> None:
    code = (
        "import sys\nsys.argv = ['jstrace', '--help']\nfrom jstrace.cli import main\n"
        "try:\n    main()\nfinally:\n    assert not {'jax', 'transformers', 'torch'} & set(sys.modules), 'slow'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trace" in done.stdout
