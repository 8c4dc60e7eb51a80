"""Reports: planted numbers come back, pages are safe, figures show what there is."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from pyarrow import csv

from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.reports import drawing, exhibit, exhibits, models, reading
from jstrace.reports import page as report
from jstrace.runs.data import Data, Row
from jstrace.runs.parts import Part
from tests.planted import SIZES, heights_of, write_run
from tests.stand_ins import Letters

Planted = Callable[..., Path]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    """Writes a run into the test's folder."""
    return functools.partial(write_run, tmp_path)


# --- reading --------------------------------------------------------------------------------------------------------


def test_folders_of_hosts_make_one_run(planted: Planted) -> None:
    heights, texts = heights_of(8), [f"text {n}" for n in range(4)]
    one = planted("a", heights[:4], heights[:4], texts=texts)
    two = planted("aa", heights[4:], heights[4:], texts=texts, first=4)
    other = planted("b", heights[:4], heights[:4])
    found = reading.read_results([two, other, one])
    assert [run.valid.num_rows for run in found] == [8, 4]
    assert found[0].inputs["input"].to_pylist() == list(range(8))
    assert found[0].curve("l1/all", "tv")[:, 0] == pytest.approx(heights)
    with pytest.raises(InputError, match="more than one of them holds input 0"):
        reading.read_results([one, planted("aaa", heights[:4], heights[:4], texts=texts)])


def test_names_that_cannot_be_printed(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4), texts=["nul \0 and \x1b[31m", "b", "c", "d"])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["name"] = "_a\x01b\n$x_{y}$"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (label,) = report.write_report([folder], tmp_path / "out")
    assert label == " _a·b·$x_{y}$"
    page = (tmp_path / "out" / "index.html").read_text()
    assert not {"\0", "\x1b", "\x01"} & set(page)


@pytest.mark.parametrize(
    "change",
    [
        {"sessions": None},
        {"sessions": [None]},
        {"config": {}},
        {"conditions": ["l1/all", "more"]},
        {"nucleus_levels": [0.5]},
        {"model": {"name": 5}},
        {"model": {"name": "\udcff", "dtype": "", "config": {"n_layers": 3}}},
        {"data": []},
    ],
)
def test_manifests_that_somebody_changed(planted: Planted, change: dict[str, Any]) -> None:
    folder = planted("a", heights_of(2), heights_of(2))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(InputError, match=r"manifest\.json: damaged"):
        reading.read_results([folder])


def test_files_in_the_wrong_place(planted: Planted) -> None:
    """A part of another run, and another table's."""
    one = planted("a", heights_of(2), heights_of(2))
    two = planted("b", heights_of(2), heights_of(2))
    name = Part(0, 1).file
    content = (one / "curves" / name).read_bytes()
    for other in (two / "curves" / name, one / "inputs" / name):
        (one / "curves" / name).write_bytes(other.read_bytes())
        with pytest.raises(InputError, match="of another run or another table; remove inputs/"):
            reading.read_results([one])
    (one / "curves" / name).write_bytes(content)
    assert len(reading.read_results([one])) == 1


def test_runs_of_the_same_name_are_told_apart() -> None:
    assert reading._unique(["a", "b", "a"]) == ["a", "b", "a (2)"]


def test_folders_without_results(tmp_path: Path, planted: Planted, model: Model) -> None:
    with pytest.raises(InputError, match="no folder of a run"):
        reading.read_results([tmp_path])
    with pytest.raises(InputError, match="no folder of a run was given"):
        reading.read_results([])
    with pytest.raises(InputError, match="not one valid input"):
        report.write_report([planted("a", heights_of(2), heights_of(2), invalid=(0, 1))], tmp_path / "out")
    folder = planted("b", heights_of(2), heights_of(2))
    (folder / "inputs" / Part(0, 1).file).unlink()
    with pytest.raises(InputError, match="no part of this run is complete yet"):
        reading.read_results([folder])


@pytest.fixture
def model(tiny: Model) -> Model:
    return Model(tiny.decoder, Letters())


# --- pages ----------------------------------------------------------------------------------------------------------

NASTY = '<script>alert("x")</script> & <img src=x onerror=alert(1)> ${x} {{ 7 * 7 }} \' é'


def index_of(out: Path) -> str:
    return (out / "index.html").read_text()


