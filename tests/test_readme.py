"""The Python of the README and of the how-to pages runs as written; two sh blocks are the commands; links hold."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run_blocks(text: str, name: str) -> None:
    names: dict[str, object] = {}
    for block in blocks(text, "python"):
        compiled = compile(block, name, "exec")
        exec(compiled, names)


@pytest.mark.quick
def test_two_commands_of_one_line() -> None:
    run, test = blocks(README, "sh")[:2]
    assert len(run.splitlines()) == len(test.splitlines()) == 1
    assert 'jstrace trace "' in run
    assert test.strip().endswith("python -m pytest")


@pytest.mark.quick
@pytest.mark.real
def test_python_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks(README, "README.md")
    found = re.match(r"Smallest\((\d+) of 28,752 edges", capsys.readouterr().out)
    assert found is not None
    assert 100 < int(found[1]) <= 150, "as many as the command prints, give or take what it rounds"


@pytest.mark.real
def test_python_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    run_blocks((ROOT / "docs" / "pairs.md").read_text(encoding="utf-8"), "docs/pairs.md")
    assert "of 28,752 edges" in capsys.readouterr().out


@pytest.mark.real
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how-to").glob("*.md")), ids=lambda path: path.stem)
def test_how_to(page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every page runs by itself and prints what stands below its blocks, but for digits in which machines differ."""
    text = page.read_text(encoding="utf-8").replace("in range(40)", "in range(10)")  # a mask, in fewer steps
    names: dict[str, object] = {}
    shown = r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?"
    with contextlib.chdir(tmp_path):
        for code, printed in re.findall(shown, text, flags=re.MULTILINE | re.DOTALL):
            exec(compile(code, page.name, "exec"), names)
            told = capsys.readouterr().out
            assert not printed or alike(told, printed), told


def alike(some: str, other: str) -> bool:
    """Whether two texts have the same words, and numbers within 0.02."""
    number = r"-?\d+\.\d+"
    pairs = zip(re.findall(number, some), re.findall(number, other), strict=False)
    same = re.sub(number, "#", some).split() == re.sub(number, "#", other).split()
    return same and all(abs(float(one) - float(two)) <= 0.02 for one, two in pairs)


def dead_links(path: Path, text: str | None = None) -> list[str]:
    """Targets of a page's links that are no file, or no heading of one; of a text in its place, if there is one."""
    dead = []
    text = path.read_text(encoding="utf-8") if text is None else text
    for target in re.findall(r'(?:\]\(|src="|srcset=")(?!https?:|data:)([^)\s"]+)', text):
        file, _, heading = target.removesuffix("#only-light").removesuffix("#only-dark").partition("#")
        found = path if not file else (path.parent / file)
        titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE) if heading else []
        names = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
        if not found.exists() or (heading and heading not in names):
            dead.append(target)
    return dead


@pytest.mark.quick
@pytest.mark.parametrize(
    "path",
    sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "experiments").rglob("*.md")]),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path: Path) -> None:
    """Files that a page links to exist, and so do the headings."""
    assert not dead_links(path)
