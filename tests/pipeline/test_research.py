"""What researchers bring: scores, masks and importances of their own, long lists, and results as records."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method import graph
from jstrace.method.scores import Norm
from jstrace.models import Decoder, EdgeTree, InputError, Model, slots
from jstrace.pipeline import inputs, own_masks, searching, stages
from tests import oracle
from tests.conftest import TINY, family_config, tiny_params

SIZES = (0.01, 0.05, 0.1, 0.3, 0.6, 0.9)


@pytest.fixture
def trace(tiny: Model, tokens: np.ndarray) -> jstrace.Trace:
    return jstrace.trace(tiny, tokens, sizes=SIZES)


# --- own scores -----------------------------------------------------------------------------------------------------


def signed_scores(n_tokens: int, seed: int = 0) -> EdgeTree:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda slot: rng.normal(size=slot.shape).astype(np.float32), tiny_slots(n_tokens))


def tiny_slots(n_tokens: int) -> EdgeTree:
    return graph.edge_slots(TINY, n_tokens, n_tokens)


def test_traces_of_own_scores(tiny: Model, tokens: np.ndarray, tmp_path: Any) -> None:
    """Of either sign; they evaluate, compose, save and list their edges like any other."""
    scores = signed_scores(len(tokens))
    found = jstrace.Trace.from_scores(tiny, tokens, scores, sizes=SIZES)
    flat = np.concatenate([np.ravel(leaf) for _, leaf in scores.items()])
    order = np.sort(flat)
    ranks = jax.tree.map(
        lambda leaf, slot: np.where(slot, np.searchsorted(order, leaf), -1), scores, tiny_slots(len(tokens))
    )
    chex.assert_trees_all_equal(found.strata, oracle.strata(ranks, SIZES))
    result = jstrace.evaluate(tiny, found)
    assert result.valid
    assert result.tv[-1] == 0
    assert found.composition().edges.tolist() == [*found.counts.tolist(), found.n_edges]
    found.save(tmp_path / "own.npz")
    assert jstrace.Trace.load(tmp_path / "own.npz") == found
    assert len(found.first_edges(10)) == 10
    assert found.first_edges(3) == found.first_edges(np.int64(3))
    first = jstrace.Trace.from_scores(tiny, tokens, scores, sizes=SIZES, frozen=("attention",), importance="mine")
    assert first.importance == "mine"
    assert first.frozen == ("attention",)
    attn = np.cumsum(np.bincount(first.strata.attn.ravel(), minlength=256))[: len(SIZES)]
    assert (attn >= np.cumsum(np.bincount(found.strata.attn.ravel(), minlength=256))[: len(SIZES)]).all()


def test_own_scores_equal_the_trace_they_come_from(tiny: Model, trace: jstrace.Trace) -> None:
    again = jstrace.Trace.from_scores(tiny, trace.tokens, trace.scores, sizes=SIZES, importance="l1")
    assert again == trace


def test_own_scores_that_make_no_sense(tiny: Model, tokens: np.ndarray) -> None:
    make = jstrace.Trace.from_scores
    good = signed_scores(len(tokens))
    for wrong, message in (
        (dataclasses.replace(good, mlp=good.mlp * np.nan), "mlp hold NaN"),
        (signed_scores(3), "expected floats of"),
        (jax.tree.map(lambda leaf: leaf.astype(np.complex64), good), "complex64"),
    ):
        with pytest.raises(InputError, match=message):
            make(tiny, tokens, wrong, sizes=SIZES)
    with pytest.raises(InputError, match="one input"):
        inspect.unwrap(make)(tiny, [tokens, tokens], good, sizes=SIZES)
    with pytest.raises(InputError, match="dict, expected an EdgeTree"):
        inspect.unwrap(searching.checked_scores)({}, TINY, 3)
    for count in (-1, 1.5, float("nan"), True):
        with pytest.raises(InputError, match="expected a number of edges"):
            inspect.unwrap(jstrace.Trace.first_edges)(make(tiny, tokens, good, sizes=SIZES), count)


@dataclasses.dataclass(frozen=True)
class Scaled:
    """L1 shares to a power, or plain negative norms: an importance of one's own."""

    power: float = 1.0
    shares: bool = True
    sign: float = 1.0
    name: str = "scaled"

    def vector(self, edge: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(1).vector(edge, node) ** self.power

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> jax.Array:
        return self.sign * Norm(1).attention(probs, values, node) ** self.power


def test_importance_of_ones_own(tiny: Model, tokens: np.ndarray, trace: jstrace.Trace) -> None:
    """An own L1 is L1; negative scores turn its order around, and no edge is lost to the sign."""
    own = jstrace.trace(tiny, tokens, sizes=SIZES, importance=Scaled())
    assert own == dataclasses.replace(trace, importance="scaled")
    plain = jstrace.trace(tiny, tokens, sizes=SIZES, importance=Scaled(shares=False))
    turned = jstrace.trace(tiny, tokens, sizes=SIZES, importance=Scaled(shares=False, sign=-1.0))
    assert turned.composition().edges[-1] == trace.n_edges
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf, stratum: np.where(stratum == 255, 0, -leaf), turned.scores, turned.strata),
        jax.tree.map(lambda leaf, stratum: np.where(stratum == 255, 0, leaf), plain.scores, plain.strata),
        rtol=1e-6,
    )
    first = jstrace.trace(tiny, tokens, sizes=SIZES, importance=Scaled(shares=False, sign=-1.0), frozen=("mlp",))
    again = jstrace.Trace.from_scores(tiny, tokens, turned.scores, sizes=SIZES, frozen=("mlp",))
    chex.assert_trees_all_equal(first.strata, again.strata)


