"""The strongest edges of a kind, and the totals of attention."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import pytest

import jstrace
from jstrace import Evaluation, Trace
from jstrace.models import Decoder, Model
from jstrace.pipeline.smallest import Smallest
from jstrace.show import records, tables
from jstrace.show.strongest import KINDS, attention, strongest
from jstrace.show.words import answer_lines, folded
from tests.conftest import family_config, tiny_params


def as_word(token: int) -> str:
    return f"<{token}>"


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def traced(request: pytest.FixtureRequest) -> tuple[Trace, Evaluation]:
    """Of a tiny model, with parallel blocks (no residual edge past an MLP) in one case."""
    config = family_config(request.param)
    model = Model(Decoder(config, tiny_params(config)))
    trace = jstrace.trace(model, np.arange(7), sizes=(0.05, 0.2, 0.5, 0.8))
    return trace, jstrace.evaluate(model, trace)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 20, 10**6])
def test_strongest_of_a_kind(traced: tuple[Trace, Evaluation], kind: str, count: int) -> None:
    """Against a sort of all edges: those that enter first, then by score."""
    trace, _ = traced
    every = [edge for edge in trace.edges(len(trace.sizes)) if edge.kind in KINDS[kind]]
    assert strongest(trace, count, kind) == sorted(every, key=lambda edge: (edge.stratum, -edge.score))[:count]


def test_strongest_of_all_are_the_first(traced: tuple[Trace, Evaluation]) -> None:
    trace, _ = traced
    assert strongest(trace, 9) == trace.first_edges(9)


def test_ties_go_by_index(traced: tuple[Trace, Evaluation]) -> None:
    trace, _ = traced
    equal = dataclasses.replace(trace.scores, attn=np.where(trace.scores.attn < 0, trace.scores.attn, np.float32(1)))
    found = strongest(dataclasses.replace(trace, scores=equal), 30, "attention")
    places = [(edge.stratum, edge.layer, edge.head, edge.target, edge.source) for edge in found]
    assert places == sorted(places)


def agreeing(evaluation: Evaluation, rows: list[bool]) -> Evaluation:
    """The same with the full graph's top token in these rows, and another in the others."""
    full = evaluation.full_tokens[0]
    return dataclasses.replace(evaluation, top_token=np.where(rows, full, full + 1))


@pytest.mark.parametrize(
    ("rows", "k"),
    [
        ([False, False, True, True, True], 2),
        ([True, False, False, True, True], 3),
        ([True, False, False, False, True], 4),
        ([False] * 5, 4),
    ],
)
def test_attention_totals(traced: tuple[Trace, Evaluation], rows: list[bool], k: int) -> None:
    """Counted one by one, in the smallest trace from which on the prediction is back."""
    trace, evaluation = traced
    found = attention(trace, agreeing(evaluation, rows))
    assert found.k == k
    for at, heads, sources in ((k, found.heads, found.sources), (4, found.all_heads, found.all_sources)):
        edges = [edge for edge in trace.edges(at) if edge.kind == "attn"]
        by_head = collections.Counter((edge.layer, edge.head) for edge in edges)
        by_source = collections.Counter(edge.source for edge in edges)
        assert {(int(i), int(j)): heads[i, j] for i, j in np.argwhere(heads)} == by_head
        assert {int(i): sources[i] for i in np.flatnonzero(sources)} == by_source


def test_attention_in_words(traced: tuple[Trace, Evaluation]) -> None:
    trace, evaluation = traced
    back = agreeing(evaluation, [False, False, True, True, True])
    heading = tables.attention_heading(trace, back, attention(trace, back), as_word)
    assert heading.endswith(
        f"of 50% of all edges, the smallest from which on the top token is '<{evaluation.full_tokens[0]}>'"
    )
    none = agreeing(evaluation, [False] * 5)
    assert "the full graph" in tables.attention_heading(trace, none, attention(trace, none), as_word)
    table = tables.attention_table(trace, attention(trace, back))
    assert (table.row_count, len(table.columns)) == (10, 6)
    shown = [int(str(cell)) for cell in table.columns[1].cells]
    assert shown == sorted(attention(trace, back).heads.ravel().tolist(), reverse=True)[:10]


def test_records_keep_what_edges_means(traced: tuple[Trace, Evaluation]) -> None:
    trace, evaluation = traced
    plain = records.as_json("a", trace, evaluation, as_word, top=5)
    found = records.as_json("a", trace, evaluation, as_word, top=5, kind="attention")
    assert found["edges"] == plain["edges"]
    assert (plain["kind"], plain["edges_of_kind"]) == ("all", [])
    assert [edge["score"] for edge in found["edges_of_kind"]] == [e.score for e in strongest(trace, 5, "attention")]
    totals = found["attention"]
    at = [*trace.sizes, 1.0].index(totals["size"])
    assert np.sum(totals["head_edges"]) == np.sum(totals["source_edges"]) == trace.composition().head_edges[at].sum()


def test_rows_that_recover_otherwise_are_not_folded(traced: tuple[Trace, Evaluation]) -> None:
    trace, evaluation = traced
    alike = dataclasses.replace(evaluation, tv=evaluation.tv * 0, top_token=evaluation.top_token * 0)
    assert folded(trace, alike) == ([0, 4], "3 sizes with the TV and top token of the row above")
    asked = {"metric": np.asarray([0, 1, 1, 3, 4], np.float32), "metric_ends": (0.0, 4.0)}
    assert folded(trace, dataclasses.replace(alike, **asked))[0] == [0, 1, 3, 4]


def test_what_is_recovered_for_good(traced: tuple[Trace, Evaluation]) -> None:
    """Neither where it falls again nor far beyond the full graph."""
    trace, evaluation = traced
    asked = {"metric": np.asarray([0, 3.8, 9, 3.8, 4], np.float32), "metric_ends": (0.0, 4.0), "metric_name": "own"}
    full = Smallest(trace, evaluation, 4)
    lines = answer_lines(trace, dataclasses.replace(evaluation, **asked), full, full, as_word)
    assert lines[-1].endswith("recover 90% of the difference from 80% of the edges on")


def test_an_empty_mask_without_a_number(traced: tuple[Trace, Evaluation]) -> None:
    trace, evaluation = traced
    asked = {"metric": evaluation.tv, "metric_ends": (np.nan, 0.0), "metric_name": "own"}
    full = Smallest(trace, evaluation, 4)
    lines = answer_lines(trace, dataclasses.replace(evaluation, **asked), full, full, as_word)
    assert lines[-1] == "own is 0.00, and nan with every edge ablated, so that nothing can be said to be recovered"
