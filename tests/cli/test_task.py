"""``jstrace task``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import csv

import jstrace
from jstrace.models import Model
from tests.cli.conftest import Run
from tests.pipeline.tasks.conftest import Characters

LINES = [
    {"clean": "the cat sat", "counterfactual": "the dog sat", "answer": "a", "rival": "b"},
    {"clean": "one cat ran", "counterfactual": "one dog ran", "answer": "b", "rival": "c"},
    {"clean": "two cat did", "counterfactual": "two dog did", "answer": "c", "rival": "d"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) + "\n")
    return path


def test_a_table_json_and_a_file(run: Run, stub: Model, pairs: Path, tmp_path: Path) -> None:
    words = ("task", str(pairs), "--score", "gradient", "--save", str(tmp_path / "circuit.npz"))
    code, out, _ = run(*words)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("TaskCircuit(2 pairs, score 'gradient'")
    assert lines[2].split() == ["size", "circuit", "TV", "accuracy", "single", "random", "components", "control"]
    (full,) = (line for line in lines if line.split()[0] == "100%")
    assert full.split()[:3] == ["100%", "1.00", "0.00"]
    assert len({line.split(maxsplit=1)[1] for line in lines[3:-2]}) == len(lines[3:-2]), "rows alike are folded"
    assert "-0.00" not in out
    circuit = jstrace.TaskCircuit.load(tmp_path / "circuit.npz")
    code, out, _ = run("report", str(tmp_path / "circuit.npz"), "--out", str(tmp_path / "page"))
    assert (code, out) == (0, f"{tmp_path / 'page' / 'index.html'}: circuit.npz\n")
    page = (tmp_path / "page" / "index.html").read_text()
    assert f"2 pairs, of {len(circuit.classes)} classes of tokens by position" in page
    kept = csv.read_csv(tmp_path / "page" / "tables" / "kept.csv").to_pydict()
    assert kept["tv"] == pytest.approx(circuit.columns()["tv"])
    components = csv.read_csv(tmp_path / "page" / "tables" / "components.csv")
    assert components["score"].to_pylist() == pytest.approx(sorted(circuit.components.ravel().tolist(), reverse=True))
    assert {path.stem for path in (tmp_path / "page" / "figures").iterdir()} == {"kept", "components"}
    code, out, _ = run(*words, "--json")
    found = json.loads(out)
    assert found["pairs"] == circuit.n_pairs == 2
    assert found["tv"] == pytest.approx(circuit.columns()["tv"])


def test_rows_of_a_template(run: Run, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jstrace.load", lambda source, **_: Model(tiny.decoder, Characters()))
    path = tmp_path / "rows.jsonl"
    row = {"A": "cat", "answer": "a", "rival": "b", "counterfactual": {"A": "dog"}}
    path.write_text("\n".join(json.dumps(row | {"A": word}) for word in ("cat", "cow")))
    words = ("--score", "gradient", "--held-out", "0")
    code, out, _ = run("task", str(path), "--template", "the {A} sat", *words)
    assert code == 0
    assert out.splitlines()[-1] == "no pair is held out, so nothing is judged"
    code, out, err = run("task", str(path), "--template", "the {A} sat on {B}", *words)
    assert (code, out) == (2, "")
    assert err.endswith("rows.jsonl:1: field B of the template has None, expected a text\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no line holds a pair"),
        ("{", "pairs.jsonl:1: no JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"clean": "x"}', "fields clean: expected clean, counterfactual, answer, rival"),
        (json.dumps(LINES[0] | {"roles": 3}), "roles: expected a start and an end"),
        (json.dumps(LINES[0] | {"clean": 5}), "jsonl:1: clean is 5, expected a text, or a list of token ids"),
        (json.dumps(LINES[0] | {"rival": None}), "jsonl:1: rival is null, expected a word, or its token id"),
        (json.dumps(LINES[0] | {"counterfactual": "longer than that"}), "pairs.jsonl:1: the counterfactual has 16"),
    ],
)
def test_bad_pairs_are_one_line(run: Run, stub: Model, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    code, out, err = run("task", str(path), "--score", "gradient", "--held-out", "0")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
