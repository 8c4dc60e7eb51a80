"""Generated tokens are those of full passes, and their traces those of ``jstrace.trace``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace import archives
from jstrace.convert import source
from jstrace.models import Decoder, InputError, Model, make_mesh, param_shardings
from jstrace.pipeline import stages
from jstrace.pipeline.activations import geometry_of
from jstrace.pipeline.generation import _spans, generated
from jstrace.pipeline.trace_file import _arrays, _header
from jstrace.scale import batching
from tests.conftest import SIZES, TINY, family_config, tiny_params
from tests.stand_ins import Halves, Letters

PROMPT = np.asarray([3, 14, 15], np.int32)


def predicted(model: Model, rows: list[np.ndarray]) -> np.ndarray:
    """Probabilities of the token after each row, from whole passes over it."""
    batch = batching.padded(rows, 16, 8)
    return np.exp(np.asarray(stages.predict_batch(model.decoder, *batch)))


@pytest.mark.parametrize("family", ["phi3", "gemma2", "gemma3", "gpt2", "gpt_neox", "qwen3_next", "nemotron_h"])
def test_greedy_tokens_are_those_of_whole_passes(family: str) -> None:
    """Each family's positions, windows and norms from a cache; phi3's longrope changes frequencies on the way."""
    model = Model(Decoder(config := family_config(family), tiny_params(config)))
    tokens, probs = generated(model, PROMPT, 6)
    own = predicted(model, [np.concatenate([PROMPT, tokens[:step]]) for step in range(6)])[:6]
    assert tokens.tolist() == own.argmax(axis=1).tolist()
    np.testing.assert_allclose(probs, own.max(axis=1), rtol=1e-4)


def test_longrope_reads_the_prefix_anew_at_its_switch() -> None:
    config = family_config("phi3")
    assert config.rope_switch == 4
    assert list(_spans(config, 3, 6)) == [(0, 2), (2, 4)], "predictions over 3 and 4 tokens, then longer ones"
    assert list(_spans(config, 4, 1)) == [(0, 1)]
    assert list(_spans(config, 5, 2)) == [(0, 2)]
    assert list(_spans(TINY, 3, 6)) == [(0, 6)]


def test_a_mesh_generates_the_same(tiny: Model) -> None:
    """One prompt on devices that share its heads; and so the states after each layer."""
    mesh = make_mesh(data=2, model=2)
    many = Model(Decoder(TINY, jax.device_put(tiny_params(), param_shardings(TINY, mesh))))
    for how in ({}, {"temperature": 1.0, "seed": 1}):
        (tokens, probs), (expected, own) = (generated(model, PROMPT, 4, **how) for model in (many, tiny))
        assert tokens.tolist() == expected.tolist()
        np.testing.assert_allclose(probs, own, rtol=1e-4)
    for got, wanted in zip(geometry_of(many, PROMPT), geometry_of(tiny, PROMPT), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_draws_follow_the_seed_and_the_temperature(tiny: Model) -> None:
    def draws(**how: float) -> list[int]:
        return generated(tiny, PROMPT, 8, **how)[0].tolist()  # type: ignore[arg-type]

    drawn = draws(temperature=1.0, seed=1)
    assert drawn == draws(temperature=1.0, seed=1)
    assert drawn != draws(temperature=1.0, seed=2)
    assert drawn != draws(temperature=1.0, seed=1, row=1), "prompts of a run have draws of their own"
    assert draws(temperature=1e-6) == draws(temperature=1e-4) == draws(), "a cold draw takes the most probable"
    assert draws(temperature=1e6) != draws()
    tokens, probs = generated(tiny, PROMPT, 2, temperature=5.0, seed=3)
    own = predicted(tiny, [PROMPT])[0]
    assert probs[0] == pytest.approx(own[tokens[0]], rel=1e-4), "the model's own, at temperature 1"


def test_draws_are_of_one_generator(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever JAX's default is set to: tokens, and random weights."""
    monkeypatch.setattr(source, "_described", lambda *_: (TINY, None))

    def draws() -> tuple[list[int], bytes]:
        weights = source.read_checkpoint("random:tiny", dtype=jnp.dtype("float32")).params["embed"]
        return generated(tiny, PROMPT, 8, temperature=1.0, seed=1)[0].tolist(), np.asarray(weights).tobytes()

    own = draws()
    for other in (jax.default_prng_impl("rbg"), jax.threefry_partitionable(False)):
        with other:
            assert draws() == own


