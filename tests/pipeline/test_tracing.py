"""Traces and their evaluation, from tokens to measures."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.conditions import ABLATIONS, Case, Condition, Source
from jstrace.method.graph import full_graph
from jstrace.models import Decoder, EdgeTree, InputError, Model
from jstrace.pipeline import Driver, Input, Invalid, masked, stages
from jstrace.pipeline.inputs import token_ids
from jstrace.pipeline.records import Ask
from jstrace.scale import batching
from tests import oracle
from tests.conftest import SIZES, TINY, family_config, tiny_params
from tests.oracle_mlp import softmax
from tests.stand_ins import Letters


def test_trace_equals_the_oracle(tiny: Model, tokens: np.ndarray) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    expected = oracle.strata(trace.scores, SIZES)
    chex.assert_trees_all_equal(trace.strata, expected)
    chex.assert_type(jax.tree.leaves(trace.strata), np.uint8)
    assert trace.n_edges == full_graph.n_edges(TINY, len(tokens))
    assert trace.counts.tolist() == [int(size * trace.n_edges) for size in SIZES]


@pytest.mark.parametrize(("ablate", "pre"), [(ABLATIONS[0], False), (ABLATIONS[0], True), (ABLATIONS[1], False)])
@pytest.mark.parametrize("inverse", [False, True])
def test_evaluation_equals_the_oracle(tiny: Model, tokens: np.ndarray, ablate: str, pre: bool, inverse: bool) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    got = jstrace.evaluate(tiny, trace, ablate=ablate, pre_softmax=pre, inverse=inverse, next_token=3)
    literal = oracle.Literal(TINY, tiny_params(), tokens)
    everything = EdgeTree(*(leaf != 255 for _, leaf in trace.strata.items()))
    full = softmax(literal.masked(everything))
    for k in range(len(SIZES) + 1):
        traced = {name: leaf <= k for name, leaf in trace.strata.items()}
        if inverse:
            traced = {name: everything_of & ~traced[name] for name, everything_of in everything.items()}
            traced |= {"residual_attn": everything.residual_attn, "residual_mlp": everything.residual_mlp}
        if ablate == "residual+mlp":
            traced["attn"] = everything.attn
        p = softmax(literal.masked(EdgeTree(**traced), pre_softmax=pre))
        np.testing.assert_allclose(got.tv[k], 0.5 * np.abs(p - full).sum(), atol=1e-4)
        np.testing.assert_allclose(got.surprisal[k], -np.log(p[3]), rtol=1e-3, atol=1e-4)
        assert got.rank[k] == 1 + (p > p[3]).sum()
    assert (got.density is None) == inverse
    if not inverse:
        assert got.tv[-1] == 0


def test_a_list_equals_one_at_a_time(tiny: Model) -> None:
    """Batches, buckets and leftovers change nothing."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, TINY.vocab_size, n) for n in (3, 9, 3, 5, 8, 1, 7, 2, 16)]
    together = jstrace.trace(tiny, inputs, sizes=SIZES)
    evaluations = jstrace.evaluate(tiny, together, next_token=[1] * len(inputs))
    for row, trace, result in zip(inputs, together, evaluations, strict=True):
        alone = jstrace.trace(tiny, row, sizes=SIZES)
        np.testing.assert_array_equal(trace.tokens, row)
        chex.assert_trees_all_equal(trace.strata, alone.strata, strict=True)
        np.testing.assert_allclose(result.tv, jstrace.evaluate(tiny, alone).tv, atol=1e-5)


def test_padding_never_changes_a_result(tiny: Model, tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for width in (len(tokens), 8, 24):
        monkeypatch.setattr(batching, "bucket", lambda n, width=width: width)
        trace = jstrace.trace(tiny, tokens, sizes=SIZES)
        results.append((trace, jstrace.evaluate(tiny, trace)))
    for trace, result in results[1:]:
        for name, leaf in trace.strata.items():
            np.testing.assert_array_equal(leaf, getattr(results[0][0].strata, name))
            np.testing.assert_allclose(getattr(trace.scores, name), getattr(results[0][0].scores, name), atol=1e-5)
        np.testing.assert_allclose(result.tv, results[0][1].tv, atol=1e-5)


def test_buckets_are_few_and_tight() -> None:
    assert [batching.bucket(n) for n in (1, 8, 9, 17, 50, 65, 128, 129, 1000)] == [8, 8, 16, 32, 64, 80, 128, 160, 1024]
    assert all(n <= batching.bucket(n) < max(1.3 * n, n + 16) for n in range(1, 3000))
    assert len({batching.bucket(n) for n in range(44, 76)}) == 3, "the lengths of 40 words of English"


def test_few_programs_serve_many_inputs(tiny: Model) -> None:
    """Two batch sizes for each bucket, in every stage: 16 lengths over two buckets, with leftovers."""
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, TINY.vocab_size, n) for n in (*range(1, 9), 20, *range(17, 30))]
    sizes = tuple(size * 0.99 for size in SIZES)
    programs = [stages.score_batch, stages.extract_program, masked._evaluate]
    before = [program._cache_size() for program in programs]
    jstrace.evaluate(tiny, jstrace.trace(tiny, inputs, sizes=sizes))
    grown = [program._cache_size() - start for program, start in zip(programs, before, strict=True)]
    assert all(growth <= 2 * 2 for growth in grown), grown


