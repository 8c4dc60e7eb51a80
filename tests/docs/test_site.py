"""What the site is made of: the reference, commands, equations, tutorials, links; without building it."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import jstrace
from docs.sitebuild import (
    checking,
    citation,
    commands,
    contents,
    drawings,
    mathematics,
    notebooks,
    parameters,
    places,
    reference,
)
from tests.conftest import ROOT
from tests.test_layout import SOURCES
from tests.test_readme import blocks, dead_links

pytestmark = pytest.mark.quick

MOST_OF_A_NOTEBOOK = 600_000
"""Bytes, with its pictures."""
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every page of the site and its markdown."""
    return {page: text for _, page, text in contents.texts()}


def test_every_module_is_in_the_reference() -> None:
    shown = {module.name.removeprefix("jstrace.") for module in reference.modules().values()}
    there = {name.removesuffix(".__init__") for name in SOURCES if name.split(".")[0] not in ("cli", "__init__")}
    assert shown == there
    assert len({module.page for module in reference.modules().values()}) == len(shown)


@pytest.mark.parametrize("room", ["", *reference.ROOMS])
def test_every_public_name_is_in_the_reference(room: str, pages: dict[str, str]) -> None:
    """Named on its room's page, and described in the module that the page leads to."""
    package = importlib.import_module(f"jstrace.{room}" if room else "jstrace")
    public = reference.public(room)
    assert set(public) == set(getattr(package, "__all__", ())) - {"__version__"}
    text = pages[f"reference/{room}/index.md" if room else "reference/index.md"]
    every = "".join(text for page, text in pages.items() if page.startswith("reference/tasks/"))
    for name, full in public.items():
        module, _, own = full.rpartition(".")
        assert getattr(package, name) is getattr(importlib.import_module(module), own)
        assert reference.definitions(module)[own], f"{full} says nothing of itself"
        assert f"[`{name}`](" in text
        assert f"#{full})" in text if room else f"#jstrace.{name})" in text
        assert room or f"::: {full}\n" in every
    assert bool(public) == (room not in ("scale", "method", "show"))


def test_every_command_has_a_page(pages: dict[str, str]) -> None:
    """Written words, an example, and every option that the program takes; commands that are gone have none."""
    written = {path.stem for path in (ROOT / "docs" / "commands").glob("*.md")} - {"index"}
    assert written == set(commands.all_commands())
    for name, command in commands.all_commands().items():
        page = pages[f"commands/{name}.md"]
        assert f"```sh\njstrace {name}" in page or f"\njstrace {name} " in "".join(blocks(page, "sh"))
        assert commands.MARKER not in page
        for option in (opt for one in command.params for opt in one.opts if one.param_type_name == "option"):
            assert re.search(rf"^\| <code>[^|]*{re.escape(option)}[ ,<]", page, flags=re.MULTILINE), option
        assert "@@" not in page, "an example's output is missing"
        assert f"jstrace {name}" in pages["commands/index.md"]
    with pytest.raises(ValueError, match="one line <!-- usage -->"):
        commands.page("trace", "# no place for it")


def command_lines() -> list[tuple[str, list[str]]]:
    """Every call of a command in the shell blocks of the pages."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in [*blocks(text, "sh"), *blocks(text, "bash")]:
            code = re.sub(r"(^|\s)#.*", "", block.replace("\\\n", " "), flags=re.MULTILINE)
            code = re.sub(r'^\$SSH "(.*)"$', r"\1", code, flags=re.MULTILINE)  # what another machine is to run
            for line in re.split(r"\n|&&", code):
                words = shlex.split(line) if "jstrace " in line and "$(" not in line else []
                if "jstrace" in words and words[words.index("jstrace") + 1 :]:
                    found.append((path.name, words[words.index("jstrace") + 1 :]))
    return found


def test_commands_of_the_pages_are_ones(pages: dict[str, str]) -> None:
    """Every option that an example has is one of its command; nothing is computed."""
    lines, known = command_lines(), commands.all_commands()
    assert len(lines) > 30
    for where, (name, *arguments) in lines:
        if not name.startswith("-") and "=" not in name:
            assert name in known, f"{where}: jstrace {name}"
            context = known[name].make_context(name, list(arguments), resilient_parsing=True)
            assert not context.args, f"{where}: jstrace {name} takes no {context.args}"
            options = {opt for one in known[name].params for opt in (*one.opts, *one.secondary_opts)}
            said = {word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)}
            assert said <= options, f"{where}: jstrace {name} {said - options}"


def test_every_function_of_the_method_is_there() -> None:
    """Each is linked to the file that it is in, and can be imported."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    named = re.findall(r"\[`(jstrace\.[\w.]+)`\]\(\.\./([\w/]+)\.py\)", text)
    assert len(named) == text.count("[`jstrace.") > 40
    for full, path in named:
        module, _, name = full.rpartition(".")
        assert module == "jstrace." + path.removeprefix("jstrace/").replace("/", ".")
        assert hasattr(importlib.import_module(module), name), full