def test_written_tokens_are_gone_on_with(tiny: Model) -> None:
    """They are taken whatever is predicted, and what follows them is predicted from them."""
    free, _ = generated(tiny, PROMPT, 4)
    written = np.asarray([(free[0] + 1) % 97, (free[1] + 2) % 97], np.int32)
    tokens, probs = generated(tiny, PROMPT, 4, written=written)
    own = predicted(tiny, [np.concatenate([PROMPT, tokens[:step]]) for step in range(4)])[:4]
    assert tokens.tolist() == [*written, *own[2:].argmax(axis=1)]
    np.testing.assert_allclose(probs, own[np.arange(4), tokens], rtol=1e-4)
    again, same = generated(tiny, PROMPT, 4, written=free[:3])
    assert again.tolist() == free.tolist()
    assert same.tolist() == generated(tiny, PROMPT, 4)[1].tolist(), "to the digit"


def test_written_tokens_across_the_switch_of_longrope() -> None:
    model = Model(Decoder(config := family_config("phi3"), tiny_params(config)))
    written = np.asarray([5, 6, 7], np.int32)
    tokens, probs = generated(model, PROMPT, 5, written=written)
    own = predicted(model, [np.concatenate([PROMPT, tokens[:step]]) for step in range(5)])[:5]
    assert tokens.tolist() == [5, 6, 7, *own[3:].argmax(axis=1)]
    np.testing.assert_allclose(probs, own[np.arange(5), tokens], rtol=1e-4)


def test_draws_are_of_the_prediction(tiny: Model) -> None:
    """First tokens of many seeds, against the distribution that they are drawn from."""
    found = [generated(tiny, PROMPT, 1, temperature=1.0, seed=seed)[0][0] for seed in range(400)]
    counts = np.bincount(found, minlength=TINY.vocab_size)
    own = predicted(tiny, [PROMPT])[0]
    assert 0.5 * np.abs(counts / 400 - own).sum() < 0.25
    assert counts[own < 1e-5].sum() == 0


def test_traces_are_those_of_the_prefixes(tiny: Model) -> None:
    model, sizes = Model(tiny.decoder, Letters()), (0.3,)
    seen: list[tuple[int, int]] = []
    found = jstrace.trace_generation(model, "abc", 4, sizes=sizes, progress=lambda *done: seen.append(done))
    n = found.n_prompt
    assert (n, len(found.traces), len(found.tokens)) == (3, 4, 7)
    assert found.token_texts == tuple(map(Letters().token, found.tokens.tolist()))
    assert found.tokens[n:].tolist() == found.generated.tolist()
    assert seen[-1] == (4, 4)
    prefixes = [found.tokens[: n + step] for step in range(4)]
    assert list(found.traces) == jstrace.trace(model, prefixes, sizes=sizes)
    assert predicted(model, prefixes)[:4].argmax(axis=1).tolist() == found.generated.tolist()
    assert repr(found) == "Generation(4 tokens after 3, temperature 0)"


