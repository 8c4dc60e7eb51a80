"""Circuits of tasks on a tiny model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace import archives
from jstrace.method.graph.sizes import counts
from jstrace.models import InputError, Model
from jstrace.pipeline.tasks.finding import BESIDE
from tests.conftest import SIZES

pytestmark = pytest.mark.quick
HOW: dict[str, Any] = {"score": "gradient", "sizes": SIZES}


def own(model: Model, pair: jstrace.Pair, **how: Any) -> jstrace.Trace:
    metric = jstrace.logit_difference(pair.answer, pair.rival)
    return jstrace.trace(model, pair.clean, counterfactual=pair.counterfactual, metric=metric, **{**HOW, **how})


@pytest.fixture(scope="module")
def circuit(reader: Model, pairs: list[jstrace.Pair]) -> jstrace.TaskCircuit:
    return jstrace.task(reader, pairs, **HOW)


@pytest.mark.parametrize("score", ["gradient", "rounds"])
def test_one_pair_by_position_is_its_own_trace(tiny: Model, by_ids: list[jstrace.Pair], score: str) -> None:
    pair = by_ids[0]
    found = jstrace.task(tiny, [pair], **{**HOW, "score": score})
    assert (found.align, found.n_pairs, dict(found.judged)) == ("position", 1, {})
    wanted = own(tiny, pair, score=score)
    trace = found.trace(tiny, pair)
    assert trace.strata == wanted.strata
    assert trace.scores == wanted.scores
    assert dataclasses.replace(trace, score=score) == wanted
    assert jstrace.evaluate(tiny, trace).recovered == pytest.approx(jstrace.evaluate(tiny, wanted).recovered, abs=1e-5)


def test_images_are_means_of_shares(tiny: Model, by_ids: list[jstrace.Pair]) -> None:
    """By position they are the edges themselves, and what was held out counts for nothing."""
    found = jstrace.task(tiny, by_ids[:2], held_out=by_ids[2:4], beside=(), **HOW)
    slots = tiny.full_mask(6)
    traces = [own(tiny, pair) for pair in by_ids[:2]]
    totals = [sum(leaf[getattr(slots, kind)].sum() for kind, leaf in trace.scores.items()) for trace in traces]
    for kind, leaf in found.images.items():
        shares = [getattr(trace.scores, kind) / total for trace, total in zip(traces, totals, strict=True)]
        wanted = np.where(getattr(slots, kind), np.mean(shares, axis=0) * np.mean(totals), 0)
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-7, err_msg=kind)
    assert [*found.judged] == ["task"]
    assert found.overlap is None


def test_what_is_judged_on_held_out_pairs(
    reader: Model, pairs: list[jstrace.Pair], circuit: jstrace.TaskCircuit
) -> None:
    assert [*circuit.judged] == ["task", *BESIDE]
    assert (circuit.n_pairs, circuit.classes) == (3, ("A", "-5", "-4", "B", "-2", "C"))
    chosen = np.random.default_rng(0).permutation(6)[:3]
    held = [pairs[index] for index in sorted(chosen)]
    judged = circuit.judged["task"]
    for row, pair in enumerate(held):
        evaluation = jstrace.evaluate(reader, circuit.trace(reader, pair))
        np.testing.assert_allclose(judged.recovered[row], evaluation.recovered, atol=1e-4)
        np.testing.assert_allclose(judged.tv[row], evaluation.tv, atol=1e-5)
        single = jstrace.evaluate(reader, own(reader, pair))
        np.testing.assert_allclose(circuit.judged["single"].recovered[row], single.recovered, atol=1e-4)
        assert circuit.overlap is not None
        shared = own(reader, pair).mask(2).overlap(circuit.trace(reader, pair).mask(2))
        assert circuit.overlap[row, 2] == pytest.approx(float(shared))
    np.testing.assert_allclose([one.mean()[-1] for one in circuit.judged.values()], 1, atol=1e-4)
    np.testing.assert_array_equal(judged.accuracy, (judged.metric > 0).mean(axis=0))
    assert judged.kept[0, :-1].tolist() == pytest.approx((counts(SIZES, 231) / 231).tolist())
    full, empty = judged.ends[:, 1].mean(), judged.ends[:, 0].mean()
    wanted = (judged.metric.mean(axis=0) - empty) / (full - empty)
    np.testing.assert_allclose(judged.faithfulness, wanted, rtol=1e-4, atol=1e-5)


def test_components_equal_the_model_under_their_masks(
    reader: Model, pairs: list[jstrace.Pair], circuit: jstrace.TaskCircuit
) -> None:
    """Those of the largest shares, at all positions, and all residual edges."""
    pair = pairs[sorted(np.random.default_rng(0).permutation(6)[:3])[0]]
    kept = circuit.kept_components()
    assert kept.sum(axis=(1, 2)).tolist() == counts(SIZES, 15).tolist()
    mask = reader.full_mask(6)
    mask.attn[~kept[2][:, :-1]] = False
    mask.mlp[~kept[2][:, -1]] = False
    trace = circuit.trace(reader, pair)
    found = jstrace.evaluate(reader, trace, masks=mask)
    judged = circuit.judged["components"]
    assert judged.metric[0, 2] == pytest.approx(float(found.metric[0]), abs=1e-5)  # type: ignore[index]
    assert judged.kept[0, 2] == pytest.approx(found.sizes[0])


def test_the_control_is_the_exchanged_circuit(reader: Model, pairs: list[jstrace.Pair]) -> None:
    """Found in the exchanged training pairs, and judged on the held-out pairs as they are."""
    how: dict[str, Any] = {**HOW, "align": "position", "held_out": pairs[4:]}
    found = jstrace.task(reader, pairs[:4], beside=("control",), **how)
    other = [jstrace.Pair(pair.counterfactual, pair.clean, pair.rival, pair.answer) for pair in pairs[:4]]
    again = jstrace.task(reader, other, beside=(), **how)
    assert found.judged["control"] == again.judged["task"]
    assert found.judged["control"] != found.judged["task"]


def test_level_components(reader: Model, pairs: list[jstrace.Pair]) -> None:
    found = jstrace.task(reader, pairs, level="components", **HOW)
    assert (found.align, found.classes, [*found.judged]) == (
        "components",
        ("all",),
        ["task", "single", "random", "control"],
    )
    assert found.overlap is not None
    assert (found.overlap[:, 0] == 1).all(), "two empty sets"
    edges = jstrace.task(reader, pairs, beside=("components",), **HOW)
    np.testing.assert_allclose(found.judged["task"].metric, edges.judged["components"].metric, atol=1e-5)


def test_other_replacements(tiny: Model, by_ids: list[jstrace.Pair]) -> None:
    """Named, or of one's own, of which the circuit keeps the name and a mark."""
    zero = jstrace.task(tiny, by_ids[:4], replace="zero", beside=("components",), **HOW)
    trace = zero.trace(tiny, by_ids[0])
    assert (trace.replace, trace.score_replace, trace.counterfactual) == ("zero", "zero", None)
    draw = jstrace.resample_replacement(tiny, np.arange(6, dtype=np.int32))
    found = jstrace.task(tiny, by_ids[:1], held_out=by_ids[1:3], replace=draw, beside=(), **HOW)
    trace = found.trace(tiny, by_ids[1])
    assert trace.replace == draw.name
    judged = jstrace.evaluate(tiny, trace, replace=draw)
    np.testing.assert_allclose(found.judged["task"].metric[0], judged.metric, atol=1e-5)