def test_equations_of_the_method() -> None:
    """All of them become MathML, numbers at the side; what is wrong in one is an error of the library."""
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    equations = re.findall(r"^\$\$\n(.*?)\n\$\$$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(equations) > 10
    for tex in equations:
        shown = mathematics.rendered(f'<p>A <div class="arithmatex">\\[{tex.replace("<", "&lt;")}\\]</div></p>')
        assert shown.count("<math") == 1
        assert "\\" not in shown, shown
        assert ('<span class="number">(' in shown) == (r"\tag" in tex)
    assert mathematics.rendered(r'<span class="arithmatex">\(x\)</span>').startswith("<math")
    assert mathematics.rendered("<code>\\(x\\)</code>") == "<code>\\(x\\)</code>"


def test_lists_begin_after_a_blank_line(pages: dict[str, str]) -> None:
    """Or the site shows them as words of the paragraph before; GitHub does not."""
    for page, text in pages.items():
        words = re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^(?! *[-|<\d]|  )[^\n]+\n(?:- |\|).*$", words, flags=re.MULTILINE), page


def test_links_hold_on_the_site() -> None:
    """Modules go to the reference, at what the label names; code is left alone; other files come along."""
    known = places.pages()
    text = (
        "[`jstrace.method.graph.full_graph.n_edges`](../jstrace/method/graph/full_graph.py), "
        "[notes](../CHANGELOG.md#unreleased),\n"
        "`[a](b.md)` [oracle](../tests/oracle.py) [one](../experiments/results/scaling-cpu.json)\n"
        "[web](https://a.b/c.md) [x](#here)\n```\n[in a block](view.md)\n```\n"
        "[nb](tutorials/pods.ipynb) [gone](gone.md) [`view`](view.md) [`of`](../jstrace/)\n"
    )
    linked, needed = places.linked(text, "docs/page.md", "page.md", known)
    for target in (
        "(reference/method/graph/full_graph.md#jstrace.method.graph.full_graph.n_edges)",
        "(changelog.md#unreleased)",
        "`[a](b.md)`",
        "(source/tests/oracle.md)",
        "(files/experiments/results/scaling-cpu.json)",
        "(https://a.b/c.md) [x](#here)",
        "[in a block](view.md)",
        "(tutorials/pods.md) [gone](gone.md) [`view`](view.md) [`of`](reference/index.md)",
    ):
        assert target in linked
    assert needed == {
        "tests/oracle.py": "source/tests/oracle.md",
        "experiments/results/scaling-cpu.json": "files/experiments/results/scaling-cpu.json",
    }
    deeper, _ = places.linked("[a](../graph.md)", "docs/commands/trace.md", "commands/trace.md", known)
    assert deeper == "[a](../graph.md)"


def test_all_pages_are_in_the_navigation(pages: dict[str, str]) -> None:
    """Those that mkdocs.yml names, those that are made, and pages that it leaves out, under More."""
    import yaml

    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load(text)
    nav = repr(contents.navigation(config["nav"]))
    assert set(re.findall(r"'([\w./-]+\.md)'", nav)) == set(pages)
    assert "'More'" in repr(contents.navigation(config["nav"][1:]))
    assert config["theme"]["font"] is False
    validated = {value for part in config["validation"].values() for value in part.values()}
    assert validated == {"warn"}


@pytest.mark.parametrize("path", places.notebooks(), ids=lambda path: path.stem)
def test_tutorials_are_committed_as_they_ran(path: Path) -> None:
    """With what they show, a title, named on the first page, and with links that lead somewhere."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert "".join(cells[0]["source"]).startswith("# ")
    assert notebooks.is_as_it_ran(path)
    shown = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert shown
    assert not [output for output in shown if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < MOST_OF_A_NOTEBOOK
    assert f"({path.name})" in (ROOT / "docs" / "tutorials" / "index.md").read_text("utf-8")
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "](" in words
    assert not dead_links(path, words)


def test_a_notebook_as_a_page(tmp_path: Path) -> None:
    """What was printed, returned and drawn stands below its cell; a notebook that changed has not run."""
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[31m1 < 2\x1b[0m\n"]},
        {"output_type": "display_data", "data": {"text/html": "<b>bold</b>\n\n<i>x</i>", "text/plain": "no"}},
        {"output_type": "execute_result", "data": {"image/png": "aGk=", "text/plain": "<Figure with 1 Axes>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": outputs},
    ]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}}))
    text, images = notebooks.page(path)
    assert text.startswith("# Title\n\n[Download this notebook](one.ipynb)")
    assert "```python\nprint(1)\n```\n\n```{ .text .output }\n1 < 2\n```" in text
    assert "<b>bold</b>\n<i>x</i>" in text
    assert "![Figure](one-1-2.png)" in text
    assert images == {"one-1-2.png": b"hi"}
    assert not notebooks.is_as_it_ran(path)
    metadata = {"digest": notebooks.digest(path)}
    path.write_text(json.dumps({"cells": cells, "metadata": metadata}))
    assert notebooks.is_as_it_ran(path)
    cells[0]["source"] = ["# Another"]
    path.write_text(json.dumps({"cells": cells, "metadata": metadata}))
    assert not notebooks.is_as_it_ran(path)


def test_what_is_wrong_with_a_site(tmp_path: Path) -> None:
    """Pages that are not there, anchors that are not there, and what comes from the network."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "index.html").write_text('<h1 id="there">A</h1><a href="../#none"></a><img src="x.png">')
    good = '<a href="a/">A</a><a href="a/#there">A</a><a href="https://b.c/d">out</a><a href="#x"></a><p id="x"></p>'
    bad = '<script src="https://cdn.b/x.js"></script><a href="b/">B</a><link rel="stylesheet" href="//f.g/h.css">'
    (tmp_path / "index.html").write_text(good + bad)
    (tmp_path / "s.css").write_text("@font-face { src: url(https://f.g/h.woff) }")
    assert set(checking.problems(tmp_path)) == {
        "a/index.html: links to ../#none, which has no such anchor",
        "a/index.html: links to x.png, which is not there",
        "index.html: loads https://cdn.b/x.js from the network",
        "index.html: links to b/, which is not there",
        "index.html: loads //f.g/h.css from the network",
        "s.css: loads https://f.g/h.woff from the network",
    }


def test_parameters_that_are_described_together() -> None:
    """Each has its own line in the reference, all of its words with it; other sections stay."""
    text = "Do it.\n\nArgs:\n  a, b: as above,\n    and on.\n  c: alone.\n\nRaises:\n  A, B: never."
    each = "a: as above,\n    and on.\n  b: as above,\n    and on.\n  c: alone."
    told = f"Do it.\n\nArgs:\n  {each}\n\nRaises:\n  A, B: never."
    assert parameters.apart(text) == told
    assert parameters.apart("a, b: no arguments") == "a, b: no arguments"


def test_drawings_are_those_of_the_command() -> None:
    assert {name: draw() for name, draw in drawings.DRAWINGS.items()} == {
        path.name: path.read_text("utf-8") for path in (ROOT / "docs").glob("graph*.svg")
    }


def test_how_to_cite() -> None:
    shown = citation.shown()
    assert "Kervadec, Lysova, Macocco, Baroni, Boleda: *Tracing Computation Density in LLMs*, 2026" in shown
    assert f"version = {{{jstrace.__version__}}}" in shown
    assert shown.count("@") == 2
