"""Pages of a run's inputs: what they show is what the run has, and what it lacks is one line."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.reports import read_results, view_input, write_report
from jstrace.reports.drawing import inlined, note
from jstrace.runs.data import Data, Row
from jstrace.show.page import digest
from tests.browser import found_by_axe
from tests.conftest import family_config, tiny_params
from tests.show.pages import data_of
from tests.stand_ins import Letters

SIZES = (0.01, 0.05, 0.3, 0.7)
DATA = Data("letters", tuple(Row(text) for text in ("hello", "\0", "a longer text")), ("hello",))
PLAN = Plan(("l1", "l2"), ("all", "residual+mlp"), ("inverse",), sizes=SIZES)


@pytest.fixture(scope="module")
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Refusing())


class Refusing(Letters):
    """No tokens for one of the texts."""

    def encode(self, text: str) -> list[int]:
        return [] if text == "\0" else super().encode(text)


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "kept"
    runs.run(model, DATA, out, PLAN, save_strata=True, name="tiny")
    return out


def test_a_page_is_that_of_the_trace(folder: Path, model: Model) -> None:
    trace = jstrace.trace(model, "a longer text", sizes=SIZES)
    found = {"l1/all": {}, "l1/residual+mlp": {"ablate": "residual+mlp"}}
    curves = {name: jstrace.evaluate(model, trace, **options) for name, options in found.items()}
    (expected,) = data_of(jstrace.view(trace, curves, model=model).html)["traces"]
    html = view_input(folder, 2).html
    (panel,) = data_of(html)["traces"]
    for name in ("name", "tokens", "layers", "heads", "parallel", "sizes", "counts", "strata"):
        assert panel[name] == expected[name], name
    for one, other in zip(panel["evaluations"], expected["evaluations"], strict=True):
        assert one["name"] == other["name"]
        np.testing.assert_allclose(one["tv"], other["tv"], atol=2e-5)
        np.testing.assert_allclose(one["kl"], other["kl"], atol=2e-5)
        assert one["full"][0] == [other["full"][0][0], pytest.approx(other["full"][0][1], abs=1e-5)]
    named = view_input(folder, 2, word=model.tokenizer.token)  # type: ignore[union-attr]
    (panel,) = data_of(named.html)["traces"]
    assert [one["top"] for one in panel["evaluations"]] == [one["top"] for one in expected["evaluations"]]
    assert "input 2 of tiny" in html
    assert "<h1>a longer text</h1>" in html, "the prompt, not the texts of its tokens"


def test_words_are_those_of_the_run(folder: Path) -> None:
    (panel,) = data_of(view_input(folder, 0).html)["traces"]
    known = set(panel["tokens"]) | {panel["evaluations"][0]["full"][0][0]}
    assert known & set(panel["evaluations"][0]["top"]), "the model's own prediction has a text"
    assert all(word.startswith(("<b>", "#")) for word in panel["evaluations"][0]["top"])


def test_conditions_are_chosen(folder: Path) -> None:
    one, two = data_of(view_input(folder, 0, ("l2/all", "l1", "l1/all/inverse")).html)["traces"]
    assert (one["name"], two["name"]) == ("l2", "l1")
    assert one["strata"] != two["strata"]
    assert [curve["name"] for curve in one["evaluations"]] == ["l2/all"]
    assert [curve["name"] for curve in two["evaluations"]] == ["l1/all", "l1/residual+mlp", "l1/all/inverse"]


def test_parallel_blocks_are_known(tmp_path: Path) -> None:
    config = family_config("gpt_neox")
    model = Model(jstrace.models.Decoder(config, tiny_params(config)), Letters())
    runs.run(model, Data("d", (Row("hello"),), ("x",)), tmp_path / "run", Plan(sizes=SIZES), save_strata=True)
    assert data_of(view_input(tmp_path / "run", 0).html)["traces"][0]["parallel"] is True


@pytest.mark.parametrize(
    ("index", "conditions", "message"),
    [
        (3, (), "no input 3; it has 3, from 0 to 2"),
        (2**63, (), f"no input {2**63}; it has 3"),
        (1, (), "input 1 is invalid and has no trace"),
        (0, ("l3/all",), "no condition 'l3/all', but l1/all"),
    ],
)
def test_what_cannot_be_seen(folder: Path, index: int, conditions: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        view_input(folder, index, conditions)


def test_a_folder_of_several_runs(model: Model, tmp_path: Path) -> None:
    for place, name in enumerate(("first", "last")):
        runs.run(model, DATA, tmp_path / name, PLAN, save_strata=True, revision=name, place=place)
    with pytest.raises(InputError, match="holds 2 runs, one of each checkpoint"):
        view_input(tmp_path, 0)


def test_runs_without_strata(model: Model, folder: Path, tmp_path: Path) -> None:
    plan = Plan(("l1", "l2", "random"), sizes=SIZES)
    runs.run(model, DATA, tmp_path / "run", plan, name="tiny")
    with pytest.raises(InputError, match=r"kept no strata.*--save-strata"):
        view_input(tmp_path / "run", 0)
    with pytest.raises(InputError, match="l1, l2, random: traces of two sources"):
        view_input(tmp_path / "run", 0, ("l1", "l2", "random"))
    (path,) = (folder / "strata").iterdir()
    content = path.read_bytes()
    try:
        path.unlink()
        with pytest.raises(InputError, match="kept no strata, or they were removed"):
            view_input(folder, 0)
        with pytest.raises(InputError, match="no strata were kept, or they were removed"):
            write_report([folder], tmp_path / "report", pages=1)
    finally:
        path.write_bytes(content)


def test_strata_of_other_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jstrace.reports import pages

    table = pages.Pages._table
    monkeypatch.setattr(pages.Pages, "_table", lambda *options: table(*options).slice(0, 0))
    with pytest.raises(InputError, match=r"damaged .no strata of input 0 and l1"):
        view_input(folder, 0)


# --- reports --------------------------------------------------------------------------------------------------------


def test_reports_link_to_pages(folder: Path, model: Model, tmp_path: Path) -> None:
    """Relative links to files that need nothing else, of the run that kept its strata; the other says why not."""
    bare, out = tmp_path / "bare", tmp_path / "report"
    runs.run(model, DATA, bare, Plan(sizes=SIZES), name="bare")
    chosen = {"figures": ("tv",), "tables": ("density",)}
    write_report([folder, bare], out, pages=1, **chosen)
    html = (out / "index.html").read_text()
    links = re.findall(r'<a href="([^"]*)">(\d+)</a>', html)
    assert len(links) == 2
    for link, index in links:
        assert link == f"pages/1-{int(index):08d}.html"
        assert (out / link).read_text() == view_input(folder, int(index)).html
    assert html.count("This run has no strata") == 1
    write_report([folder], tmp_path / "plain", **chosen)
    assert "<a " not in (tmp_path / "plain" / "index.html").read_text()
    with pytest.raises(InputError, match=r"bare: no strata were kept.*--save-strata"):
        write_report([bare], tmp_path / "none", pages=2)
    assert not (tmp_path / "none").exists()


def test_inlined_figures_are_the_files(folder: Path, tmp_path: Path) -> None:
    """No id is there twice, nothing is named that is not there, and no style that a strict policy would stop."""
    write_report([folder], tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text()
    drawn = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawn) == html.count("<figure")
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', html)) <= set(ids)
    assert not re.findall(r"\sstyle=|<style|<!--|\son\w+=", "".join(drawn))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert all(f"'{digest(part)}'" in policy for part in (script, style))
    assert "unsafe" not in policy


def test_values_stand_on_their_curves() -> None:
    """The circle of a value is where matplotlib drew it, and says what it is; words are data."""
    figure = Figure(figsize=(4, 2), layout="constrained")
    axes = figure.subplots()
    axes.plot([1.0, 2.0, 3.0], [0.0, 1.0, 0.5])
    note(axes, [1.0, 2.0, 9.0], [0.0, 1.0, np.nan], ["one", "</title><script>&", "off"])
    stream = io.BytesIO()
    figure.savefig(stream, format="svg")
    root = ElementTree.fromstring(inlined(figure, stream.getvalue(), "name", 'a "title"'))
    circles = root.findall(".//{*}g[@class='values']/{*}circle")
    assert [circle[0].text for circle in circles] == ["one", "</title><script>&"]
    (line,) = [p for p in root.iter() if p.get("d", "").count("L") == 2 and "#1f77b4" in p.get("stroke", "")]
    ends = np.reshape([float(n) for n in re.findall(r"-?\d+\.?\d*", line.attrib["d"])], (3, 2))
    places = [[float(circle.attrib["cx"]), float(circle.attrib["cy"])] for circle in circles]
    np.testing.assert_allclose(places, ends[:2], atol=0.1)


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("reports")
    write_report([folder], out, pages=1)
    return (out / "index.html").read_text()


def test_tables_sort(opened: Any, report: str) -> None:
    tab = opened(report)
    column = "[...document.querySelector('table.texts').tBodies[0].rows].map(row => row.cells[1].textContent)"
    button = tab.get_by_role("button", name="density").first
    for key, order in (("Space", "ascending"), ("Enter", "descending")):
        button.focus()
        tab.keyboard.press(key)
        values = [float(value) for value in tab.evaluate(column)]
        assert values == sorted(values, reverse=order == "descending")
        assert tab.get_attribute("table.texts th[aria-sort]", "aria-sort") == order
    tab.get_by_role("button", name="text", exact=True).first.click()
    assert tab.evaluate("document.querySelectorAll('table.texts th[aria-sort]').length") == 1


def test_missing_cells_stay_last(opened: Any, report: str) -> None:
    tab = opened(report)
    up, down = tab.evaluate("""() => {
      const table = document.querySelector("table.texts"), body = table.tBodies[0], row = body.rows[0];
      for (const word of ["–", "10", "9", "1e-3"]) {
        const made = row.cloneNode(true);
        made.cells[1].textContent = word;
        body.append(made);
      }
      const read = () => [...body.rows].map((one) => one.cells[1].textContent);
      sorted(table, 1, false);
      const up = read();
      sorted(table, 1, true);
      return [up, read()];
    }""")
    assert up[-1] == down[-1] == "–"
    assert up[0] == "1e-3"
    assert up[-2] == "10", "as numbers, not as words"
    assert down[0] == "10"


def test_curves_say_their_values(opened: Any, report: str, folder: Path) -> None:
    tab = opened(report)
    tv = read_results([folder])[0].curve("l1/all", "tv")[:, 0]
    low, middle, high = np.percentile(tv, (25, 50, 75))
    words = f"size 0.01: TV {middle:.3f}, quartiles {low:.3f} and {high:.3f}"
    assert tab.text_content("#tv .values circle") == words, "there without any script, too"
    tab.locator("#tv .values circle").first.scroll_into_view_if_needed()
    box = tab.locator("#tv .values circle").first.bounding_box()
    tab.mouse.move(box["x"] + 4, box["y"] + 4)
    assert tab.inner_text("#tv .value") == words
    tab.focus("#core svg")
    tab.keyboard.press("End")
    assert "hold 100.0%" in tab.inner_text("#core .value")
    tab.keyboard.press("Home")
    assert tab.inner_text("#core .value") == tab.text_content("#core .values circle")


def test_reports_are_read_without_scripts(opened: Any, report: str) -> None:
    tab = opened(report, java_script_enabled=False)
    assert tab.locator("svg.drawn").count() == tab.locator("figure").count()
    assert tab.locator("button").count() == 0, "nothing that would do nothing"
    assert tab.locator("#tv svg").bounding_box()["height"] > 100


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_reports_for_everybody(opened: Any, report: str, scheme: str, width: int) -> None:
    tab = opened(report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert not found_by_axe(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
