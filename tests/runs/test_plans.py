"""All that a run asks of an input: plans, one clean pass, one call for all cases, and the tables of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace import runs
from jstrace.method.conditions import ABLATIONS, Case, Condition, Source
from jstrace.method.graph.full_graph import n_edges
from jstrace.method.graph.sizes import counts
from jstrace.method.plans import BASELINES, Plan
from jstrace.method.scores.gradients import Pass
from jstrace.method.scores.measured import Norm
from jstrace.models import EdgeTree, InputError, Model
from jstrace.pipeline import masked, stages
from jstrace.reports import write_report
from jstrace.runs.schema import density_column, strata_arrays
from tests import oracle
from tests.conftest import ROOT, TINY
from tests.runs.small_runs import DATA, SIZES, SMALL, read
from tests.stand_ins import Letters

WHOLE = Plan(("l1", "cosine", "random"), ("all", "residual+mlp"), BASELINES, sizes=SIZES, seed=3)


def test_plans() -> None:
    names = [case.name for case in WHOLE.cases]
    both = ["l1/{}", "cosine/{}", "random/{}", "random baseline/{}", "random proportional to l1/{}", "l1/{}/inverse"]
    assert names == [
        *(name.format("all") for name in both),
        "l1/all/pre-softmax",
        "random baseline/all/inverse",
        *(name.format("residual+mlp") for name in both),
        "random baseline/residual+mlp/inverse",
    ]
    drawn = ["random", "random baseline", "random proportional to l1"]
    assert [source.name for source in WHOLE.sources] == ["l1", "cosine", *drawn]
    both = Plan(("rounds",), baselines=("random-proportional",), replacements=("zero", "mean"), orders=("score",))
    beside = [case.source.beside for case in both.cases if case.source.beside]
    assert [source.name for source in beside] == ["rounds under zero by score", "rounds by score"]
    assert set(beside) < set(both.sources)
    assert Case(Source("random", ("residual", "mlp")), Condition()).source.frozen == ("residual", "mlp")


@dataclasses.dataclass(frozen=True)
class Share:
    """A score of one's own."""

    name: str

    def edge_scores(self, one: Pass) -> Any:
        return one.slots()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("l3",)}, "score 'l3': expected some of l1"),
        ({"scores": ()}, "score"),
        ({"ablations": ("all", "all")}, "each once"),
        ({"ablations": ("mlp",)}, "ablate 'mlp'"),
        ({"baselines": ("pre-softmax",), "ablations": ("residual+mlp",)}, "ablate all, and replace by zero, too"),
        ({"baselines": ("noise",)}, "baselines 'noise': expected some of random, random-proportional, inverse"),
        ({"sizes": (0.5, 0.1)}, "increase strictly"),
        ({"seed": -1}, "seed = -1"),
        ({"scores": ("l1*gradient", Share("l1-gradient"))}, "would have the same columns"),
        (
            {"scores": ("l1", Share("l1_by_score")), "orders": ("best-first", "score"), "replacements": ("mean",)},
            "l1_by_score/all/mean would",
        ),
    ],
)
def test_plans_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**options)


