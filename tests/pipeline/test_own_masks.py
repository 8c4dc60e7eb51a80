"""Masks of one's own: hard and soft, of traces and of edges, and as sets."""

from __future__ import annotations

import dataclasses
import inspect
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, EdgeTree, InputError, Model, slots
from jstrace.pipeline import own_masks
from tests.conftest import TINY, family_config, tiny_params
from tests.pipeline.conftest import SIZES


def test_masks_of_a_trace_give_its_evaluation(tiny: Model, trace: jstrace.Trace) -> None:
    """A trace's masks, one by one or in any order, give its own measures; more of them than one call takes, too."""
    expected = jstrace.evaluate(tiny, trace, next_token=5)
    masks = trace.masks()
    order = np.asarray([3, 0, 4, 2] * 9)
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


@pytest.mark.parametrize("dtype", ["bool", "float32", "float64"])
def test_masks_are_not_copied(tiny: Model, trace: jstrace.Trace, dtype: str) -> None:
    """Beside those that are given the host holds a call's, whatever their number; half precision is taken, too."""
    some = jax.tree.map(lambda leaf: leaf[np.arange(_MANY) % 5].astype(dtype), trace.masks())
    given = sum(leaf.nbytes for _, leaf in some.items())
    few = jax.tree.map(lambda leaf: leaf[:5].astype("float16"), some)
    expected = jstrace.evaluate(tiny, trace, masks=few)
    jstrace.evaluate(tiny, trace, masks=jax.tree.map(lambda leaf: leaf[:26], some))  # compiles
    tracemalloc.start()
    got = jstrace.evaluate(tiny, trace, masks=some)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < given / 2, (peak, given)
    np.testing.assert_allclose(got.tv[:5], expected.tv[:5], atol=1e-6)
    assert got.sizes == expected.sizes * (_MANY // 5)


_MANY = 1400


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
        jstrace.evaluate(tiny, trace, masks=jax.tree.map(lambda leaf, n=count: leaf[np.arange(n) % 5], trace.masks()))
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
    small, large = trace.mask(2), trace.mask(3)
    assert small.count() == trace.counts[2]
    assert (small | large).count() == large.count()
    assert (small & large).count() == small.count()
    assert (large - small).count() == large.count() - small.count()
    assert small.overlap(large) == pytest.approx(trace.counts[2] / trace.counts[3])
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