@pytest.mark.quick
def test_first_edges_are_the_heaps(tiny: Model, tokens: np.ndarray) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    order = oracle.best_first(oracle.graph_of(trace.scores))
    for count in (1, 5, 17, 10**6):
        got = {
            (
                oracle.EDGE_KINDS.index(e.kind),
                e.layer,
                *((e.head, e.target, e.source) if e.kind == "attn" else (e.target,)),
            )
            for e in trace.first_edges(count)
        }
        assert got == set(order[:count])


def test_edges_and_composition(tiny: Model, tokens: np.ndarray) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    made = trace.composition()
    for k in range(len(SIZES) + 1):
        edges = trace.edges(k)
        assert len(edges) == made.edges[k] == [*trace.counts, trace.n_edges][k]
        assert [e.score for e in edges] == sorted((e.score for e in edges), reverse=True)
        if not edges:
            continue
        kinds = [e.kind for e in edges]
        assert made.attention[k] == pytest.approx(kinds.count("attn") / len(edges))
        assert made.mlp[k] == pytest.approx(kinds.count("mlp") / len(edges))
        assert made.residual[k] + made.attention[k] + made.mlp[k] == pytest.approx(1)
        layers = np.bincount([e.layer for e in edges], minlength=TINY.n_layers)
        np.testing.assert_allclose(made.layers[k], layers / len(edges))
        assert made.quarters[k].sum() == pytest.approx(1)
        heads = [(e.layer, e.head) for e in edges if e.kind == "attn"]
        assert all(made.head_edges[k][place] == heads.count(place) for place in np.ndindex(made.head_edges[k].shape))
        sources = {(2 * e.layer + (e.kind in ("residual_mlp", "mlp")), e.source) for e in edges}
        assert made.nodes[k] == 1 + len(sources)
        assert made.input_reached[k] == any(level == 0 for level, _ in sources)
    with pytest.raises(InputError, match="k = 9"):
        trace.edges(9)


def test_save_and_load(tiny: Model, tokens: np.ndarray, tmp_path: Path) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES, score="random", seed=5, frozen=("residual",))
    trace.save(tmp_path / "a.npz")
    back = jstrace.Trace.load(tmp_path / "a.npz")
    for field in dataclasses.fields(trace):
        ours, theirs = getattr(trace, field.name), getattr(back, field.name)
        if isinstance(ours, EdgeTree):
            assert all(np.array_equal(leaf, getattr(theirs, name)) for name, leaf in ours.items())
        else:
            assert np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]
    assert trace.model_fingerprint == tiny.fingerprint() != ""


def test_files_that_are_no_traces(tiny: Model, tokens: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a readable trace"):
        jstrace.Trace.load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(InputError, match="not a readable trace"):
        jstrace.Trace.load(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", header=np.asarray([{}], dtype=object))
    with pytest.raises(InputError, match="not a readable trace"):
        jstrace.Trace.load(tmp_path / "objects.npz")
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    trace.save(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-400])
    with pytest.raises(InputError, match="not a readable trace"):
        jstrace.Trace.load(tmp_path / "cut.npz")
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "cut.npz").write_bytes(damaged)
        with contextlib.suppress(InputError):
            jstrace.Trace.load(tmp_path / "cut.npz")
    altered = dataclasses.replace(trace, strata=dataclasses.replace(trace.strata, mlp=trace.strata.mlp * 0))
    altered.save(tmp_path / "altered.npz")
    with pytest.raises(InputError, match="strata do not hold"):
        jstrace.Trace.load(tmp_path / "altered.npz")
    for target in (tmp_path / "no" / "folder.npz", tmp_path, Path("/dev/null"), tmp_path / ("long" * 100)):
        with pytest.raises(InputError, match="cannot be written"):
            trace.save(target)
    (tmp_path / "link.npz").symlink_to(tmp_path / "pointed-at.npz")
    trace.save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert jstrace.Trace.load(tmp_path / "pointed-at.npz").n_edges == trace.n_edges


