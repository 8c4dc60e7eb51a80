"""A model refuses what would be the answer to another question."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, EdgeTree, InputError, Model
from tests.conftest import TINY, family_config, tiny_params
from tests.models.test_decoder import ones
from tests.stand_ins import Letters


def test_masks_that_are_none(tiny: Model, tokens: np.ndarray) -> None:
    """Strata are integers of the same shape: multiplied by, they gave finite logits."""
    trace, whole = jstrace.trace(tiny, tokens), ones(TINY, len(tokens))
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), whole)
    for mask, message in (
        (trace.strata, "mask residual_attn is uint8, expected bool or float; the mask of strata is strata <= k"),
        (two, r"mask residual_attn has shape \(2, 3, 7\), expected \(3, 7\); for several masks use jax.vmap"),
        (dataclasses.replace(whole, attn=whole.attn[:, :1]), r"mask attn has shape \(3, 1, 7, 7\)"),
        (whole.mlp, "expected an EdgeTree"),
        (dataclasses.replace(whole, mlp=None), "mask mlp is NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            tiny(tokens, mask)
        if message != "mask mlp is NoneType":  # no leaf of a pytree
            with pytest.raises(InputError, match=message):
                jax.jit(lambda model, ids, mask: model(ids, mask))(tiny, tokens, mask)


def test_tokens_that_are_none(tiny: Model) -> None:
    for ids, message in (
        ([1, 97], "token id 97 is outside the vocabulary of 97"),
        ([1, -1], "token id -1 is outside"),
        ([[1, 2], [3, 4]], r"tokens of shape \(2, 2\): expected those of one input"),
        ([], "tokens of shape"),
        ([0.5, 1.0], "tokens are float64, expected integers"),
        ([1, 2**32 + 3], "token id 4294967299 is outside"),
    ):
        with pytest.raises(InputError, match=message):
            tiny(np.asarray(ids), ones(TINY, 2))
    for odd in ("abc", [[1], [2, 3]], [2**70, 1], None):
        with pytest.raises(InputError, match=r"tokens"):
            tiny(odd, ones(TINY, 2))  # type: ignore[arg-type]


def test_unknown_tokens_under_jit_are_marked(tiny: Model) -> None:
    """A compiled program cannot refuse numbers: it answers NaN."""
    compiled = jax.jit(lambda model, ids, mask: model(ids, mask))
    whole = ones(TINY, 2)
    assert np.isnan(compiled(tiny, jnp.asarray([1, 97]), whole)).all()
    assert np.isnan(compiled(tiny, jnp.asarray([-1, 1]), whole)).all()
    np.testing.assert_array_equal(compiled(tiny, jnp.asarray([1, 96]), whole), tiny(np.asarray([1, 96]), whole))


def test_more_tokens_than_positions() -> None:
    config = dataclasses.replace(family_config("gpt2"), max_positions=4)
    model = Model(Decoder(config, tiny_params(config)))
    with pytest.raises(InputError, match="5 tokens, more than the 4 positions"):
        model(np.arange(5), ones(config, 5))
    assert np.isfinite(model(np.arange(4), ones(config, 4))).all()


def test_masks_of_numpy(tiny: Model, tokens: np.ndarray) -> None:
    whole = jstrace.trace(tiny, tokens).mask(26)
    soft = EdgeTree(*(leaf.astype(np.float32) for _, leaf in whole.items()))
    np.testing.assert_allclose(tiny(tokens, whole), tiny(tokens, soft), atol=1e-5)


def test_known_tokens_inside_transformations(tiny: Model, tokens: np.ndarray) -> None:
    """Ids that a transformation closes over are known in it, and are checked there."""
    ids, soft = jnp.asarray(tokens), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), ones(TINY, len(tokens)))
    expected = tiny(ids, soft)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), soft)

    def logit(mask: EdgeTree) -> jax.Array:
        return tiny(ids, mask)[3]

    slope = jax.grad(logit)(soft)
    np.testing.assert_allclose(jax.jit(lambda model, mask: model(ids, mask))(tiny, soft), expected, atol=1e-5)
    np.testing.assert_allclose(jax.lax.map(lambda mask: tiny(ids, mask), pair)[1], expected, atol=1e-5)
    np.testing.assert_allclose(jax.lax.map(lambda row: tiny(row, soft), ids[None])[0], expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.grad(logit))(soft).mlp, slope.mlp, atol=1e-5)
    for wrong in (97, -1):
        outside = ids.at[2].set(wrong)
        with pytest.raises(InputError, match=f"token id {wrong} is outside"):
            jax.jit(lambda mask, outside=outside: tiny(outside, mask))(soft)
    marks = jax.jit(lambda mask: jnp.zeros(len(tiny.fingerprint())))(soft)
    assert marks.shape == (len(tiny.fingerprint()),)


class Vocabulary(Letters):
    """With an object of the ``tokenizers`` library, which is equal to itself alone."""

    def __init__(self, *words: str) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        self._tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))


class Numbered(Letters):
    """With an attribute that has no truth."""

    def __init__(self, n_words: int = 3) -> None:
        self.ids = np.arange(n_words)


def model_of(tokenizer: Letters | None, seed: int = 0) -> Model:
    return Model(Decoder(TINY, tiny_params(seed=seed)), tokenizer)


def test_models_of_one_vocabulary_share_programs(tokens: np.ndarray) -> None:
    mask = ones(TINY, len(tokens))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(model: Model, tokens: jax.Array) -> jax.Array:
        return model(tokens, mask)

    for seed in (0, 1):
        model = model_of(Letters(), seed)
        np.testing.assert_allclose(run(model, jnp.asarray(tokens)), model(tokens, mask), atol=1e-5)
    alike = [(Vocabulary("a", "b"), Vocabulary("a", "b")), (None, None), (Letters(), Letters())]
    alike += [(Numbered(), Numbered())]
    other = [(Vocabulary("a", "b"), Vocabulary("b", "a")), (None, Letters()), (Numbered(), Numbered(4))]
    for pairs, same in ((alike, True), (other, False)):
        for pair in pairs:
            one, two = (jax.tree.structure(model_of(tokenizer)) for tokenizer in pair)
            assert (one == two) is same, pair
    returned = jax.jit(lambda model: model)
    assert [type(returned(model_of(each)).tokenizer) for each in (Letters(), Numbered())] == [Letters, Numbered]


def test_copies_of_a_model(tokens: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have its tokenizer and its answers, and remember fingerprints of their own."""
    computed, module = [0], importlib.import_module("jstrace.models.model")

    def counted(decoder: Decoder) -> str:
        computed[0] += 1
        return jstrace.models.fingerprint(decoder)

    monkeypatch.setattr(module, "fingerprint", counted)
    model, mask = model_of(Vocabulary("a", "b")), ones(TINY, len(tokens))
    mark, expected = model.fingerprint(), model(tokens, mask)
    copies = [copy.copy(model), copy.deepcopy(model), jax.tree.map(jnp.array, model)]
    for one in copies:
        assert jax.tree.structure(one) == jax.tree.structure(model)
        np.testing.assert_array_equal(one(tokens, mask), expected)
        assert one.fingerprint() == mark
    double = jax.tree.map(lambda leaf: 2 * leaf, model)
    assert double.fingerprint() != mark
    before = computed[0]
    assert (model.fingerprint(), double.fingerprint() == mark) == (mark, False)
    assert computed[0] == before == len(copies) + 2
    copies[0].tokenizer = None
    assert model.tokenizer is not None