OTHER_TYPES = {
    "Plan(seed=True)": "seed = True, expected an integer",
    "Plan(seed='1')": "seed = '1', expected an integer",
    "Plan(seed=1.0)": "seed = 1.0, expected an integer",
    "Plan(selectivity=1.0)": "selectivity = 1.0, expected a number of foreign predictions",
    "Plan(selectivity='3')": "selectivity = '3', expected a number of foreign predictions",
    "Plan(sizes='0.1')": "sizes = '0.1', expected a sequence of numbers",
    "Plan(sizes={0.1})": "sizes = {0.1}, expected a sequence of numbers",
    "Plan(sizes={0.1: 1})": "sizes = {0.1: 1}, expected a sequence of numbers",
    "Plan(sizes=iter([0.1]))": "sizes = <list_iterator",
    "Plan(sizes=0.1)": "sizes must be numbers, got 0.1",
    "Plan(sizes=('0.1',))": "sizes must be numbers, got ('0.1',)",
    "Plan(sizes=(True,))": "sizes must be numbers, got (True,)",
    "Plan(sizes=np.array([True]))": "sizes must be numbers, got array([ True])",
    "Plan('l1')": "score = 'l1', expected a tuple of some of l1, l2",
    "Plan({'l1'})": "score = {'l1'}, expected a tuple of some of l1, l2",
    "Plan((['l1'],))": "score is ['l1']; expected one of l1, l2, ifr, cosine,",
    "Plan(ablations='all')": "ablate = 'all', expected a tuple of some of all, residual+mlp",
    "Plan(baselines=None)": "baselines = None, expected a tuple of some of random, random-proportional, inverse",
    "started(limit='5')": "limit = '5', expected an integer",
    "started(limit=True)": "limit = True, expected an integer",
    "started(limit=2.0)": "limit = 2.0, expected an integer",
    "started(part_inputs=0)": "part_inputs = 0, expected an integer, at least one input",
    "started(part_inputs=-1)": "part_inputs = -1, expected an integer",
    "started(part_inputs=False)": "part_inputs = False, expected an integer",
    "started(name=None)": "name = None, expected a text",
    "started(reference='abc')": "reference = 'abc', expected a list of texts",
    "started(reference=[5])": "reference = [5], expected a list of texts",
    "started(reference=[])": "reference is empty",
    "started(plan='l1')": "plan = 'l1', expected a jstrace.method.plans.Plan",
    "started(data='texts.tsv')": "data = 'texts.tsv', expected what jstrace.runs.read_data gives",
    "json.dumps([Plan(sizes=np.float32([0.25, 0.5])).sizes, Plan(seed=np.int64(3)).seed])": "'[[0.25, 0.5], 3]'",
    "json.dumps(Plan(sizes=[0.5, 1]).sizes)": "'[0.5, 1]'",
    "Plan(['l1'], ['all'], [], [0.5], 0, ['zero'], ['best-first']) == Plan(sizes=(0.5,))": "True",
}
"""What becomes of arguments of other types without the tests' own checks: an ``InputError``, or Python's numbers."""


