"""Replacements made of reference texts, by name and of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model
from jstrace.pipeline.reference import built_in_reference
from jstrace.pipeline.replacing import Replacing
from tests.conftest import SIZES, TINY, family_config, tiny_params
from tests.stand_ins import Letters

REFERENCE = [np.arange(9), np.arange(40, 52), np.asarray([7]), np.arange(60, 65)]


def model_of(family: str = "llama", dtype: str = "float32") -> Model:
    config = family_config(family)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_params(config))
    return Model(Decoder(config, params), Letters())


def test_means_are_over_all_tokens_the_first_apart(tiny: Model) -> None:
    found = jstrace.mean_replacement(tiny, REFERENCE)
    each = [jstrace.resample_replacement(tiny, row) for row in REFERENCE]
    for name, array in found.arrays().items():
        first = np.mean([np.asarray(one.arrays()[name])[:, 0] for one in each], axis=0)
        rest = np.concatenate([np.asarray(one.arrays()[name])[:, 1:] for one in each], axis=1).mean(axis=1)
        np.testing.assert_allclose(array, np.stack([first, rest], axis=1), atol=1e-5)


def test_noise_has_the_moments_and_the_seed(tiny: Model) -> None:
    one, same, other = (jstrace.noise_replacement(tiny, REFERENCE, seed, n_tokens=400) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.values, same.values)
    assert np.abs(np.asarray(one.values) - np.asarray(other.values)).max() > 0.1
    mean = np.asarray(jstrace.mean_replacement(tiny, REFERENCE).values)[:, 1]
    drawn = np.asarray(one.values)[:, 1:]
    assert (np.abs(drawn.mean(axis=1) - mean) < 5 * drawn.std(axis=1) / np.sqrt(399) + 1e-6).all()


@pytest.mark.parametrize(("family", "dtype"), [("llama", "float32"), ("gpt2", "bfloat16"), ("gpt_neox", "float16")])
def test_every_name_in_every_dtype(family: str, dtype: str, tmp_path: Path) -> None:
    """By name, of one's own, and read back from a file, which holds float32; streams are longer than all positions."""
    model, rows = model_of(family, dtype), [np.arange(5), np.arange(20, 27)]
    traces = jstrace.trace(model, rows, sizes=SIZES)
    texts = [*built_in_reference()[:1], "a few words more", "and others"] * 8
    texts = [text[:60] for text in texts]
    own = jstrace.mean_replacement(model, texts)
    own.save(tmp_path / "mean.npz")
    read = jstrace.Replacement.load(tmp_path / "mean.npz")
    by_name, given, loaded, resampled = (
        jstrace.evaluate(model, traces, replace=how, reference=texts) for how in ("mean", own, read, "resample")
    )
    for a, b, c, d in zip(by_name, given, loaded, resampled, strict=True):
        np.testing.assert_array_equal(a.tv, b.tv)
        np.testing.assert_array_equal(a.tv, c.tv)
        assert a.valid
        assert d.valid
        assert (a.replace, d.replace) == ("mean", "resample")


def test_several_are_averaged(tiny: Model, tokens: np.ndarray) -> None:
    trace = jstrace.trace(tiny, tokens, sizes=SIZES)
    others = [jstrace.resample_replacement(tiny, np.arange(start, start + len(tokens))) for start in (0, 40)]
    together = jstrace.evaluate(tiny, trace, replace=others)
    alone = [jstrace.evaluate(tiny, trace, replace=other) for other in others]
    np.testing.assert_allclose(together.tv, np.mean([one.tv for one in alone], axis=0), atol=1e-6)
    np.testing.assert_array_equal(together.nucleus, alone[0].nucleus & alone[1].nucleus)
    masks = jax.tree.map(lambda leaf: leaf[:-1], trace.masks())
    own = jstrace.evaluate(tiny, tokens, masks=masks, replace=others)
    np.testing.assert_allclose(own.tv, together.tv, atol=1e-5)
    assert together.replace == "resample"
    mixed = [dataclasses.replace(others[0], name="a"), dataclasses.replace(others[1], name="b")]
    renamed = jstrace.evaluate(tiny, trace, replace=mixed)
    assert renamed.replace == "a+b"
    np.testing.assert_array_equal(renamed.tv, together.tv)


