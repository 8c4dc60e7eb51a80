"""What ablated edges carry: against the literal oracle, one edge at a time, and what must not depend on it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace import archives
from jstrace.models import Decoder, EdgeTree, Model, edge_shapes, every_row, hidden_states, live_rows, masked_forward
from jstrace.models.replacement import FORMAT, VERSION, Replacement, checked_arrays
from jstrace.scale.batching import widened
from tests import oracle
from tests.conftest import KINDS, SHAPES, TINY, family_config, tiny_params

N = 5


@functools.partial(jax.jit, static_argnames="skip")
def over_masks(model: Decoder, tokens: jax.Array, masks: EdgeTree, replace: Replacement | None, *, skip: bool) -> Any:
    row_map = live_rows if skip else every_row
    return jax.vmap(lambda mask: masked_forward(model, tokens, mask, replace=replace, row_map=row_map))(masks)


def masks_of(config: jstrace.ModelConfig, rng: np.random.Generator, *, soft: bool) -> EdgeTree:
    """None, few, half, nearly all and all of the edges."""

    def draw(*shape: int) -> jax.Array:
        keep = np.stack([rng.random(shape) < share for share in (0.0, 0.1, 0.5, 0.9, 1.1)])
        return jnp.asarray(np.where(rng.random(keep.shape) < 0.5, rng.random(keep.shape), 1) * keep if soft else keep)

    rows = (config.n_layers, N)
    return EdgeTree(draw(*rows), draw(config.n_layers, config.n_heads, N, N), draw(*rows), draw(*rows))


def replacement_of(config: jstrace.ModelConfig, rng: np.random.Generator, entries: int) -> Replacement:
    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(config.n_layers, entries, *shape)), jnp.float32)

    width, (n_kv_heads, _, value) = config.d_model, config.widest
    return Replacement(draw(width), draw(n_kv_heads, value), draw(width), draw(width))


@pytest.mark.parametrize(
    ("family", "entries", "soft"),
    [*((family, 2, True) for family in KINDS), *((family, N, False) for family in SHAPES)],
)
def test_replaced_edges_equal_the_oracle(family: str, entries: int, soft: bool) -> None:
    config, rng = family_config(family), np.random.default_rng(entries + 10 * soft)
    decoder, tokens = Decoder(config, tiny_params(config)), rng.integers(0, config.vocab_size, N)
    masks, replace = masks_of(config, rng, soft=soft), replacement_of(config, rng, entries)
    literal = oracle.Literal(config, tiny_params(config), tokens)
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k], masks) for k in range(5)]
    expected = np.stack([literal.masked(row, replace=replace.arrays()) for row in rows])
    for skip in (False, True):
        got = over_masks(decoder, jnp.asarray(tokens), masks, replace, skip=skip)
        np.testing.assert_allclose(got, expected, atol=3e-4 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("family", [*SHAPES, "qwen2_moe"])
def test_zeros_equal_none_and_a_full_mask_ignores_it(family: str) -> None:
    config, rng = family_config(family), np.random.default_rng(1)
    decoder, tokens = Decoder(config, tiny_params(config)), jnp.asarray(rng.integers(0, config.vocab_size, N))
    masks = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), masks_of(config, rng, soft=False))
    replace = replacement_of(config, rng, 2)
    zeros = jax.tree.map(jnp.zeros_like, replace)
    none, zero, other = (over_masks(decoder, tokens, masks, each, skip=False) for each in (None, zeros, replace))
    np.testing.assert_allclose(zero, none, atol=1e-4)
    np.testing.assert_allclose(other[-1], none[-1], atol=1e-4)
    assert np.abs(np.asarray(other[0]) - np.asarray(none[0])).max() > 0.01


@pytest.mark.parametrize("family", KINDS)
def test_hidden_states_equal_the_oracle(family: str) -> None:
    config, rng = family_config(family), np.random.default_rng(2)
    decoder, tokens = Decoder(config, tiny_params(config)), rng.integers(0, config.vocab_size, N)
    expected = oracle.Literal(config, tiny_params(config), tokens).states()
    got = jax.jit(hidden_states)(decoder, jnp.asarray(tokens))
    for name, array in got.arrays().items():
        np.testing.assert_allclose(
            array, expected[name], atol=2e-4 * max(1, np.abs(expected[name]).max()), err_msg=name
        )


def test_states_of_the_same_input_change_nothing(tiny: Model, tokens: np.ndarray) -> None:
    """Under one's own states every mask gives the full prediction: they are what the edges carry."""
    own = hidden_states(tiny.decoder, jnp.asarray(tokens))
    full = tiny(tokens, tiny.full_mask(len(tokens)))
    np.testing.assert_allclose(tiny(tokens, tiny.empty_mask(len(tokens)), replace=own), full, atol=1e-4)


