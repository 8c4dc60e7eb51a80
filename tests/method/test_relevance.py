"""The backward pass of RelP: against the rules written out in float64, forward values, and conservation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.graph import full_graph
from jstrace.method.scores.gradients import Pass, RelP, ShareTimesGradient, as_floats, logit_gradient
from jstrace.method.scores.rounds import Rounds
from jstrace.method.scores.scoring import SCORES
from jstrace.models import Decoder, EdgeTree, Model, ModelConfig, hidden_states, masked_forward
from jstrace.models.relevance import in_proportion
from tests import oracle
from tests.conftest import KINDS, SIZES, family_config, tiny_params

N, TOKEN = 5, 3
BIAS_FREE = ("llama", "mistral", "qwen3", "olmo2", "phi3", "gemma2", "gemma3")


class Linear(oracle.Literal):
    """The model that the rules make of one input: its first masked pass says what is constant in all later ones.

    Scales of norms, attention logits and ratios are taped in the order in which they are asked for. What is left is
    linear in every edge, so the logit with an edge less the logit without it is the edge's relevance.
    """

    def __init__(self, *given: Any, replace: dict[str, np.ndarray] | None) -> None:
        super().__init__(*given)
        self.tape: list[Any] = []
        self.reading: Any = None
        self.replace = replace

    def kept(self, value: Any) -> Any:
        if self.reading is not None:
            return next(self.reading)
        self.tape.append(value)
        return value

    def logit(self, mask: EdgeTree) -> float:
        logit = self.masked(mask, replace=self.replace)[TOKEN]
        self.reading = iter(self.tape)
        return float(logit)

    def sigma(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.kept(super().sigma(x)))

    def root(self, x: np.ndarray, eps: float) -> np.ndarray:
        return np.asarray(self.kept(super().root(x, eps)))

    def attention(self, index: int, w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, u = super().attention(index, w, x)
        return self.kept(logits), u

    def attended(self, index: int, w: dict[str, np.ndarray], x: np.ndarray) -> tuple[np.ndarray, ...]:
        factors, seen, values, gate = super().attended(index, w, x)
        linear = self.config.mixer != "softmax"
        return self.kept(factors) if linear else factors, seen, values, self.kept(gate)

    def silu(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.kept(ratio(super().silu(x), x)) * x)

    def activated(self, w: dict[str, np.ndarray], gate: np.ndarray | None, up: np.ndarray) -> np.ndarray:
        if gate is None:
            return self.kept(ratio(self.activation(w, up), up)) * up
        one = 0.0
        if self.config.gate_clamp is not None:
            up, one = self.kept(ratio(self.bounded(up), up)) * up, 1.0
        slope, clean_up = self.kept((ratio(self.activation(w, gate), gate), up + one))
        return (slope * gate * clean_up + self.kept(self.activation(w, gate)) * (up + one)) / 2

    def chosen(self, w: dict[str, np.ndarray], y: np.ndarray) -> dict[int, float]:
        return dict(self.kept(super().chosen(w, y)))

    def shared_factor(self, w: dict[str, np.ndarray], y: np.ndarray) -> float:
        return float(self.kept(super().shared_factor(w, y)))

    def logits(self, x: np.ndarray) -> np.ndarray:
        out = self.params.get("head", self.params["embed"]) @ self.norm(self.params, "final_norm", x)
        cap = self.config.logit_softcap
        return out if cap is None else out * self.kept(ratio(cap * np.tanh(out / cap), out))


def ratio(value: np.ndarray, x: np.ndarray) -> np.ndarray:
    return value / np.where(x == 0, 1, x)  # what is zero under a mask is not read


def model_and_tokens(family: str) -> tuple[ModelConfig, Decoder, np.ndarray]:
    config = family_config(family)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, N)
    return config, Decoder(config, tiny_params(config)), tokens


def relevances(one: Pass) -> EdgeTree:
    """Signed, and zero in slots that are no edge."""
    slots = one.slots()
    found = jax.jit(lambda: logit_gradient(one._replace(relevance=True), as_floats(slots), TOKEN))()
    return jax.tree.map(lambda leaf, slot: np.where(slot, leaf, 0.0), found, slots)


@pytest.mark.parametrize(("family", "replaced"), [*((one, True) for one in KINDS), ("gpt2", False)])
def test_the_rules_in_float64(family: str, replaced: bool) -> None:
    """What the linear model loses with an edge, by the literal oracle."""
    config, decoder, tokens = model_and_tokens(family)
    replace = hidden_states(decoder, jnp.asarray(tokens[::-1].copy())) if replaced else None
    got = relevances(Pass(decoder, jnp.asarray(tokens), N, replace))
    arrays = {name: np.asarray(x) for name, x in replace.arrays().items()} if replace is not None else None
    linear = Linear(config, tiny_params(config), tokens, replace=arrays)
    slots = full_graph.edge_slots(config, N, N, np)
    whole, rng = linear.logit(slots), np.random.default_rng(1)
    for name, slot in slots.items():
        places = np.argwhere(slot)
        for place in places[rng.choice(len(places), min(4, len(places)), replace=False)]:
            mask = jax.tree.map(np.copy, slots)
            getattr(mask, name)[tuple(place)] = False
            expected = whole - linear.logit(mask)
            assert getattr(got, name)[tuple(place)] == pytest.approx(expected, rel=1e-3, abs=2e-5), (name, place)


@pytest.mark.parametrize("family", BIAS_FREE)
def test_relevance_is_conserved(family: str) -> None:
    """Of every node what goes in is what goes out, and what enters a level is the logit."""
    _, decoder, tokens = model_and_tokens(family)
    one = Pass(decoder, jnp.asarray(tokens), N, None)
    got = relevances(one)
    logit = float(one.logits(as_floats(one.slots()))[TOKEN])
    into = got.residual_attn + got.attn.sum((1, 3)), got.residual_mlp + got.mlp  # odd levels, even ones from 2 on
    out = got.residual_attn + got.attn.sum((1, 2)), got.residual_mlp + got.mlp  # even levels from 0 on, odd ones
    np.testing.assert_allclose(into[0], out[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(into[1][:-1], out[0][1:], rtol=1e-3, atol=1e-4)
    for level in into:
        np.testing.assert_allclose(level.sum(1), logit, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", KINDS)
def test_the_forward_pass_is_the_same_to_the_bit(family: str) -> None:
    config, decoder, tokens = model_and_tokens(family)
    replace = hidden_states(decoder, jnp.asarray(tokens[::-1].copy()))
    rng = np.random.default_rng(2)
    soft = jax.tree.map(lambda slot: jnp.asarray(slot * rng.random(slot.shape), jnp.float32),
                        full_graph.edge_slots(config, N, N, np))  # fmt: skip

    @jax.jit
    def both() -> list[list[jax.Array]]:
        forms = ({}, {"replace": replace})
        return [[masked_forward(decoder, jnp.asarray(tokens), soft, relevance=relevance, **form) for form in forms]
                for relevance in (False, True)]  # fmt: skip

    np.testing.assert_array_equal(*map(np.asarray, both()))


def test_ratios_at_and_near_zero() -> None:
    for function, limit in ((jax.nn.silu, 0.5), (jnp.tanh, 1.0)):
        for x in (0.0, -0.0, 1e-30, 2.0, -3.0, 200.0, -200.0):
            value, slope = jax.value_and_grad(lambda x, f=function: in_proportion(f, x))(jnp.float32(x))
            assert value == function(jnp.float32(x))
            assert slope == pytest.approx(float(function(x) / x) if abs(x) > 1e-6 else limit, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    """Relevance has the dtype of masks, and is that of the full weights but for rounding."""
    config, decoder, tokens = model_and_tokens("gemma2")
    half = Decoder(config, jax.tree.map(lambda leaf: leaf.astype(dtype), tiny_params(config)))
    wide, narrow = (relevances(Pass(each, jnp.asarray(tokens), N, None)) for each in (decoder, half))
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (wide, narrow))
    assert np.corrcoef(a, b)[0, 1] > 0.99


def test_the_scores() -> None:
    """``relp`` is the size of relevance, and ``l1*relp`` has it in the place of the gradient in ``l1*gradient``."""
    _, decoder, tokens = model_and_tokens("llama")
    one = Pass(decoder, jnp.asarray(tokens), N, None, jax.nn.one_hot(TOKEN, decoder.config.vocab_size))
    names, signed = ("relp", "l1*relp", "gradient", "l1*gradient"), relevances(one)
    made = jax.jit(lambda: [SCORES[name]().edge_scores(one) for name in names])()
    for name, slot in one.slots().items():
        relp, relp_product, gradient, product = (np.asarray(getattr(tree, name))[slot] for tree in made)
        np.testing.assert_allclose(relp, np.abs(getattr(signed, name)[slot]), rtol=1e-5, atol=1e-7)
        clear = (relp > 1e-4) & (gradient > 1e-4) & (product > 1e-4)
        ratios = relp_product[clear] / product[clear]
        np.testing.assert_allclose(ratios, np.sqrt(relp / gradient)[clear], rtol=1e-3)
        assert clear.any()
        assert np.ptp(ratios) > 0.1, "it is not the gradient"


def asked(logits: jax.Array) -> jax.Array:
    return logits[0, 3] - jnp.square(logits[1, 11])


def test_a_trace_of_a_pair_with_an_answer_and_a_metric(tiny: Model) -> None:
    """Through ``trace`` it is the score of the same pass."""
    text, other, answer = (np.asarray(ids, np.int32) for ids in ([5, 8, 13, 2], [5, 8, 21, 2], [40, 7]))
    how: dict[str, Any] = {"counterfactual": other, "answer": answer, "metric": asked}
    got = jstrace.trace(tiny, text, score="relp", sizes=SIZES, **how)
    assert (got.score, got.replace) == ("relp", "counterfactual")
    tokens, others = (jnp.asarray(np.r_[ids, answer[:-1]]) for ids in (text, other))
    one = Pass(tiny.decoder, tokens, 5, hidden_states(tiny.decoder, others), answer=jnp.asarray(answer), metric=asked)
    expected = jax.jit(lambda: RelP().edge_scores(one))()
    for name, slot in one.slots().items():
        np.testing.assert_allclose(getattr(got.scores, name)[slot], getattr(expected, name)[slot], rtol=1e-3, atol=1e-5)


def test_names_say_what_passes() -> None:
    assert [RelP().name, SCORES["l1*relp"]().name] == ["relp", "l1*relp"]  # type: ignore[attr-defined]
    assert RelP(Rounds(cuts=5)).name == "relp-of-rounds-cuts-5"
    assert RelP(ShareTimesGradient()) != SCORES["l1*relp"]()