def test_files(reader: Model, circuit: jstrace.TaskCircuit, pairs: list[jstrace.Pair], tmp_path: Path) -> None:
    narrow = dataclasses.replace(circuit, weights="int8")
    for one in (narrow, circuit):
        one.save(tmp_path / "task.npz")
        again = jstrace.TaskCircuit.load(tmp_path / "task.npz")
        assert again == one
    assert again.trace(reader, pairs[0]) == circuit.trace(reader, pairs[0])
    header = {"format": "jstrace-task", "version": 1}
    archives.write(tmp_path / "damaged.npz", header, {"components": np.zeros(3)})
    with pytest.raises(InputError, match=r"damaged\.npz: not a readable circuit of a task"):
        jstrace.TaskCircuit.load(tmp_path / "damaged.npz")
    damaged = dataclasses.replace(circuit, components=np.zeros((2, 2), np.float32))
    damaged.save(tmp_path / "damaged.npz")
    with pytest.raises(InputError, match="components is float32"):
        jstrace.TaskCircuit.load(tmp_path / "damaged.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": np.full((3, 5), np.nan, np.float32)}, "components holds scores that are not finite"),
        ({"align": "place"}, "its align is 'place', expected one of position, roles, components"),
        ({"level": "nodes"}, "its level is 'nodes', expected one of edges, components"),
        ({"n_pairs": -1}, "n_pairs is -1, expected a number of pairs"),
        ({"classes": ("A", "A")}, "it has a class of tokens twice"),
    ],
)
def test_damaged_files(circuit: jstrace.TaskCircuit, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    dataclasses.replace(circuit, **changes).save(tmp_path / "damaged.npz")
    with pytest.raises(InputError) as caught:
        jstrace.TaskCircuit.load(tmp_path / "damaged.npz")
    assert message in str(caught.value)


def test_files_without_the_circuit_itself(circuit: jstrace.TaskCircuit, tmp_path: Path) -> None:
    """Which reports, and the words of a circuit, read."""
    others = {name: judged for name, judged in circuit.judged.items() if name != "task"}
    dataclasses.replace(circuit, judged=others).save(tmp_path / "damaged.npz")
    with pytest.raises(InputError, match="without the circuit itself"):
        jstrace.TaskCircuit.load(tmp_path / "damaged.npz")


def test_tables_and_words(circuit: jstrace.TaskCircuit) -> None:
    columns = circuit.columns()
    assert {len(values) for values in columns.values()} == {5 * 5}
    assert columns["order"][:5] == ["task"] * 5
    assert columns["overlap"][9] == 1.0
    assert repr(circuit).startswith("TaskCircuit(3 pairs, score 'gradient', 6 classes by roles, 3 held out: 90%")


def test_progress_reaches_its_end(reader: Model, pairs: list[jstrace.Pair]) -> None:
    seen: list[tuple[int, int]] = []
    jstrace.task(reader, pairs, progress=lambda done, total: seen.append((done, total)), **HOW)
    assert seen[-1] == (24, 24)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_another_model(reader: Model, circuit: jstrace.TaskCircuit, pairs: list[jstrace.Pair]) -> None:
    other = dataclasses.replace(circuit, model_fingerprint="0" * 16, weights="int8")
    with pytest.raises(InputError, match=r"the circuit was found in model 0+, weights int8, this is [-\w]+;"):
        other.trace(reader, pairs[0])
    assert dataclasses.replace(circuit, model_fingerprint="").trace(reader, pairs[0]).counts is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": []}, "pairs: expected a list of jstrace.Pair"),
        ({"held_out": 1.0}, "held_out = 1.0, expected a share below 1"),
        ({"held_out": -0.5}, "held_out = -0.5"),
        ({"held_out": [jstrace.Pair("x", "xy", "a", "b")]}, "held-out pair 0: the counterfactual has 2 tokens"),
        ({"align": "place"}, "align = 'place', expected one of"),
        ({"level": "nodes"}, "level = 'nodes', expected one of"),
        ({"beside": ("mine",)}, "beside = 'mine', expected one of"),
        ({"beside": "single"}, "beside = 'single', expected a list of any of single"),
        ({"score": "best"}, "score 'best' is not known"),
    ],
)
def test_bad_input_is_one_line(reader: Model, pairs: list[jstrace.Pair], options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"pairs": pairs, **HOW, **options}
    with pytest.raises(InputError) as caught:
        jstrace.task(reader, given.pop("pairs"), **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_are_called_by_their_places(reader: Model, pairs: list[jstrace.Pair]) -> None:
    """In the list that was given, whichever of them are held out."""
    for index in range(4):
        given = [*pairs[:index], dataclasses.replace(pairs[index], answer="no"), *pairs[index + 1 :]]
        with pytest.raises(InputError, match=f"^pair {index}: 'no' is 2 tokens"):
            jstrace.task(reader, given, **HOW)


def test_held_out_pairs_are_checked_before_the_work(tiny: Model, by_ids: list[jstrace.Pair]) -> None:
    other = jstrace.Pair([1, 2, 3], [1, 2, 4], 7, 8)
    with pytest.raises(InputError, match="of prompts of 6 tokens, this one has 3"):
        jstrace.task(tiny, by_ids[:1], held_out=[other], progress=lambda *_: pytest.fail("traced"), **HOW)


def test_held_out_pairs_that_a_circuit_was_found_in(tiny: Model, by_ids: list[jstrace.Pair]) -> None:
    with pytest.warns(UserWarning, match="1 of 2 held-out pairs are among those of the circuit, too"):
        jstrace.task(tiny, by_ids[:1], held_out=by_ids[:2], beside=(), **HOW)


def test_what_is_recovered_for_good(circuit: jstrace.TaskCircuit) -> None:
    """Neither where it falls again nor far beyond the full graph."""
    metric, ends = (np.asarray([row] * 3, np.float32) for row in ([0, 3.8, 9, 3.8, 4], [0, 4]))
    rows = dataclasses.replace(circuit.judged["task"], metric=metric, ends=ends)
    told = dataclasses.replace(circuit, judged={"task": rows})
    assert f"90% recovered from {100 * SIZES[3]:.2g}% of edges on" in repr(told)