@pytest.mark.parametrize("wrong", [Scaled, 5, None, lambda e, n: e])
def test_importance_that_is_none(tiny: Model, tokens: np.ndarray, wrong: Any) -> None:
    with pytest.raises(InputError, match="l1, l2, ifr, cosine, random"):
        inspect.unwrap(jstrace.trace)(tiny, tokens, importance=wrong)


def test_importance_that_has_no_hash(tiny: Model, tokens: np.ndarray) -> None:
    class Loose(Scaled):
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(InputError, match="frozen dataclass"):
        jstrace.trace(tiny, tokens, importance=Loose())


def test_importance_that_could_change_unseen(tiny: Model, tokens: np.ndarray) -> None:
    """A program is compiled for it, and would give the old scores after an attribute changed."""

    class Changing:
        def __init__(self) -> None:
            self.power = 1.0

        vector, attention = Scaled.vector, Scaled.attention

    with pytest.raises(InputError, match="compares by identity"):
        jstrace.trace(tiny, tokens, importance=Changing())
    with pytest.raises(InputError, match="letters, digits and any of"):
        jstrace.trace(tiny, tokens, importance=Scaled(name="my score"))


def test_strata_and_masks_are_no_scores(tiny: Model, trace: jstrace.Trace) -> None:
    for wrong in (trace.strata, trace.mask(2)):
        with pytest.raises(InputError, match="expected floats"):
            jstrace.Trace.from_scores(tiny, trace.tokens, wrong, sizes=SIZES)


def test_random_scores_are_the_same_under_every_generator(tiny: Model, tokens: np.ndarray) -> None:
    plain = jstrace.trace(tiny, tokens, sizes=SIZES, importance="random", seed=3)
    with jax.default_prng_impl("rbg"):
        assert jstrace.trace(tiny, tokens, sizes=SIZES, importance="random", seed=3) == plain


def test_own_scores_use_the_program_of_traces(tiny: Model, trace: jstrace.Trace) -> None:
    """Nothing is compiled again for what is the same work."""
    before = stages.extract_program._cache_size()
    jstrace.Trace.from_scores(tiny, trace.tokens, trace.scores, sizes=SIZES)
    assert stages.extract_program._cache_size() <= before + 1  # a mesh of one device is no mesh
    trace.first_edges(3)
    assert stages.extract_program._cache_size() <= before + 1


# --- own masks ------------------------------------------------------------------------------------------------------