def test_padding_and_batches_change_nothing(tiny: Model, tokens: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    replace = replacement_of(TINY, rng, len(tokens))
    mask = jax.tree.map(lambda leaf: jnp.asarray(leaf & (rng.random(leaf.shape) < 0.7)), tiny.full_mask(len(tokens)))
    alone = tiny(tokens, mask, replace=replace)
    wide = jax.tree.map(jnp.asarray, widened(mask, len(tokens) + 4, np.bool_(False)))
    padded = jnp.asarray(np.concatenate([tokens, [1, 2, 3, 4]]))
    got = masked_forward(tiny.decoder, padded, wide, replace=replace, length=len(tokens))
    np.testing.assert_allclose(got, alone, atol=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_gradients_of_soft_masks(family: str) -> None:
    """Along a direction, by finite differences; the largest leaf and the smallest alike."""
    config, rng = family_config(family), np.random.default_rng(4)
    decoder, tokens = Decoder(config, tiny_params(config)), jnp.asarray(rng.integers(0, config.vocab_size, N))
    replace = replacement_of(config, rng, 2)
    shapes = edge_shapes(config.n_layers, config.n_heads, N)
    mask = EdgeTree(**{name: jnp.asarray(0.2 + 0.6 * rng.random(shape), jnp.float32) for name, shape in shapes.items()})

    def loss(mask: EdgeTree, *, remat: bool = False) -> jax.Array:
        return masked_forward(decoder, tokens, mask, replace=replace, remat=remat)[3]

    gradient, again = (jax.jit(jax.grad(functools.partial(loss, remat=remat)))(mask) for remat in (False, True))
    chex.assert_trees_all_close(again, gradient, rtol=1e-4, atol=1e-5)
    ahead_and_behind = jax.jit(jax.vmap(loss))
    for name, leaf in mask.items():
        if config.parallel and name == "residual_mlp":
            assert not np.asarray(gradient.residual_mlp).any()
            continue
        step = jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)
        ahead, behind = (EdgeTree(**{**dict(mask.items()), name: leaf + sign * 4e-4 * step}) for sign in (1, -1))
        more, less = ahead_and_behind(jax.tree.map(lambda *leaves: jnp.stack(leaves), ahead, behind))
        expected = (more - less) / 8e-4
        np.testing.assert_allclose(jnp.sum(getattr(gradient, name) * step), expected, rtol=0.02, atol=5e-3)


def test_a_replacement_is_saved_and_loaded(tmp_path: Path) -> None:
    replace = replacement_of(TINY, np.random.default_rng(5), 2)
    named = Replacement(**replace.arrays(), name="mean", model_fingerprint="2-abc")
    named.save(tmp_path / "mean.npz")
    found = Replacement.load(tmp_path / "mean.npz")
    assert (found.name, found.model_fingerprint) == ("mean", "2-abc")
    for name, array in found.arrays().items():
        np.testing.assert_array_equal(array, replace.arrays()[name])


def test_what_is_no_replacement_is_one_line(tiny: Model, tokens: np.ndarray, tmp_path: Path) -> None:
    mask, good = tiny.full_mask(len(tokens)), replacement_of(TINY, np.random.default_rng(6), 2)
    bad: list[tuple[Any, str]] = [
        (3, "expected a jstrace.Replacement"),
        (replacement_of(TINY, np.random.default_rng(6), 4), "of 4 tokens, the input of 7"),
        (replacement_of(family_config("gpt2"), np.random.default_rng(6), 2), "another model's"),
        (Replacement(**{**good.arrays(), "values": good.values * np.nan}), "values holds NaN"),
    ]
    for one, words in bad:
        with pytest.raises(jstrace.InputError, match=words):
            tiny(tokens, mask, replace=one)
    with pytest.raises(jstrace.InputError, match="pre_softmax"):
        tiny(tokens, mask, replace=good, pre_softmax=True)
    good.save(tmp_path / "good.npz")
    (tmp_path / "bad.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    for name in ("bad.npz", "none.npz"):
        with pytest.raises(jstrace.InputError, match=f"{name}: not a readable replacement"):
            Replacement.load(tmp_path / name)


def test_states_of_two_tokens_are_of_texts_of_two(tiny: Model, tokens: np.ndarray, tmp_path: Path) -> None:
    """They look like what means have, an entry for the first token and one for all others."""
    two = np.asarray([5, 7])
    resampled = jstrace.resample_replacement(tiny, two)
    drawn = jstrace.noise_replacement(tiny, [tokens], n_tokens=2)
    shared = [jstrace.mean_replacement(tiny, [tokens]), jstrace.noise_replacement(tiny, [tokens])]
    for one in (resampled, drawn, jax.tree.map(lambda leaf: leaf + 0, resampled), resampled.bare()):
        one.save(tmp_path / "own.npz")
        for same in (one, Replacement.load(tmp_path / "own.npz")):
            assert np.isfinite(tiny(two, tiny.full_mask(2), replace=same)).all()
            with pytest.raises(jstrace.InputError, match="of 2 tokens, the input of 7"):
                tiny(tokens, tiny.full_mask(7), replace=same)
            with pytest.raises(jstrace.InputError, match="of 2 tokens, the input of 7"):
                jstrace.evaluate(tiny, jstrace.trace(tiny, tokens, sizes=(0.1,)), replace=same)
    for one in shared:
        one.save(tmp_path / "shared.npz")
        assert np.isfinite(tiny(tokens, tiny.empty_mask(7), replace=Replacement.load(tmp_path / "shared.npz"))).all()
        with pytest.raises(jstrace.InputError, match="all need one shape and per_token"):
            jstrace.evaluate(tiny, jstrace.trace(tiny, two, sizes=(0.1,)), replace=[one, resampled])


def test_files_and_calls_that_do_not_say_the_layout(tmp_path: Path) -> None:
    """Two entries are the first token's and all others', as they always were."""
    for entries, per_token in ((1, True), (2, False), (N, True)):
        found = replacement_of(TINY, np.random.default_rng(7), entries)
        assert found.per_token is per_token
        header = {"format": FORMAT, "version": VERSION, "name": "mean", "model_fingerprint": ""}
        archives.write(tmp_path / "old.npz", header, {name: np.asarray(a) for name, a in found.arrays().items()})
        assert Replacement.load(tmp_path / "old.npz").per_token is per_token
    with pytest.raises(jstrace.InputError, match="has 5 entries a layer, expected 2"):
        checked_arrays(dataclasses.replace(found, per_token=False))
    archives.write(tmp_path / "odd.npz", header | {"per_token": 1}, found.arrays())
    with pytest.raises(jstrace.InputError, match="neither of the two"):
        Replacement.load(tmp_path / "odd.npz")
