"""Long lists, inputs and arguments that are none, and results as records."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import chex
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, InputError, Model
from jstrace.pipeline import inputs
from tests.conftest import TINY, tiny_params
from tests.pipeline.conftest import SIZES


def test_one_bad_input_does_not_discard_a_list(tiny: Model) -> None:
    rows: list[Any] = [[1, 2, 3], [], [4, 1000], [5, 6], "a text"]
    for index, message in ((1, "no tokens"), (2, "token id 1000"), (4, "tokenizer")):
        with pytest.raises(InputError, match=f"input {0 if index == 1 else 1}: .*{message}"):
            jstrace.trace(tiny, rows[index : index + 1] if index == 1 else [rows[0], rows[index]], sizes=SIZES)
    found = jstrace.trace(tiny, rows, sizes=SIZES, on_invalid="keep")
    assert [isinstance(one, jstrace.Invalid) for one in found] == [False, True, True, False, True]
    assert "token id 1000" in found[2].reason  # type: ignore[union-attr]
    assert isinstance(found[3], jstrace.Trace)
    chex.assert_trees_all_equal(found[3].strata, jstrace.trace(tiny, rows[3], sizes=SIZES).strata)
    results = jstrace.evaluate(tiny, found, on_invalid="keep")
    assert [isinstance(one, jstrace.Invalid) for one in results] == [False, True, True, False, True]
    with pytest.raises(InputError, match=r"trace 1: no tokens"):
        jstrace.evaluate(tiny, found)
    strange = dataclasses.replace(found[3], model_fingerprint="2-0")  # type: ignore[type-var]
    with pytest.raises(InputError, match=r"trace 2: the trace was made with"):
        list(jstrace.evaluate_iter(tiny, iter([found[0], found[3], strange]), chunk=2))
    stranger = Model(Decoder(TINY, tiny_params(seed=7)))
    kept = jstrace.evaluate(stranger, found, on_invalid="keep")
    assert all(isinstance(one, jstrace.Invalid) for one in kept)
    with pytest.raises(InputError, match="expected raise or keep"):
        jstrace.trace(tiny, rows, on_invalid="ignore")


def test_streams_read_no_more_than_a_chunk(tiny: Model) -> None:
    """Traces come in order as inputs are read, from an iterable without an end."""
    read: list[int] = []

    def endless() -> Iterator[list[int]]:
        for number in itertools.count():
            read.append(number)
            yield [1 + number % 90, *range(2, 3 + number % 4)]

    stream = jstrace.trace_iter(tiny, endless(), sizes=SIZES, chunk=3)
    first = list(itertools.islice(stream, 4))
    assert len(read) == 6
    assert [one.tokens[0] for one in first] == [1, 2, 3, 4]  # type: ignore[union-attr]
    assert isinstance(first[3], jstrace.Trace)
    chex.assert_trees_all_equal(first[3].strata, jstrace.trace(tiny, [4, 2, 3, 4, 5], sizes=SIZES).strata)
    pairs = jstrace.evaluate_iter(tiny, iter(first), chunk=3)
    for trace, (same, result) in zip(first, pairs, strict=True):
        assert same is trace
        assert result.tv == pytest.approx(jstrace.evaluate(tiny, trace).tv, abs=1e-5)  # type: ignore[union-attr,arg-type]
    with pytest.raises(InputError, match="input 4: no tokens"):
        list(jstrace.trace_iter(tiny, iter([[1], [2], [3], [4], []]), sizes=SIZES, chunk=3))
    for wrong in (0, 1.5, True):
        with pytest.raises(InputError, match="chunk"):
            inspect.unwrap(jstrace.trace_iter)(tiny, [[1]], chunk=wrong)
    with pytest.raises(InputError, match="iterable"):
        jstrace.trace_iter(tiny, "a text")


@pytest.mark.parametrize("wrong", [np.array(5), {1, 2}, {1: 2}, b"text", 5, None])
def test_inputs_of_other_kinds(tiny: Model, wrong: Any) -> None:
    with pytest.raises(InputError, match="expected a text, token ids or a list"):
        inspect.unwrap(inputs.listed)(tiny, wrong)


def test_other_odd_arguments(tiny: Model, trace: jstrace.Trace) -> None:
    with pytest.raises(InputError, match="bool is none"):
        jstrace.trace(tiny, [1, True])
    with pytest.raises(InputError, match=r"jstrace.load\('smollm2'\)"):
        inspect.unwrap(inputs.listed)("smollm2", "a text")
    with pytest.raises(InputError, match="str, expected what"):
        inspect.unwrap(jstrace.evaluate)("x", trace)
    for flag in ("pre_softmax", "inverse"):
        with pytest.raises(InputError, match=f"{flag} = 'no'"):
            inspect.unwrap(jstrace.evaluate)(tiny, trace, **{flag: "no"})
    for changed, message in (
        ({"tokens": -trace.tokens}, "outside the vocabulary"),
        ({"tokens": trace.tokens.astype(np.float32)}, "do not belong together"),
        ({"strata": trace.mask(3)}, "strata"),
        ({"sizes": (0.5, 0.6)}, "its strata do not hold"),
    ):
        with pytest.raises(InputError, match=message):
            jstrace.evaluate(tiny, _replaced(trace, **changed))
    with pytest.raises(InputError, match="expected a trace"):
        inspect.unwrap(jstrace.evaluate)(tiny, [5])
    for wrong in (None, 5, "text"):
        with pytest.raises(InputError, match="expected traces"):
            inspect.unwrap(jstrace.evaluate)(tiny, wrong)
    with pytest.raises(InputError, match="expected traces"):
        inspect.unwrap(jstrace.evaluate_iter)(tiny, trace)


def _replaced(trace: jstrace.Trace, **changes: Any) -> jstrace.Trace:
    """``dataclasses.replace`` without the types that tests enforce."""
    found = object.__new__(jstrace.Trace)
    for field in dataclasses.fields(trace):
        object.__setattr__(found, field.name, changes.get(field.name, getattr(trace, field.name)))
    return found


def test_records_compare_and_are_readable(tiny: Model, tokens: np.ndarray, trace: jstrace.Trace) -> None:
    assert trace == jstrace.trace(tiny, tokens, sizes=SIZES)
    assert trace != jstrace.trace(tiny, tokens, sizes=SIZES, score="l2")
    assert trace != 5
    one, other = (jstrace.evaluate(tiny, trace, ablate=ablate) for ablate in ("all", "residual+mlp"))
    assert one == jstrace.evaluate(tiny, trace)
    assert one != other
    assert repr(one).startswith("Evaluation(4 sizes and the full graph, ablate 'all', density ")
    assert len(repr(one)) < 120
    assert one.row_sizes.tolist() == [*SIZES, 1.0]
    assert len(one.row_sizes) == len(one.tv)


def test_a_trace_holds_no_larger_batch(tiny: Model) -> None:
    """Its arrays are its own where a view would keep a whole batch alive."""
    traces = jstrace.trace(tiny, [[1, 2], [3, 4], [5, 6]], sizes=SIZES)
    for leaf in (traces[0].strata.attn, traces[0].scores.attn):
        assert leaf.base is None or leaf.base.nbytes < 2 * leaf.nbytes


def test_edges_as_columns(trace: jstrace.Trace) -> None:
    edges = trace.edges(3)
    assert len(edges) == trace.counts[3]
    assert (np.diff(edges.score) <= 0).all()
    for index in (0, 5, -1):
        edge = edges[index]
        place = (edge.layer, edge.head, edge.target, edge.source) if edge.kind == "attn" else (edge.layer, edge.target)
        assert getattr(trace.scores, edge.kind)[place] == np.float32(edge.score)
        assert getattr(trace.strata, edge.kind)[place] == edge.stratum <= 3
        assert (edge.head is None) == (edge.kind != "attn")
    assert list(edges)[3] == edges[3]
    attn = edges[edges.kind == "attn"]
    assert {edge.kind for edge in attn} == {"attn"}
    assert edges[:2] == edges[np.asarray([0, 1])] == [edges[0], edges[1]]
    assert edges[:2] != edges[1:3]
    assert "attn" in repr(edges)
    frame = edges.to_pandas()
    assert set(frame.columns) == set(edges.columns()) | {"source_text", "target_text"}
    assert frame["source_text"].tolist() == [trace.words[edge.source] for edge in edges]
    assert (frame["head"].isna() == (edges.kind != "attn")).all()


def test_results_as_frames_and_figures(tiny: Model, trace: jstrace.Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    result = jstrace.evaluate(tiny, trace, next_token=3)
    frame = result.to_pandas()
    assert len(frame) == len(SIZES) + 1
    assert frame["size"].tolist() == [*SIZES, 1.0]
    assert {"tv", "kl", "agreement", "entropy", "surprisal", "rank"} < set(frame.columns)
    for given, labels in (
        (result, ["result 1"]),
        ([result, result], ["result 1", "result 2"]),
        ({"l1": result}, ["l1"]),
    ):
        (axes,) = jstrace.plot_curves(given).axes
        assert [line.get_label() for line in axes.lines] == labels
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), result.tv)
    with pytest.raises(InputError, match="none"):
        jstrace.plot_curves([])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        result.to_pandas()