def test_bad_inputs(tiny: Model, tokens: np.ndarray) -> None:
    for inputs, message in (
        (np.asarray([], int), "no tokens"),
        ([[1, 2], []], "input 1: no tokens"),
        ([96, 97], "97 is outside"),
        ([-1], "-1 is outside"),
        (np.asarray([0.5]), "integers"),
        ("text", "tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            jstrace.trace(tiny, inputs, sizes=SIZES)
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    with pytest.raises(InputError, match="ablate"):
        jstrace.evaluate(tiny, trace, ablate="attention")
    with pytest.raises(InputError, match="next_token"):
        jstrace.evaluate(tiny, trace, next_token=97)
    with pytest.raises(InputError, match="next_token"):
        jstrace.evaluate(tiny, [trace, trace], next_token=[1])
    wrong = dataclasses.replace(trace, tokens=trace.tokens[:3])
    with pytest.raises(InputError, match="another model"):
        jstrace.evaluate(tiny, wrong)
    stranger = Model(Decoder(TINY, tiny_params(seed=7)))
    with pytest.raises(InputError, match="was made with model"):
        jstrace.evaluate(stranger, trace)
    assert jstrace.evaluate(stranger, dataclasses.replace(trace, model_fingerprint="")).valid


def test_columns_of_tables(tokens: np.ndarray) -> None:
    """Whatever their index is: that of a part of a table need not have a 0."""
    import pandas as pd

    model, how = Model(Decoder(TINY, tiny_params()), Letters()), {"sizes": (0.2,)}
    texts, index = ["hello there", "and again"], [7, 3]
    calls = (jstrace.trace, jstrace.evaluate, jstrace.mean_replacement, jstrace.resample_replacement)
    trace, evaluate, mean, resample = map(inspect.unwrap, calls)
    expected = jstrace.trace(model, texts, **how)
    for dtype in (object, "string", "category"):
        assert trace(model, pd.Series(texts, index, dtype=dtype), **how) == expected
    assert trace(model, pd.Series(texts, ["a", "b"]), **how) == expected
    (one,) = jstrace.trace(model, [tokens], **how)
    rows = [tokens.tolist(), tokens[::-1].tolist()]
    pair = jstrace.trace(model, rows, **how)
    assert trace(model, pd.Series(rows, index), **how) == pair
    for dtype in ("int64", "Int64", object):
        ids = pd.Series(tokens, range(5, 12), dtype=dtype)
        assert trace(model, ids, **how) == one
        assert resample(model, ids).attn_input.shape[1] == len(tokens)
        assert evaluate(model, ids, masks=one.mask(0)) == jstrace.evaluate(model, tokens, masks=one.mask(0))
    assert trace(model, pd.DataFrame(rows, index), **how) == pair
    assert mean(model, pd.Series(texts, index)).name == "mean"
    assert trace(model, pd.Series([], dtype=object), **how) == []
    with pytest.raises(InputError, match="input 1: token ids must be"):
        inspect.unwrap(token_ids)(model, pd.Series(["good", None], index).iloc[1], "input 1: ")


def test_traces_by_index_and_by_size(tiny: Model, tokens: np.ndarray) -> None:
    """Sizes are fractions, so a float in the place of an index is refused rather than rounded."""
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    chex.assert_trees_all_equal(trace.mask(size=0.3), trace.mask(2))
    chex.assert_trees_all_equal(trace.mask(size=1.0), trace.mask(len(SIZES)))
    assert trace.edges(size=0.05) == trace.edges(np.int64(1))
    for arguments, message in (
        (((0.3,), {}), r"for a size use mask\(size=0.3\)"),
        (((1.0,), {}), "an index is an integer"),
        (((), {"size": 0.2}), r"size = 0.2: not one of this trace's sizes \[0.01"),
        (((), {}), "one of the two"),
        (((2,), {"size": 0.3}), "one of the two"),
        (((-1,), {}), "k = -1, expected 0 to 4"),
    ):
        with pytest.raises(InputError, match=message):
            inspect.unwrap(trace.mask)(trace, *arguments[0], **arguments[1])  # type: ignore[operator]
    with pytest.raises(InputError, match=r"size = 0\.2: not one"):
        trace.edges(size=0.2)
    assert repr(trace) == f"Trace(7 tokens, {trace.n_edges} edges, 4 sizes from 1% to 70%, score 'l1')"


def test_no_inputs_and_unknown_next_tokens(tiny: Model) -> None:
    assert jstrace.trace(tiny, []) == jstrace.evaluate(tiny, []) == []
    traces = jstrace.trace(tiny, [[1, 2], [3, 4, 5]], sizes=SIZES)
    known, unknown = jstrace.evaluate(tiny, traces, next_token=[3, None])
    assert known.rank is not None
    assert unknown.rank is None
    assert unknown.surprisal is None
    (same,) = jstrace.evaluate(tiny, traces[:1], next_token=jnp.asarray([3]))
    assert same.rank == pytest.approx(known.rank)
    for wrong in ([5, True], [[5], [6]], ["a", 5]):
        with pytest.raises(InputError, match="expected 2 token ids"):
            inspect.unwrap(jstrace.evaluate)(tiny, traces, next_token=wrong)


def test_sizes_that_are_nearly_the_same(tiny: Model) -> None:
    trace = jstrace.trace(tiny, [1] * 20, sizes=(0.3, 0.9999995))
    chex.assert_trees_all_equal(trace.mask(size=0.9999995), trace.mask(1))
    chex.assert_trees_all_equal(trace.mask(size=1), trace.mask(2))


@pytest.mark.usefixtures("four_a_call")
def test_traces_of_different_sizes_share_a_program(tiny: Model) -> None:
    """As many sizes, one call; each result has its own sizes and density."""
    given = [SIZES, tuple(size * 0.9 for size in SIZES), (0.5,)]
    traces = [jstrace.trace(tiny, [1, 2, 3, 4], sizes=sizes) for sizes in given]
    seen: list[tuple[int, int]] = []
    results = jstrace.evaluate(tiny, traces, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (3, 3)]
    for trace, result in zip(traces, results, strict=True):
        alone = jstrace.evaluate(tiny, trace)
        assert result.sizes == trace.sizes
        assert result.density == pytest.approx(alone.density, abs=1e-5)


def test_memory_errors_keep_no_arrays(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input that does not fit is told of without the frames that held its batch."""

    def fails(*_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")

    monkeypatch.setattr(masked, "evaluate_batch", fails)
    case = Case(Source("l1"), Condition())
    driver = Driver(tiny, Ask((case.source,), (case,), SIZES))
    (batch,) = driver.batches({0: Input(np.arange(60, dtype=np.int32))})
    assert isinstance(batch[0], Invalid)
    error = batch[0].error
    assert error is not None
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


def test_predictions_that_are_not_finite_are_said_to_be(tiny: Model, tokens: np.ndarray) -> None:
    """A masked pass can overflow where the clean one did not: its row is NaN, and the input is not valid."""
    params = tiny_params()
    params["head"] = params["head"].at[0, 0].set(jnp.inf)
    broken = Model(Decoder(TINY, params))
    trace = jstrace.trace(broken, tokens, sizes=SIZES)
    assert not jstrace.evaluate(broken, trace).valid


def test_a_forward_pass_that_is_not_finite(tokens: np.ndarray) -> None:
    params = tiny_params()
    params["layers"]["up"] = params["layers"]["up"].at[1].set(jnp.inf)
    with pytest.raises(InputError, match="layer 1"):
        jstrace.trace(Model(Decoder(TINY, params)), tokens, sizes=SIZES)


@pytest.mark.real
def test_real_model(real: Model) -> None:
    """The capital of France, traced: counts, nesting, and a curve that ends at the model's own prediction."""
    trace = jstrace.trace(real, "The capital of France is")
    assert trace.n_edges == full_graph.n_edges(real.config, 5) == 4398
    assert trace.counts.tolist() == [int(size * 4398) for size in jstrace.SIZES]
    expected = oracle.strata(trace.scores, jstrace.SIZES)
    for name, leaf in trace.strata.items():
        np.testing.assert_array_equal(leaf, getattr(expected, name), err_msg=name)
    result = jstrace.evaluate(real, trace)
    assert real.tokenizer is not None
    assert real.tokenizer.token(int(result.full_tokens[0])) == " Paris"
    assert result.tv[-1] == 0
    assert result.tv[0] > 0.9
    assert result.tv[-2] < 0.05
    looser = jstrace.evaluate(real, trace, ablate="residual+mlp")
    assert 0 < looser.density < result.density < 5


@pytest.mark.real
def test_real_model_in_bfloat16() -> None:
    model = jstrace.load("smollm2", dtype="bfloat16")
    result = jstrace.evaluate(model, jstrace.trace(model, "The capital of France is"))
    assert model.tokenizer is not None
    assert model.tokenizer.token(int(result.full_tokens[0])) == " Paris"


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_as_a_graph(family: str) -> None:
    """Every edge once, and every node of a best-first trace reaches the output."""
    networkx = pytest.importorskip("networkx")
    config = family_config(family)
    trace = jstrace.trace(Model(Decoder(config, tiny_params(config))), np.arange(7), sizes=SIZES)
    for k in range(3):
        graph = trace.to_networkx(k)
        assert graph.number_of_edges() == len(trace.edges(k))
        output = ((1 if config.parallel else 2) * config.n_layers, 6)
        assert max(graph) == output
        assert graph.nodes[output] == {"token": "6", "position": 6}
        assert len(networkx.ancestors(graph, output)) + 1 == len(graph)
    found = sorted(
        (data["kind"], data["layer"], data["score"]) for *_, data in trace.to_networkx(size=0.3).edges(data=True)
    )
    assert found == sorted((edge.kind, edge.layer, edge.score) for edge in trace.edges(size=0.3))