def test_means_of_other_references_are_others() -> None:
    """Whatever was asked for before: the built-in reference is thinned, and all of it is another."""
    model = model_of()
    default = Replacing(model).first("mean", 8)
    everything = Replacing(model, list(built_in_reference())).first("mean", 8)
    assert default is not None
    assert everything is not None
    assert np.abs(np.asarray(default.values) - np.asarray(everything.values)).max() > 1e-4


def test_an_input_longer_than_the_reference_is_invalid_alone(tiny: Model) -> None:
    rows = [np.arange(5), np.arange(30)]
    traces = jstrace.trace(tiny, rows, sizes=SIZES)
    options: dict[str, Any] = {"replace": "resample", "reference": [np.arange(10), np.arange(10, 20)]}
    found = jstrace.evaluate(tiny, traces, on_invalid="keep", **options)
    assert isinstance(found[0], jstrace.Evaluation)
    assert isinstance(found[1], jstrace.Invalid)
    assert "fewer than 30" in found[1].reason


def test_bad_replacements_are_one_line(tiny: Model, tokens: np.ndarray) -> None:
    trace = jstrace.trace(tiny, tokens)
    two = [jstrace.resample_replacement(tiny, np.arange(start, start + len(tokens))) for start in (0, 40)]
    other = dataclasses.replace(two[0], model_fingerprint="2-other")
    for options, words in (
        ({"replace": ""}, "expected one of zero, mean, resample"),
        ({"replace": []}, "expected a name"),
        ({"replace": other}, "was made with model 2-other"),
        ({"replace": two[0], "pre_softmax": True}, "nothing is left to replace"),
        ({"replace": "mean", "reference": []}, "reference is empty"),
        ({"replace": "resample", "reference": []}, "reference is empty"),
        ({"replace": "mean", "reference": [[3]]}, "no second token"),
        ({"replace": "mean"}, "without a tokenizer"),
        ({"replace": "resample"}, "without a tokenizer"),
    ):
        with pytest.raises(jstrace.InputError, match=words):
            jstrace.evaluate(tiny, trace, **options)  # type: ignore[call-overload]
    with pytest.raises(jstrace.InputError, match="under one replacement"):
        jstrace.trace(tiny, tokens, score="rounds", replace=two)
    with pytest.raises(jstrace.InputError, match="of 7 tokens, the input of 4"):
        jstrace.trace(tiny, tokens[:4], score="gradient", replace=two[0])
    infinite = Model(Decoder(TINY, jax.tree.map(lambda leaf: leaf * jnp.nan, tiny_params())))
    with pytest.raises(jstrace.InputError, match="NaN or infinities"):
        jstrace.mean_replacement(infinite, REFERENCE)
    for wrong in ({"cuts": 0}, {"largest": 0.1, "smallest": 0.2}, {"temperature": -1.0}, {"weight": float("nan")}):
        with pytest.raises(jstrace.InputError):
            jstrace.Rounds(**wrong)  # type: ignore[arg-type]


def test_a_trace_says_which_texts_its_gradients_were_taken_under(tiny: Model, tmp_path: Path) -> None:
    def marked(**options: Any) -> str:
        trace = jstrace.trace(tiny, np.arange(4), sizes=SIZES, **options)
        trace.save(tmp_path / "t.npz")
        assert jstrace.Trace.load(tmp_path / "t.npz") == trace
        return trace.reference

    first, second = [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4, 5, 7]]
    by_first = marked(score="gradient", replace="mean", reference=first)
    assert by_first
    assert by_first != marked(score="gradient", replace="mean", reference=second)
    assert marked(score="gradient", reference=first, replace="zero") == ""
    assert marked(score="l1", reference=first, replace="zero") == ""
    own = jstrace.mean_replacement(tiny, first)
    assert marked(score="gradient", replace=own) not in ("", by_first), "arrays of one's own"