def test_texts_of_sequences_are_decoded_together(tiny: Model, tmp_path: Path) -> None:
    """Joined from those of their tokens they would have no letter; saved, too."""
    found = jstrace.trace_generation(Model(tiny.decoder, Halves()), "éa", 1, sizes=(0.3,))
    (trace,) = found.traces
    assert (trace.text, found.text) == ("éa", Halves().text(found.tokens.tolist()))
    assert trace.token_texts == tuple(map(Halves().token, Halves().encode("éa")))
    trace.save(tmp_path / "a.npz")
    assert jstrace.Trace.load(tmp_path / "a.npz") == trace
    assert jstrace.trace(tiny, trace.tokens, sizes=(0.3,)).text is None, "without a tokenizer"
    assert (
        jstrace.trace(Model(tiny.decoder, Letters()), trace.tokens, sizes=(0.3,)).text == "<b>12<b>3<b>10<b>9<b>6<b>1"
    )


def test_traces_saved_before_they_had_a_text(tiny: Model, tmp_path: Path) -> None:
    for tokenizer in (Letters(), None):
        trace = jstrace.trace(Model(tiny.decoder, tokenizer), PROMPT, sizes=(0.3,))
        header = {name: value for name, value in _header(trace).items() if name != "text"}
        archives.write(tmp_path / "old.npz", header, _arrays(trace))
        assert jstrace.Trace.load(tmp_path / "old.npz") == trace


def test_what_a_token_leaves_as_it_was(tiny: Model) -> None:
    """Scores by norms below the last layer, whose edges are those into the last token; no others."""
    rows = [np.arange(3, 3 + n, dtype=np.int32) for n in (7, 8)]
    for score, stays in (("l1", True), ("random", False)):
        short, long = (trace.scores.attn for trace in jstrace.trace(tiny, rows, score=score, sizes=SIZES))
        assert np.array_equal(short[:-1], long[:-1, :, :7, :7]) is stays, score
        assert (long[-1, :, :7] == -1).all()


def test_predictions_that_are_not_finite() -> None:
    params = tiny_params()
    model = Model(Decoder(TINY, params | {"final_norm": params["final_norm"] * np.nan}))
    with pytest.raises(InputError, match="the prediction of token 1 after the prompt is not finite"):
        jstrace.trace_generation(model, PROMPT, 2, sizes=SIZES)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (PROMPT, {"n": 0}, "n = 0, expected a number of tokens"),
        (PROMPT, {"n": 10**30}, "expected a number of tokens to generate, up to 1,048,576"),
        (PROMPT, {"n": True}, "n = True"),
        (PROMPT, {"temperature": -1}, "temperature = -1, expected a number"),
        (PROMPT, {"temperature": float("nan")}, "temperature = nan"),
        (PROMPT, {"temperature": float("inf")}, "temperature = inf"),
        (PROMPT, {"temperature": 1e300}, "expected a number from 1e-06 to 1e\\+06, or 0 for the most probable"),
        (PROMPT, {"temperature": 1e-40}, "temperature = 1e-40"),
        (PROMPT, {"temperature": 10**400}, "temperature = 1000"),
        (PROMPT, {"seed": -1}, "seed"),
        (PROMPT, {"sizes": (0.3, 0.1)}, "sizes"),
        ([], {}, "takes one prompt"),
        (np.asarray([97]), {}, "outside the vocabulary"),
    ],
)
def test_bad_arguments(tiny: Model, prompt: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jstrace.trace_generation(Model(tiny.decoder, Letters()), prompt, **{"n": 2} | options)  # type: ignore[arg-type]


def test_positions_end() -> None:
    """With a token to spare: the last one that is generated needs no position, as nothing is predicted from it."""
    config = dataclasses.replace(family_config("gpt2"), max_positions=6)
    model = Model(Decoder(config, tiny_params(config)))
    assert len(generated(model, PROMPT, 4)[0]) == 4, "the last token is not read"
    found = jstrace.trace_generation(model, PROMPT, 4, sizes=SIZES)
    assert (len(found.tokens), len(found.traces[-1].tokens)) == (7, 6)
    for call in (generated, jstrace.trace_generation):
        with pytest.raises(InputError, match="7 tokens, more than the 6 positions"):
            call(model, PROMPT, 5)