def test_arguments_of_other_types(tmp_path: Path) -> None:
    code = (
        "import json, sys\nimport numpy as np\nfrom jstrace import InputError, runs\n"
        "from jstrace.method.plans import Plan\n"
        "def started(**given):\n"
        "    rows = given.pop('data', runs.Data('d', (runs.Row('abc'),), ()))\n"
        "    return runs.run(lambda: 1 / 0, rows, sys.argv[1], **given)\n"
        "def told(call):\n"
        "    try:\n        return repr(eval(call))\n    except InputError as error:\n        return str(error)\n"
        "print(json.dumps({call: told(call) for call in json.load(sys.stdin)}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], input=json.dumps(list(OTHER_TYPES)), cwd=ROOT,
        env=os.environ | {"JAXTYPING_DISABLE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {call: found[call][: len(message)] for call, message in OTHER_TYPES.items()} == OTHER_TYPES
    assert not any("\n" in message for message in found.values())
    assert not (tmp_path / "out").exists()


def test_a_run_has_the_numbers_of_trace_and_evaluate(model: Model, tmp_path: Path) -> None:
    done = runs.run(model, DATA, tmp_path, WHOLE, name="tiny", limit=2, save_strata=True)
    assert done == runs.Summary(inputs=2, invalid=0, computed=2)
    curves, inputs = read(tmp_path, "curves").to_pylist(), read(tmp_path, "inputs").to_pylist()
    strata = read(tmp_path, "strata").to_pylist()
    assert len(curves) == 2 * 15 * 5
    for index, row in enumerate(DATA.rows[:2]):
        surprisal = np.nan
        for case in WHOLE.cases:
            source, condition = case.source, case.condition
            trace = jstrace.trace(model, row.text, score=source.score, frozen=source.frozen, sizes=SIZES, seed=3)
            saved = next(r for r in strata if (r["input"], r["source"]) == (index, source.name))
            if source.beside is not None:
                beside = next(r for r in strata if (r["input"], r["source"]) == (index, source.beside.name))
                scores = EdgeTree(**{name: np.nan_to_num(leaf, nan=-1) for name, leaf in trace.scores.items()})
                drawn = oracle.proportional(scores, EdgeTree(**strata_arrays(beside)), len(SIZES))
                trace = dataclasses.replace(trace, strata=drawn)
            for name, leaf in EdgeTree(**strata_arrays(saved)).items():
                np.testing.assert_array_equal(leaf, getattr(trace.strata, name))
            result = jstrace.evaluate(
                model, trace, ablate=condition.ablate, pre_softmax=condition.pre_softmax, inverse=condition.inverse,
                next_token=Letters().encode("d")[0],
            )  # fmt: skip
            found = [r for r in curves if (r["input"], r["condition"]) == (index, case.name)]
            assert [r["k"] for r in found] == list(range(5))
            assert [r["edges"] for r in found] == [*trace.counts, trace.n_edges]
            for name in ("tv", "kl", "entropy", "surprisal"):
                np.testing.assert_allclose([r[name] for r in found], getattr(result, name), atol=2e-5)
            assert [r["rank"] for r in found] == result.rank.tolist()
            assert [r["nucleus"] for r in found] == result.nucleus.tolist()
            assert [r["recovered"] for r in found] == result.nucleus_level.tolist()
            assert [r["agreement"] for r in found] == result.agreement.tolist()
            if case.has_density:
                surprisal = result.surprisal[-1]
                density = inputs[index][density_column(case.name)]
                assert density == pytest.approx(result.density, abs=1e-4)
        assert inputs[index]["surprisal"] == pytest.approx(surprisal, abs=1e-4)
        assert inputs[index]["top_token"] == result.full_tokens[0]
        assert inputs[index]["tokens"] == Letters().encode(row.text)
        assert inputs[index]["top_count"] == [*Letters().encode("helloaaa")].count(inputs[index]["top_token"])


@dataclasses.dataclass(frozen=True)
class Mine:
    """A score of one's own."""

    name: str = "mine"
    sign: float = -1.0

    def vector(self, edge: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(2).vector(edge, node)

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(2).attention(probs, values, node)


def test_sizes_written_otherwise_are_the_same_run(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, Plan(sizes=(0.5, 1)), limit=1)
    assert runs.run(model, DATA, tmp_path, Plan(sizes=(0.5, 1.0)), limit=2).computed == 1


def test_an_importance_of_ones_own_in_runs_and_reports(model: Model, tmp_path: Path) -> None:
    """Beside others, under its name, which the run goes on with; the report draws it."""
    plan = Plan(("l1", Mine()), sizes=SIZES)
    runs.run(model, DATA, tmp_path / "run", plan, limit=1)
    assert runs.run(model, DATA, tmp_path / "run", plan, limit=2).computed == 1
    rows = [row for row in read(tmp_path / "run", "curves").to_pylist() if row["condition"] == "mine/all"]
    for index in range(2):
        trace = jstrace.trace(model, DATA.rows[index].text, score=Mine(), sizes=SIZES)
        found = [row["tv"] for row in rows if row["input"] == index]
        np.testing.assert_allclose(found, jstrace.evaluate(model, trace).tv, atol=2e-5)
    write_report([tmp_path / "run"], tmp_path / "report")
    assert "mine" in (tmp_path / "report" / "index.html").read_text()
    with pytest.raises(InputError, match=r"own scores is .*sign=-1.*there, .*sign=1"):
        runs.run(model, DATA, tmp_path / "run", Plan(("l1", Mine(sign=1.0)), sizes=SIZES))
    for scores, message in (
        ((Mine("l1"),), "another name"),
        ((Mine(), Mine()), "each once"),
        ((5,), "expected one of l1"),
    ):
        with pytest.raises(InputError, match=message):
            Plan(scores)


def test_components_are_those_of_the_traces(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, limit=2)
    rows = read(tmp_path, "components").to_pylist()
    made = jstrace.trace(model, DATA.rows[1].text, sizes=SIZES).composition()
    for row in (row for row in rows if row["input"] == 1):
        k = row["k"]
        assert (row["edges"], row["nodes"], row["input_reached"]) == (
            made.edges[k], made.nodes[k], made.input_reached[k]
        )  # fmt: skip
        assert row["residual"] == made.residual_edges[k].tolist()
        assert row["mlp"] == made.mlp_edges[k].tolist()
        assert np.reshape(row["heads"], made.head_edges[k].shape).tolist() == made.head_edges[k].tolist()


def test_all_cases_run_through_one_program(model: Model) -> None:
    """One call gives what one call for each gives."""
    tokens = jnp.asarray([[3, 1, 4, 1, 5, 0, 0, 0], [9, 2, 6, 0, 0, 0, 0, 0]])
    lengths, nexts = jnp.asarray([5, 3]), jnp.asarray([2, 3])
    scorings = (("l1", "zero"), ("l2", "zero"))
    score, finite = stages.score_batch(model.decoder, tokens, lengths, 0, scorings=scorings, replacements={})
    assert finite.shape == (2, 4, TINY.n_layers)
    assert finite.all()
    cuts = np.stack([counts(SIZES, n_edges(TINY, n)) for n in (5, 3)])
    strata = tuple(stages.extract_batch(tree, cuts, lengths, parallel=False, frozen=()) for tree in score)
    conditions = [Condition(a, p, i) for a in ABLATIONS for p in (False, True) for i in (False, True)]
    cases = tuple((n % 2, condition) for n, condition in enumerate([*conditions, Condition()]))
    together = masked.evaluate_batch(model.decoder, tokens, lengths, strata, nexts, n_sizes=4, cases=cases)
    for (source, condition), found in zip(cases, together, strict=True):
        (alone,) = masked.evaluate_batch(
            model.decoder, tokens, lengths, (strata[source],), nexts, n_sizes=4, cases=((0, condition),)
        )
        assert found.measures.tv.shape == (2, 5)
        for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(got, expected, atol=2e-5)
    programs = masked.lowered(model.decoder, tokens, lengths, strata, nexts, n_sizes=4, cases=cases[:1] * 2).as_text()
    more = masked.lowered(model.decoder, tokens, lengths, strata, nexts, n_sizes=4, cases=cases[:1] * 8).as_text()
    assert len(more) < 1.2 * len(programs), "more cases are no more code"


def test_several_scores_from_one_clean_pass(tiny: Model, tokens: np.ndarray) -> None:
    kinds = tuple((kind, "zero") for kind in ("l1", "cosine", "random", "ifr", "l2"))
    row, length = jnp.asarray(tokens)[None], jnp.asarray([len(tokens)])
    found, _ = stages.score_batch(tiny.decoder, row, length, 7, scorings=kinds, replacements={})
    for kind, tree in zip(kinds, found, strict=True):
        (alone,), _ = stages.score_batch(tiny.decoder, row, length, 7, scorings=(kind,), replacements={})
        for (_, got), (_, expected) in zip(tree.items(), alone.items(), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-6)
    lowered = stages.score_batch.lower(tiny.decoder, row, length, 7, scorings=kinds, replacements={}).as_text()
    one = stages.score_batch.lower(tiny.decoder, row, length, 7, scorings=kinds[:1], replacements={}).as_text()
    assert lowered.count("stablehlo.exponential") == one.count("stablehlo.exponential"), "one softmax: one clean pass"
