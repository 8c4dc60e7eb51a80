"""Pages of a run's inputs: what they show is what the run has, and what it lacks is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.conditions import Plan
from jstrace.models import InputError, Model
from jstrace.reports import view_input
from jstrace.runs.data import Data, Row
from tests.conftest import family_config, tiny_params
from tests.show.test_view import data_of
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
        (1, (), "input 1 is invalid and has no trace"),
        (0, ("l3/all",), "no condition 'l3/all', but l1/all"),
    ],
)
def test_what_cannot_be_seen(folder: Path, index: int, conditions: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        view_input(folder, index, conditions)


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
        with pytest.raises(InputError, match="cannot be read"):
            view_input(folder, 0)
    finally:
        path.write_bytes(content)


def test_strata_of_other_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jstrace.reports import pages

    table = pages.Pages._table
    monkeypatch.setattr(pages.Pages, "_table", lambda *options: table(*options).slice(0, 0))
    with pytest.raises(InputError, match=r"damaged .no strata of input 0 and l1"):
        view_input(folder, 0)