def test_fingerprints_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model and a copy with other weights, by threads that take turns at every step."""
    monkeypatch.setattr(importlib.import_module("jstrace.models.model"), "fingerprint", lambda decoder: marks[decoder])
    model = model_of(None)
    double = jax.tree.map(lambda leaf: 2 * leaf, model)
    marks = {model.decoder: "one", double.decoder: "two"}
    wrong: list[str] = []

    def ask(model: Model, name: str) -> None:
        wrong.extend(found for _ in range(50) if (found := model.fingerprint()) != name)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=ask, args=pair) for pair in ((model, "one"), (double, "two")) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


def test_written_weights_make_a_model(tiny: Model, tokens: np.ndarray) -> None:
    """Numpy arrays of any precision; what does not fit the config is named."""
    arrays = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tiny.decoder.params())
    model = Model.from_arrays(TINY, arrays)
    assert model.dtype == jnp.float32
    assert model.fingerprint() == tiny.fingerprint()
    np.testing.assert_array_equal(model(tokens), tiny(tokens))
    for wrong, message in (
        (
            arrays | {"layers": arrays["layers"] | {"up": arrays["layers"]["up"][:2]}},
            r"weight layers.up has shape \(2,",
        ),
        (
            {name: leaf for name, leaf in arrays.items() if name != "head"},
            r"weight head is missing, expected \(97, 16\)",
        ),
        (arrays | {"head_bias": np.zeros(97)}, r"weight head_bias has shape \(97,\), which this config does not have"),
        (arrays | {"embed": arrays["embed"].tolist()}, r"weight embed is no array but list, expected \(97, 16\)"),
        (arrays | {"embed": arrays["embed"] * 1j}, r"weight embed has dtype complex128, expected float32"),
        (arrays | {"embed": arrays["embed"].astype(str)}, r"weight embed has dtype <U32, expected float32"),
        (arrays | {"embed": arrays["embed"] + 1e300}, r"weight embed holds numbers that are not finite in float32"),
    ):
        with pytest.raises(InputError, match=message):
            Model.from_arrays(TINY, wrong)
    with pytest.raises(InputError, match="config: router = 'best', expected one of softmax"):
        Model.from_arrays(dataclasses.replace(TINY, router="best"), arrays)