class Page(HTMLParser):
    """Tags, their addresses and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_report(planted: Planted, tmp_path: Path) -> None:
    plan = Plan(("l1", "l2"), ("all", "residual+mlp"), ("random", "inverse", "pre-softmax"), sizes=SIZES)
    texts = [NASTY, *(f"text {n}" for n in range(11))]
    folder = planted("a", heights_of(12), heights_of(12, 1), plan=plan, texts=texts, invalid=(5,))
    out = tmp_path / "new" / "report"
    assert report.write_report([folder], out) == ["a"]
    page = Page((out / "index.html").read_text())
    names = {"tv", "nucleus", "core", "makeup", "random", "necessity", "pre-softmax", "score", "correlation"}
    assert {path.stem for path in (out / "figures").iterdir()} == names
    assert page.tags.count("svg") == len(names)
    assert page.tags.count("script") == 1, "its own"
    assert not page.links, "one file is all it needs"
    assert NASTY in page.words
    assert page.words.count("Ablated: all edges, beside it residual and MLP edges only (residual+mlp).") == 5
    assert page.words.count("Ablated: all edges; there is no other mode to show beside it.") == 1, "before the softmax"
    assert "Removed: the attention and MLP edges of the trace (all), beside it the MLP edges alone" in page.words
    assert page.words.count("Nothing is ablated here") == 2
    assert "11 of 12" not in page.words
    assert "12 of 12 rows evaluated, 1 invalid" in page.words
    for path in (out / "figures").iterdir():
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text())
        else:
            assert path.read_bytes().startswith(b"\x89PNG")
    shapes = [len(re.findall('d="M', text)) for text in (index_of(out), *(p.read_text() for p in out.rglob("*.svg")))]
    assert shapes[0] == sum(shapes[1:]), "the same figures"
    for path in (out / "tables").iterdir():
        assert csv.read_csv(path).num_rows > 0
        assert "script" not in path.read_text(), "tables hold no texts"
    validity = csv.read_csv(out / "tables" / "validity.csv").to_pylist()[0]
    assert (validity["inputs"], validity["valid"], validity["invalid"]) == (12, 11, 1)
    assert validity["reasons"] == "1 x planted"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    report.write_report([folder], out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before, "it can be made again"


BESIDE = Plan(
    ("l1", "rounds"), ("all", "residual+mlp"), ("random", "inverse", "pre-softmax"), SIZES,
    replacements=("mean", "zero"), orders=("score", "best-first"),
)  # fmt: skip


def test_replacements_and_orders_beside_each_other(planted: Planted, tmp_path: Path) -> None:
    """Every figure says what ablated edges carry, and tables hold every condition."""
    folder = planted("a", heights_of(4), heights_of(4), plan=BESIDE)
    report.write_report([folder], tmp_path / "out")
    page = Page((tmp_path / "out" / "index.html").read_text())
    names = {path.stem for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert {"order", "replace", "score", "random", "necessity", "pre-softmax"} < names
    assert page.tags.count("svg") == len(names)
    carried = "Ablated edges carry means over reference texts (mean)"
    assert page.words.count(f"{carried}.") == 3, "of the first traces: tv, nucleus, correlation"
    assert page.words.count(f"{carried}, beside it nothing (zero).") == 5
    assert page.words.count("Ablated: all edges; there is no other mode to show beside it. ") == 1, "before the softmax"
    assert "through best-first extraction" in page.words, "random traces have no other order"
    assert "the condition says mean or resample" in page.words
    assert "Where the condition says by score" in page.words
    assert "a, l1 by score/all/mean" in page.words
    names_of = {name: [case.name for case in BESIDE.cases if case.has_density or name == "curves"] for name in TABLES}
    for name, expected in names_of.items():
        rows = csv.read_csv(tmp_path / "out" / "tables" / f"{name}.csv")
        assert list(dict.fromkeys(rows["condition"].to_pylist())) == expected, name
    makeup = csv.read_csv(tmp_path / "out" / "tables" / "makeup.csv")
    assert set(makeup["source"].to_pylist()) == {case.source.name for case in BESIDE.cases}


TABLES = ("density", "phases", "correlations", "nucleus", "curves")


def test_panels_of_replacements_and_orders(planted: Planted) -> None:
    (run,) = reading.read_results([planted("a", heights_of(4), heights_of(4), plan=BESIDE)])
    with drawing.style():
        drawn = {picture.name: picture.draw() for picture in exhibits.pictures([run])}
    both = ["ablated: all", "ablated: residual+mlp"]
    each = [f"{ablated}\nreplaced by: {name}" for name in ("mean", "zero") for ablated in both]
    removed = ["removed: attention and MLP", "removed: MLP alone"]
    for name, titles, lines in (
        ("score", each, ["l1 by score", "rounds by score"]),
        ("order", each, ["l1 by score", "l1", "rounds by score", "rounds"]),
        ("random", each, ["s-Trace (l1 by score)", "random"]),
        ("replace", both, ["mean", "zero"]),
        ("pre-softmax", both[:1], ["s-Trace (l1 by score)", "before the softmax"]),
        ("tv", each[:2], None),
        ("nucleus", each[:2], None),
        ("necessity", [f"{one}\nreplaced by: {name}" for name in ("mean", "zero") for one in removed], None),
    ):
        assert [axes.get_title() for axes in drawn[name].axes] == titles, name
        if lines:
            assert sorted(text.get_text() for text in drawn[name].legends[0].get_texts()) == sorted(lines), name
    assert drawn["correlation"].get_suptitle() == "replaced by: mean"


def test_models_with_other_replacements(planted: Planted) -> None:
    """What both have is compared, whichever comes first in the plan."""
    plans = [Plan(sizes=SIZES, replacements=names) for names in (("mean", "zero"), ("zero",))]
    folders = [planted(name, heights_of(9), heights_of(9), plan=plan) for name, plan in zip("ab", plans, strict=True)]
    made = {picture.name: picture for picture in exhibits.pictures(reading.read_results(folders))}
    assert "carry nothing (zero), beside it means over" in made["models"].ablated
    figure = made["models"].draw()
    titles = ["ablated: all\nreplaced by: zero", "ablated: all\nreplaced by: mean"]
    assert [(axes.get_title(), len(axes.lines)) for axes in figure.axes] == list(zip(titles, (2, 1), strict=True))
    assert made["between-models"].ablated == "Ablated: all edges; there is no other mode to show beside it."
    assert made["between-models"].draw().axes[0].get_title() == "ablated: all"


def test_reports_of_plain_plans_say_nothing_of_replacements(planted: Planted, tmp_path: Path) -> None:
    report.write_report([planted("a", heights_of(4), heights_of(4))], tmp_path / "out", figures=("tv", "random"))
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"replaced by|edges carry|by score|reference texts", re.sub(r"data:image[^\"]*", "", page))
    assert "replaced" not in (tmp_path / "out" / "figures" / "tv.svg").read_text()


def test_a_report_of_several_models(planted: Planted, tmp_path: Path) -> None:
    """One of them with one mode only."""
    folders = [planted(name, heights_of(9, n), heights_of(9)) for n, name in enumerate("abc")]
    folders.append(planted("d", heights_of(9), heights_of(9), plan=Plan(sizes=SIZES)))
    report.write_report(folders, tmp_path / "out")
    names = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"models", "between-models", "tv-1", "tv-4", "random-3"} <= names
    assert "random-4" not in names
    page = (tmp_path / "out" / "index.html").read_text()
    assert "there is no other mode to show beside it" in page
    assert csv.read_csv(tmp_path / "out" / "tables" / "between-models.csv").num_rows == 16


def test_axes_and_units_are_labelled(planted: Planted) -> None:
    runs_ = reading.read_results(
        [planted("a", heights_of(9), heights_of(9)), planted("b", heights_of(9), heights_of(9))]
    )
    with drawing.style():
        made = {picture.name: picture for picture in exhibits.pictures(runs_)}
        for name, picture in made.items():
            figure = picture.draw()
            width, _ = figure.get_size_inches()
            assert width == drawing.COLUMN, name
            words = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
            assert any(re.search(r"size|density|%|ρ", word) for word in words), name
            if picture.ablated.startswith("Removed"):
                assert {"removed: attention and MLP", "removed: MLP alone"} <= set(words)
            elif picture.ablated != exhibit.NOT_ABLATED:
                assert any(re.search(r"ablated: all$", word) for word in words), name
                assert any(re.search(r"ablated: residual\+mlp$", word) for word in words), name
    labels = {axes.get_xlabel() for axes in made["correlation-1"].draw().axes}
    assert {"entropy (nats)", "loss (nats)"} <= labels


def test_figures_that_runs_do_not_have(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4), plan=Plan(sizes=SIZES))
    report.write_report([folder], tmp_path / "out", figures=("core",), tables=("core", "density"))
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {
        "index.html", "core.png", "core.svg", "core.csv", "density.csv"
    }  # fmt: skip
    for options, message in (
        ({"figures": ("random",)}, "no figure random, but tv"),
        ({"tables": ("x",)}, "no table x"),
    ):
        with pytest.raises(InputError, match=message):
            report.write_report([folder], tmp_path / "other", **options)
    assert not (tmp_path / "other").exists()


def test_legends_name_every_model(planted: Planted) -> None:
    """Also one that only the second panel shows."""
    plan = Plan(ablations=("residual+mlp",), sizes=SIZES)
    folders = [planted("a", heights_of(4), heights_of(4)), planted("b", heights_of(4), heights_of(4), plan=plan)]
    figure = models.all_models(reading.read_results(folders), ("all", "residual+mlp"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_long_names_are_shortened() -> None:
    assert drawing.shortened("Llama-3.1-8B") == "Llama-3.1-8B"
    assert len(drawing.shortened("x" * 80)) <= 26


def test_outputs_that_cannot_be_written(planted: Planted, tmp_path: Path) -> None:
    folder = planted("a", heights_of(4), heights_of(4))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made"):
        report.write_report([folder], tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tables").touch()
    with pytest.raises(InputError, match=r"out/tables: cannot be written \(it is no folder\)"):
        report.write_report([folder], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["tables"]


def test_a_report_that_fails_leaves_what_was_there(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder where there was none; in one with another report and files of somebody's, all of them as they were."""
    folder, wanted = planted("a", heights_of(4), heights_of(4)), {"figures": ["tv"], "tables": ["inputs"]}

    def there(out: Path) -> dict[str, bytes]:
        """Folders, too, which hold nothing themselves."""
        return {str(path.relative_to(out)): b"" if path.is_dir() else path.read_bytes() for path in out.rglob("*")}

    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere.html").touch()
    (tmp_path / "there" / "index.html").symlink_to(tmp_path / "elsewhere.html")
    report.write_report([folder], tmp_path / "there", **wanted)
    before = there(tmp_path / "there")
    files = {"notes.txt", "index.html", "figures/tv.png", "figures/tv.svg", "tables/inputs.csv"}
    assert set(before) == {*files, "figures", "tables"}
    assert (tmp_path / "elsewhere.html").stat().st_size, "written where a link leads"
    for error in (InputError("half-way"), KeyboardInterrupt()):

        def failing(*_: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(report, "_page", failing)
        for out in (tmp_path / "new" / "deep", tmp_path / "there"):
            with pytest.raises(type(error)):
                report.write_report([folder], out, **wanted)
    assert not (tmp_path / "new").exists()
    assert there(tmp_path / "there") == before
    monkeypatch.undo()
    (tmp_path / "there" / "index.html").unlink()
    (tmp_path / "there" / "index.html").mkdir()
    with pytest.raises(InputError, match=r"^[^(]*/there/index.html: cannot be written \(it is not a regular file\)$"):
        report.write_report([folder], tmp_path / "there", **wanted)
    assert there(tmp_path / "there") == before | {"index.html": b""}
    (tmp_path / "taken" / "index.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"^[^(]*/taken/index.html: cannot be written \(it is not a regular file\)$"):
        report.write_report([folder], tmp_path / "taken", **wanted)
    assert there(tmp_path / "taken") == {"index.html": b""}, "no new folders"


def test_a_real_run_with_a_reference_reports(model: Model, tmp_path: Path) -> None:
    plan = Plan(("l1",), sizes=(0.01, 0.05, 0.4, 0.7), replacements=("zero", "mean"), orders=("best-first", "score"))
    data = Data("d", (Row("hello", "d"), Row("abc")), ("x",))
    runs.run(model, data, tmp_path / "run", plan, reference=["some words", "and more"])
    wanted = ("order", "replace", "tv")
    report.write_report([tmp_path / "run"], tmp_path / "out", figures=wanted)
    page = Page((tmp_path / "out" / "index.html").read_text())
    mark = reading.read_results([tmp_path / "run"])[0].manifest["config"]["reference"]
    assert f"reference textsfingerprint {mark}" in page.words
    assert page.tags.count("svg") == len(wanted)


def test_a_real_run_reports(model: Model, tmp_path: Path) -> None:
    """From a dataset to a page, whatever few inputs there are."""
    data = Data("d", (Row("hello", "d"), Row("abc")), ("x",))
    runs.run(model, data, tmp_path / "run", Plan(baselines=("random", "inverse")), name="tiny")
    report.write_report([tmp_path / "run"], tmp_path / "out")
    assert isinstance(csv.read_csv(tmp_path / "out" / "tables" / "inputs.csv"), pa.Table)
