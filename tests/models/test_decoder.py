"""The decoder against transformers and against the literal oracle, in float32."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jstrace
from jstrace.method.scores.measured import Norm
from jstrace.models import (
    Decoder,
    EdgeTree,
    InputError,
    Model,
    Replacement,
    clean_forward,
    every_row,
    live_rows,
    masked_forward,
)
from jstrace.models.platforms import PLATFORMS
from jstrace.models.rows import BLOCKS, capacities, gathered, in_blocks, in_capacity, in_turns
from tests import oracle
from tests.conftest import KINDS, SHAPES, TINY, family_config, tiny_params

SHAPES_OF_STATES = {"attn_input": (16,), "values": (2, 6), "mlp_input": (16,), "mlp_output": (16,)}

call = jax.jit(Model.__call__, static_argnames="pre_softmax")
"""The model, compiled once a shape."""
padded = jax.jit(masked_forward, static_argnames="pre_softmax")


@functools.partial(jax.jit, static_argnames="skip")
def over_masks(model: Model, tokens: jax.Array, masks: EdgeTree, *, skip: bool) -> jax.Array:
    row_map = live_rows if skip else every_row
    return jax.vmap(lambda mask: masked_forward(model.decoder, tokens, mask, row_map=row_map))(masks)


def ones(config: jstrace.ModelConfig, n_tokens: int) -> EdgeTree:
    rows = jnp.ones((config.n_layers, n_tokens), bool)
    return EdgeTree(rows, jnp.ones((config.n_layers, config.n_heads, n_tokens, n_tokens), bool), rows, rows)


def random_mask(n_tokens: int, rng: np.random.Generator, *, soft: bool, share: float = 0.5) -> EdgeTree:
    def draw(shape: tuple[int, ...]) -> jax.Array:
        keep = rng.random(shape) < share
        return jnp.asarray(keep * rng.random(shape).astype(np.float32) if soft else keep)

    rows = (TINY.n_layers, n_tokens)
    return EdgeTree(draw(rows), draw((TINY.n_layers, TINY.n_heads, n_tokens, n_tokens)), draw(rows), draw(rows))


@given(seed=st.integers(0, 2**31), soft=st.booleans(), pre=st.booleans(), share=st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=30, deadline=None)
def test_masked_forward_equals_the_oracle(tiny: Model, seed: int, soft: bool, pre: bool, share: float) -> None:
    """Of one to five tokens; those beyond them are padding, so that one program serves them all."""
    rng = np.random.default_rng(seed)
    n_tokens = int(rng.integers(1, 6))
    tokens = rng.integers(0, TINY.vocab_size, 5)
    mask = random_mask(5, rng, soft=soft, share=share)
    own = EdgeTree(
        *(leaf[..., :n_tokens, :n_tokens] if leaf.ndim == 4 else leaf[..., :n_tokens] for _, leaf in mask.items())
    )
    expected = oracle.Literal(TINY, tiny_params(), tokens[:n_tokens]).masked(own, pre_softmax=pre)
    got = padded(tiny.decoder, jnp.asarray(tokens), mask, length=jnp.asarray(n_tokens), pre_softmax=pre)
    np.testing.assert_allclose(got, expected, atol=2e-4 * max(1, np.abs(expected).max()))


@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.0, 0.05, 0.3, 1.0]))
@settings(max_examples=15, deadline=None)
def test_live_rows_change_nothing(tiny: Model, seed: int, share: float) -> None:
    """Skipping dead rows equals computing them, over a vmapped axis of masks."""
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(0, TINY.vocab_size, 5))
    masks = [random_mask(5, rng, soft=False, share=share * k / 3) for k in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    dense, skipping = (over_masks(tiny, tokens, stacked, skip=skip) for skip in (False, True))
    np.testing.assert_allclose(skipping, dense, atol=1e-4)


def test_capacities_hold_every_count() -> None:
    for n_rows in (1, 2, 7, 16, 1350):
        assert capacities(n_rows)[-1] == n_rows
        assert list(capacities(n_rows)) == sorted(set(capacities(n_rows)))
    assert capacities(1024) == tuple(32 * share for share in (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32))


@pytest.mark.parametrize("form", [in_blocks, in_capacity, in_turns])
def test_every_count_of_live_rows(form: Callable[..., Any]) -> None:
    """Live rows get their own results, dead ones zeros or theirs: counts at every edge of a block and of a buffer."""
    n_rows = 2 * BLOCKS[0] + 88
    weights, x = jnp.float32(3), jnp.arange(1.0, n_rows + 1)
    order = np.random.default_rng(0).permutation(n_rows)
    applied = jax.jit(functools.partial(form, lambda w, x: {"y": x * w, "two": jnp.stack([x, -x], axis=1)}))
    near = (edge + more for edge in (*BLOCKS, 320, 512, 576, *capacities(n_rows)) for more in (-1, 0, 1))
    for count in sorted({0, 1, n_rows, *(n for n in near if n <= n_rows)}):
        live = np.isin(np.arange(n_rows), order[:count])
        got = applied(weights, x, jnp.asarray(live))
        np.testing.assert_array_equal(np.asarray(got["y"])[live], np.asarray(3 * x)[live])
        np.testing.assert_array_equal(np.asarray(got["two"])[live], np.stack([x, -x], axis=1)[live])
        assert count == n_rows or np.isin(np.asarray(got["y"])[~live], [0, *np.asarray(3 * x)[~live]]).all()


def test_platforms_have_forms_of_their_own() -> None:
    assert [gathered(name) for name in PLATFORMS] == [in_blocks, in_capacity, in_turns]
    assert gathered(None) is gathered(jax.default_backend())
    with pytest.raises(InputError, match="platform 'npu', expected one of cpu, gpu, tpu"):
        gathered("npu")


@pytest.mark.parametrize("n_rows", [3, 256, 5000])
def test_turns_of_every_length(n_rows: int) -> None:
    """Fewer rows than a turn has, as many, and turns of the larger size; several results, in half precision too."""
    live = np.random.default_rng(n_rows).random(n_rows) < 0.4
    x = jnp.arange(n_rows, dtype=jnp.bfloat16)[:, None] * jnp.ones(3, jnp.bfloat16)
    for some in (live, live & False, live | True):
        got, (same,) = jax.jit(functools.partial(in_turns, lambda w, x: (x + w, (x,))))(jnp.bfloat16(1), x, some)
        np.testing.assert_array_equal(got, jnp.where(some[:, None], x + 1, 0))
        np.testing.assert_array_equal(same, jnp.where(some[:, None], x, 0))


def test_programs_have_few_bodies_of_a_row_function() -> None:
    """Two, whatever the number of rows: a dozen took most of the first call's time."""

    def function(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    w, x, live = jnp.ones((7, 24)), jnp.ones((3, 432, 7)), jnp.ones((3, 432), bool)
    over_rows = jax.jit(jax.vmap(functools.partial(live_rows, function), in_axes=(None, 0, 0)))
    compiled = over_rows.lower(w, x, live).compile().as_text()
    assert compiled is not None
    assert len(re.findall(r" = \S+ tanh\(", compiled)) == len(BLOCKS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_of_rows_copy_no_weights(tiny: Model, dtype: str) -> None:
    """In the loops over blocks nothing but blocks is computed, and the buffer that each is written into."""
    tiny = jax.tree.map(lambda leaf: leaf.astype(dtype), tiny)
    n_masks, n_tokens = 60, 5
    masks = [random_mask(n_tokens, np.random.default_rng(k), soft=False) for k in range(n_masks)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    lowered = over_masks.lower(tiny, jnp.arange(n_tokens), stacked, skip=True)
    compiled = lowered.compile({"xla_cpu_use_fusion_emitters": True}).as_text()  # as everywhere but in tests
    assert compiled is not None
    parts = {part.strip().split(" ")[0]: part for part in compiled.split("\n\n")}
    bodies = [parts[name] for name in re.findall(r" while\(.*body=(%[\w.-]+)", compiled)]
    blocks = [body for body in bodies if " while(" not in body]  # not the loop over layers
    assert len(blocks) == 3 * len(BLOCKS)
    for body in blocks:
        rows = re.findall(r"(\w+)\S* = b?f\d+\[(\d+)[\d,]*\]\S* (?:fusion|copy|transpose|convert)\(", body)
        assert {int(n) for name, n in rows if "scatter" in name} == {n_masks * n_tokens}
        assert {int(n) for name, n in rows if "scatter" not in name} <= {*BLOCKS}


def test_no_edge_gives_the_zero_state(tiny: Model, tokens: np.ndarray) -> None:
    nothing = jax.tree.map(jnp.zeros_like, ones(TINY, len(tokens)))
    np.testing.assert_array_equal(tiny(jnp.asarray(tokens), nothing), np.zeros(TINY.vocab_size))


@pytest.mark.parametrize(
    ("family", "pre_softmax"),
    [
        *((family, False) for family in ("llama", "mistral", *KINDS)),
        *((family, True) for family in ("mistral", "bloom", "gpt_oss", *SHAPES)),
    ],
)
def test_attention_by_queries(family: str, pre_softmax: bool) -> None:
    """A few queries at a time, the last of which may be none, give what all give at once; windows, too.

    Hard masks, and one query, all of them or more at a time, where attention is whole and where it has a window.
    """
    config, rng, n_tokens = family_config(family), np.random.default_rng(3), 7
    decoder, tokens = Decoder(config, tiny_params(config)), jnp.asarray(rng.integers(0, config.vocab_size, n_tokens))
    forward = jax.jit(masked_forward, static_argnames=("pre_softmax", "n_queries"))
    asked = {True: (3,)}
    if family in ("llama", "mistral"):
        asked = {True: (1, 3, 7, 100), False: (3,)}
    for soft, at_once in asked.items():
        mask = random_mask(n_tokens, rng, soft=soft)
        expected = forward(decoder, tokens, mask, pre_softmax=pre_softmax)
        for n_queries in at_once:
            got = forward(decoder, tokens, mask, pre_softmax=pre_softmax, n_queries=n_queries)
            np.testing.assert_allclose(got, expected, atol=1e-4 * max(1, np.abs(expected).max()))


ROW_MAPS = [every_row, *(functools.partial(live_rows, platform=platform) for platform in PLATFORMS)]


def overflowing(dtype: str, *, embed: float, down: float) -> Decoder:
    """Its states and its MLP's edges overflow float16, the larger the factors."""
    params = tiny_params()
    layers = params["layers"] | {"down": params["layers"]["down"] * down}
    weights = params | {"embed": params["embed"] * embed, "layers": layers}
    return Decoder(TINY, jax.tree.map(lambda leaf: leaf.astype(dtype), weights))


def test_gradients_through_attention_by_queries(tiny: Model, tokens: np.ndarray) -> None:
    """What fills the last queries is no part of them: a softmax over nothing would be NaN, times zero NaN, too."""
    mask = random_mask(len(tokens), np.random.default_rng(4), soft=True)

    def logit(mask: EdgeTree, n_queries: int | None) -> jax.Array:
        return masked_forward(tiny.decoder, jnp.asarray(tokens), mask, n_queries=n_queries)[3]

    whole, parts = (jax.jit(jax.grad(logit), static_argnums=1)(mask, n_queries) for n_queries in (None, 3))
    chex.assert_trees_all_close(parts, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
def test_ablated_edges_need_not_be_finite(tokens: np.ndarray, soft: bool) -> None:
    """One answer on all platforms: that of float32, which holds the vectors of the edges that are left out."""
    mask = random_mask(len(tokens), np.random.default_rng(1), soft=False, share=0.6)
    mask = dataclasses.replace(mask, mlp=jnp.zeros_like(mask.mlp))
    mask = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), mask) if soft else mask
    decoders = [overflowing(dtype, embed=1, down=1e5) for dtype in ("float32", "float16")]
    other = Replacement(**{name: jnp.ones((TINY.n_layers, 2, *shape)) for name, shape in SHAPES_OF_STATES.items()})
    for replace in (None, other):
        for pre in (False, True) if replace is None else (False,):
            how: dict[str, Any] = {"replace": replace, "pre_softmax": pre}
            expected = masked_forward(decoders[0], jnp.asarray(tokens), mask, **how)
            for row_map in ROW_MAPS:
                got = masked_forward(decoders[1], jnp.asarray(tokens), mask, row_map=row_map, **how)
                np.testing.assert_allclose(got, expected, atol=0.02 * float(jnp.abs(expected).max()))


def test_states_that_nobody_reads_need_not_be_finite(tokens: np.ndarray) -> None:
    """Embeddings that are infinite; all edges of the first layer but its MLP's at other tokens are left out."""
    mask = random_mask(len(tokens), np.random.default_rng(2), soft=False, share=0.6)
    mask = jax.tree.map(lambda leaf: leaf.at[0].set(False), mask)
    decoders = [overflowing(dtype, embed=1e6, down=1) for dtype in ("float32", "float16")]
    assert not np.isfinite(decoders[1].embed[...]).all()
    expected = masked_forward(decoders[0], jnp.asarray(tokens), mask)
    for row_map in ROW_MAPS:
        got = masked_forward(decoders[1], jnp.asarray(tokens), mask, row_map=row_map)
        np.testing.assert_allclose(got, expected, atol=0.02 * max(1, float(jnp.abs(expected).max())))


def test_values_that_nobody_reads_need_not_be_finite(tokens: np.ndarray) -> None:
    """Those of a token overflow, and all edges from it are left out, but not those into it."""
    config = family_config("olmo2")
    params = tiny_params(config)
    params["embed"] = params["embed"].at[tokens[3]].mul(3e2)
    params["layers"]["v"] = params["layers"]["v"] * 3e3
    full = Model(Decoder(config, params)).full_mask(len(tokens))
    mask = jax.tree.map(jnp.asarray, full)
    mask = dataclasses.replace(mask, attn=mask.attn.at[..., 3].set(False))
    wide, half = Decoder(config, params), Decoder(config, jax.tree.map(lambda leaf: leaf.astype("float16"), params))
    expected = masked_forward(wide, jnp.asarray(tokens), mask)
    assert not np.isfinite(masked_forward(half, jnp.asarray(tokens), jax.tree.map(jnp.asarray, full))).all()
    got = masked_forward(half, jnp.asarray(tokens), mask)
    np.testing.assert_allclose(got, expected, atol=0.05 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("pre", [False, True])
def test_gradients_at_edges_that_are_left_out(tiny: Model, tokens: np.ndarray, pre: bool) -> None:
    """A soft mask of zero lets nothing through, and still says what an edge would bring."""
    whole = jax.tree.map(lambda leaf: 0.5 + 0.5 * leaf, random_mask(7, np.random.default_rng(8), soft=True))
    apart = np.subtract.outer(np.arange(7), np.arange(7)) == 2  # of every target something is left
    mask = dataclasses.replace(whole, attn=jnp.where(apart, 0, whole.attn), mlp=whole.mlp.at[:, ::2].set(0))

    def logit(mask: EdgeTree) -> jax.Array:
        return masked_forward(tiny.decoder, jnp.asarray(tokens), mask, pre_softmax=pre)[3]

    gradient, forward = jax.jit(jax.grad(logit))(mask), jax.jit(logit)
    for kind in ("attn", "mlp"):
        leaf = getattr(mask, kind)
        zeros = jnp.where(leaf == 0, 1e-3, 0.0)
        ahead, behind = (dataclasses.replace(mask, **{kind: leaf + sign * zeros}) for sign in (1, -1))
        along = float(jnp.sum(getattr(gradient, kind) * zeros))
        assert along == pytest.approx(float(forward(ahead) - forward(behind)) / 2, rel=3e-2, abs=1e-4), kind
        assert abs(along) > 1e-4, kind


def test_pre_softmax_survives_far_apart_logits() -> None:
    """Kept sources far below the masked ones neither vanish nor overflow."""
    from jstrace.models.layers import masked_attention_probs

    logits = jnp.asarray([[[500.0, -400.0, -401.0]]])
    visible = jnp.ones((1, 3), bool)
    mask = jnp.asarray([[[False, True, True]]])
    probs = masked_attention_probs(logits, visible, mask, pre_softmax=True)
    np.testing.assert_allclose(probs[0, 0], [0, 1 / (1 + np.exp(-1)), 1 / (1 + np.e)], rtol=1e-6)


@pytest.mark.parametrize("pre", [False, True])
def test_soft_mask_gradient_equals_finite_differences(tiny: Model, tokens: np.ndarray, pre: bool) -> None:
    mask = random_mask(len(tokens), np.random.default_rng(4), soft=True, share=1.0)
    direction = random_mask(len(tokens), np.random.default_rng(5), soft=True, share=1.0)

    def loss(model: Model, mask: EdgeTree) -> jax.Array:
        return jax.nn.log_softmax(model(jnp.asarray(tokens), mask, pre_softmax=pre))[3]

    gradient = jax.jit(jax.grad(loss, argnums=1))(tiny, mask)
    along = sum(jnp.sum(g * d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    step = 1e-3
    up, down = (loss(tiny, jax.tree.map(lambda m, d, s=s: m + s * d, mask, direction)) for s in (step, -step))
    np.testing.assert_allclose(along, (up - down) / (2 * step), rtol=2e-2)
    assert abs(float(along)) > 1e-2


def test_model_is_a_pytree(tiny: Model, tokens: np.ndarray) -> None:
    """jit with the model as an argument, vmap over masks, one trace for all masks."""
    mask = random_mask(len(tokens), np.random.default_rng(6), soft=True)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(model: Model, tokens: jax.Array, mask: EdgeTree) -> jax.Array:
        return model(tokens, mask)

    first = run(tiny, jnp.asarray(tokens), mask)
    run(tiny, jnp.asarray(tokens[::-1].copy()), jax.tree.map(lambda m: m / 2, mask))
    both = jax.tree.map(lambda m: jnp.stack([m, m / 2]), mask)
    batch = jax.vmap(lambda model, t, m: model(t, m), in_axes=(None, None, 0))(tiny, jnp.asarray(tokens), both)
    np.testing.assert_allclose(batch[0], first, atol=1e-5)
    assert jax.tree.leaves(tiny)


def test_padding_changes_no_logits(tiny: Model, tokens: np.ndarray) -> None:
    wide = np.concatenate([tokens, [5, 6, 7]])
    clean = clean_forward(tiny.decoder, jnp.asarray(tokens), Norm(1)).logits
    padded = clean_forward(tiny.decoder, jnp.asarray(wide), Norm(1), length=len(tokens)).logits
    np.testing.assert_allclose(padded, clean, atol=1e-5)


def test_no_array_of_vectors_for_every_pair(tiny: Model) -> None:
    """L1 and L2 scores never build T * T * H * D numbers: no intermediate is that large."""
    n_tokens = 40
    jaxpr = jax.make_jaxpr(lambda m, t: clean_forward(m, t, Norm(1)))(tiny.decoder, jnp.zeros(n_tokens, int))
    largest = max(v.aval.size for eqn in _equations(jaxpr.jaxpr) for v in eqn.outvars)
    stacked_scores = TINY.n_layers * TINY.n_heads * n_tokens**2
    assert largest <= stacked_scores < TINY.n_heads * n_tokens**2 * TINY.d_model


def _equations(jaxpr: Any) -> Any:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_float32_asks_for_the_highest_precision(tiny: Model, tokens: np.ndarray) -> None:
    """Accelerators would use less for float32 operands unless told; bfloat16 leaves it to them."""
    for dtype, expected in ((jnp.float32, jax.lax.Precision.HIGHEST), (jnp.bfloat16, jax.lax.Precision.DEFAULT)):
        decoder = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), tiny.decoder)
        mask = ones(TINY, len(tokens))
        programs = [
            jax.make_jaxpr(lambda m, t: clean_forward(m, t, Norm(1)))(decoder, jnp.asarray(tokens)),
            jax.make_jaxpr(lambda m, t, mask=mask: masked_forward(m, t, mask))(decoder, jnp.asarray(tokens)),
        ]
        dots = [e for p in programs for e in _equations(p.jaxpr) if e.primitive.name == "dot_general"]
        assert len(dots) >= 2 * 10
        for dot in dots:
            if dot.invars[0].aval.dtype == dtype:
                assert dot.params["precision"] == (expected, expected)