def test_masks_of_a_trace_give_its_evaluation(tiny: Model, trace: jstrace.Trace) -> None:
    """A trace's masks, one by one or in any order, give its own measures; more of them than one call takes, too."""
    expected = jstrace.evaluate(tiny, trace, next_token=5)
    masks = trace.masks()
    order = np.asarray([4, 0, 6, 2] * 9)
    shuffled = jax.tree.map(lambda leaf: leaf[order], masks)
    got = jstrace.evaluate(tiny, trace.tokens, masks=shuffled, next_token=5)
    assert got.density is None
    for name in ("tv", "kl", "entropy", "surprisal"):
        want = getattr(expected, name)
        np.testing.assert_allclose(getattr(got, name), want[[*order, -1]], atol=2e-5, err_msg=name)
    assert got.sizes == tuple(np.asarray(masks_sizes(masks))[order])
    one = jstrace.evaluate(tiny, trace, masks=trace.mask(3))
    assert len(one.tv) == 2
    assert one.tv[0] == pytest.approx(expected.tv[3], abs=2e-5)
    for options in ({"ablate": "residual+mlp"}, {"pre_softmax": True}):
        whole = jstrace.evaluate(tiny, trace, **options)
        alike = jstrace.evaluate(tiny, trace, masks=masks, **options)
        np.testing.assert_allclose(alike.tv[:-1], whole.tv, atol=2e-5, err_msg=str(options))


def masks_sizes(masks: EdgeTree) -> list[float]:
    counts = masks.count()
    return (counts / counts[-1]).tolist()


def test_soft_masks(tiny: Model, trace: jstrace.Trace) -> None:
    """They equal the model called with them."""
    soft = jax.tree.map(lambda leaf: np.where(leaf, np.float32(1.0), np.float32(0.5)), trace.mask(3))
    got = jstrace.evaluate(tiny, trace.tokens, masks=soft)
    full = jax.nn.softmax(tiny(trace.tokens, tiny.full_mask(len(trace.tokens))))
    one = jax.nn.softmax(tiny(trace.tokens, soft))
    assert got.tv[0] == pytest.approx(0.5 * float(jnp.abs(one - full).sum()), abs=1e-5)


def test_masks_that_make_no_sense(tiny: Model, trace: jstrace.Trace) -> None:
    good, check = trace.masks(), inspect.unwrap(own_masks.checked_masks)
    n_tokens = len(trace.tokens)
    for wrong, message in (
        ({}, "dict, expected an EdgeTree"),
        (trace.strata, "uint8, expected bool or float"),
        (jax.tree.map(lambda leaf: leaf * np.float32(2), good), "outside"),
        (jax.tree.map(lambda leaf: leaf * np.float32(np.nan), good), "outside"),
        (jax.tree.map(lambda leaf: leaf[:0], good), "a mask or more"),
        (dataclasses.replace(good, mlp=good.mlp[:2]), "as many"),
        (dataclasses.replace(good, mlp=good.mlp[:, :, :3]), "expected"),
    ):
        with pytest.raises(InputError, match=message):
            check(tiny, wrong, n_tokens)
    with pytest.raises(InputError, match="invert the masks"):
        jstrace.evaluate(tiny, trace, masks=good, inverse=True)
    with pytest.raises(InputError, match="one input"):
        inspect.unwrap(jstrace.evaluate)(tiny, [[1, 2], [3, 4]], masks=good)


def test_masks_of_another_models_trace(tiny: Model, trace: jstrace.Trace) -> None:
    stranger = Model(Decoder(TINY, tiny_params(seed=7)))
    with pytest.raises(InputError, match="was made with model"):
        jstrace.evaluate(stranger, trace, masks=trace.masks())
    with pytest.raises(InputError, match="on_invalid and progress"):
        jstrace.evaluate(tiny, trace, masks=trace.masks(), on_invalid="keep")  # type: ignore[call-overload]


def test_few_programs_serve_any_number_of_masks(tiny: Model, trace: jstrace.Trace) -> None:
    program = own_masks.predicted_and_compared
    before = program._cache_size()
    for count in range(1, 12):
        jstrace.evaluate(tiny, trace, masks=jax.tree.map(lambda leaf, n=count: leaf[np.arange(n) % 7], trace.masks()))
    assert program._cache_size() - before <= 5


def test_short_memory_makes_fewer_masks_a_call(
    tiny: Model, trace: jstrace.Trace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = jstrace.evaluate(tiny, trace, masks=trace.masks())
    monkeypatch.setattr(own_masks.memory, "free_bytes", lambda _: 10**5)
    assert own_masks._most_rows(tiny, 8) < 5
    few = jstrace.evaluate(tiny, trace, masks=trace.masks())
    np.testing.assert_allclose(few.tv, whole.tv, atol=1e-6)


def test_full_and_empty_masks_and_masks_of_edges(tiny: Model, trace: jstrace.Trace) -> None:
    n_tokens = len(trace.tokens)
    chex.assert_trees_all_equal(tiny.full_mask(n_tokens), trace.mask(len(SIZES)))
    assert tiny.empty_mask(n_tokens).count() == 0
    chex.assert_trees_all_equal(tiny.mask_of(trace.edges(3), n_tokens), trace.mask(3))
    chex.assert_trees_all_equal(tiny.mask_of([], n_tokens), tiny.empty_mask(n_tokens))
    inside = jax.jit(lambda m, t: m(t, m.full_mask(t.size)))(tiny, jnp.asarray(trace.tokens))
    np.testing.assert_allclose(inside, tiny(trace.tokens, trace.mask(len(SIZES))), atol=1e-5)
    mask = tiny.full_mask(n_tokens)
    mask.attn[:] = False  # one's own to write to
    edge = trace.edges(3)[0]
    for wrong in (
        dataclasses.replace(edge, kind="heads"),
        dataclasses.replace(edge, layer=99),
        dataclasses.replace(edge, layer=-1),
        jstrace.Edge("attn", 0, 0, source=3, target=1, score=0.0, stratum=0),  # it would look ahead
        jstrace.Edge("attn", 0, None, source=1, target=3, score=0.0, stratum=0),
        (1, 2),
    ):
        with pytest.raises(InputError, match="is no edge"):
            inspect.unwrap(slots.mask_of)(TINY, [wrong], n_tokens)
    for wrong_number in (0, -1, 2.0, True, "5"):
        with pytest.raises(InputError, match="n_tokens"):
            inspect.unwrap(slots.full_mask)(TINY, wrong_number)
    parallel = family_config("gpt_neox")
    model = Model(Decoder(parallel, tiny_params(parallel)))
    assert not model.full_mask(4).residual_mlp.any(), "no edge of parallel blocks"


def test_masks_as_sets(trace: jstrace.Trace) -> None:
    small, large = trace.mask(2), trace.mask(4)
    assert small.count() == trace.counts[2]
    assert (small | large).count() == large.count()
    assert (small & large).count() == small.count()
    assert (large - small).count() == large.count() - small.count()
    assert small.overlap(large) == pytest.approx(trace.counts[2] / trace.counts[4])
    empty = small - small
    assert empty.overlap(empty) == 1
    np.testing.assert_array_equal(trace.masks().count()[: len(SIZES)], trace.counts)
    assert jax.jit(lambda a, b: a.overlap(b))(small, large) == pytest.approx(float(small.overlap(large)))
    with pytest.raises(InputError, match="expected bool"):
        small.union(trace.strata)
    with pytest.raises(InputError, match="different graphs"):
        small.union(EdgeTree(**{kind: leaf[..., :1] for kind, leaf in small.items()}))
    with pytest.raises(InputError, match="expected an EdgeTree"):
        small.overlap({})  # type: ignore[arg-type]


# --- long lists, and inputs that are none ---------------------------------------------------------------------------


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
    with pytest.raises(InputError, match=r"trace 1: input 1: no tokens"):
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


# --- records --------------------------------------------------------------------------------------------------------


def test_records_compare_and_are_readable(tiny: Model, tokens: np.ndarray, trace: jstrace.Trace) -> None:
    assert trace == jstrace.trace(tiny, tokens, sizes=SIZES)
    assert trace != jstrace.trace(tiny, tokens, sizes=SIZES, importance="l2")
    assert trace != 5
    one, other = (jstrace.evaluate(tiny, trace, ablate=ablate) for ablate in ("all", "residual+mlp"))
    assert one == jstrace.evaluate(tiny, trace)
    assert one != other
    assert repr(one).startswith("Evaluation(6 sizes and the full graph, ablate 'all', density ")
    assert len(repr(one)) < 120
    assert one.row_sizes.tolist() == [*SIZES, 1.0]
    assert len(one.row_sizes) == len(one.tv)


def test_a_trace_holds_no_larger_batch(tiny: Model) -> None:
    """Its arrays are its own where a view would keep a whole batch alive."""
    traces = jstrace.trace(tiny, [[1, 2], [3, 4], [5, 6]], sizes=SIZES)
    for leaf in (traces[0].strata.attn, traces[0].scores.attn):
        assert leaf.base is None or leaf.base.nbytes < 2 * leaf.nbytes


def test_edges_as_columns(trace: jstrace.Trace) -> None:
    edges = trace.edges(4)
    assert len(edges) == trace.counts[4]
    assert (np.diff(edges.score) <= 0).all()
    for index in (0, 5, -1):
        edge = edges[index]
        place = (edge.layer, edge.head, edge.target, edge.source) if edge.kind == "attn" else (edge.layer, edge.target)
        assert getattr(trace.scores, edge.kind)[place] == np.float32(edge.score)
        assert getattr(trace.strata, edge.kind)[place] == edge.stratum <= 4
        assert (edge.head is None) == (edge.kind != "attn")
    assert list(edges)[3] == edges[3]
    attn = edges[edges.kind == "attn"]
    assert {edge.kind for edge in attn} == {"attn"}
    assert edges[:2] == edges[np.asarray([0, 1])] == [edges[0], edges[1]]
    assert edges[:2] != edges[1:3]
    assert "attn" in repr(edges)
    frame = edges.to_pandas()
    assert list(frame.columns) == ["kind", "layer", "head", "source", "target", "score", "stratum"]
    assert len(frame) == len(edges)


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


# --- what a careless hand brought -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Careless(Scaled):
    """An importance that forgets an axis, or gives other numbers than floats."""

    damage: str = ""

    def vector(self, edge: jax.Array, node: jax.Array) -> Any:
        found = super().vector(edge, node)
        return {"token": found[:1], "none": None, "complex": found * 1j, "bools": found > 1}.get(self.damage, found)

    def attention(self, probs: jax.Array, values: jax.Array, node: jax.Array) -> Any:
        found = super().attention(probs, values, node)
        return {"heads": found[:1], "source": found[:, :, :1]}.get(self.damage, found)


@pytest.mark.parametrize("damage", ["token", "none", "complex", "bools", "heads", "source"])
def test_importances_of_other_shapes_and_numbers(tiny: Model, tokens: np.ndarray, damage: str) -> None:
    """Broadcasting would give every head, source or token the same score."""
    method = "attention" if damage in ("heads", "source") else "vector"
    with pytest.raises(InputError, match=f"importance scaled: {method} gave"):
        jstrace.trace(tiny, tokens, importance=Careless(damage=damage))


def test_edges_that_are_none(tiny: Model, trace: jstrace.Trace) -> None:
    n_tokens, edges = len(trace.tokens), trace.edges(4)
    headed = dataclasses.replace(edges, head=np.zeros_like(edges.head))
    for wrong in (dataclasses.replace(edges, kind=np.full(len(edges), "attention", object)), headed):
        with pytest.raises(InputError, match="is no edge"):
            tiny.mask_of(wrong, n_tokens)
    for nothing in (edges[0], None, 5):
        with pytest.raises(InputError, match="expected edges"):
            inspect.unwrap(slots.mask_of)(TINY, nothing, n_tokens)
    with pytest.raises(InputError, match="is no edge"):
        tiny.mask_of(edges.to_pandas(), n_tokens)
    for index in (True, None, np.array([[0, 1]])):
        with pytest.raises(TypeError, match="edges are indexed by"):
            edges[index]
    for k in (True, False):
        with pytest.raises(InputError, match="an index is an integer"):
            inspect.unwrap(jstrace.Trace.edges)(trace, k)
