"""What a trace costs: counted edge by edge, and what a compiled pass counts of itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.method.graph.composition import compose
from jstrace.method.graph.flops import flops, work
from jstrace.models import Decoder, EdgeTree, ModelConfig
from jstrace.models.clean import plain_forward
from tests.conftest import TINY, family_config, tiny_params

N_SIZES = 3


def literal(mask: EdgeTree, slots: np.ndarray, config: ModelConfig) -> tuple[float, float]:
    """Operations of attention and of MLPs that a pass under a mask cannot do without, edge by edge."""
    d, h, shared = config.d_model, config.head_dim, config.n_groups
    attention = mlp = 0.0
    n_layers, n_heads, n_tokens, _ = mask.attn.shape

    def reached(layer: int, token: int, *, after_attention: bool) -> bool:
        """Whether an edge leads to a state: that before the layer's attention, or the one after it."""
        own = bool(mask.residual_attn[layer, token] or mask.attn[layer, :, token].any()) if layer >= 0 else True
        other = bool(mask.residual_mlp[layer, token] or mask.mlp[layer, token]) if layer >= 0 else True
        if config.parallel:
            return own or other
        return own if after_attention else other

    for layer in range(n_layers):
        keys, values = set(), set()
        before = [reached(layer - 1, token, after_attention=False) for token in range(n_tokens)]
        for head in range(n_heads):
            for target in range(n_tokens):
                live = mask.attn[layer, head, target]
                if not live.any():
                    continue
                attention += 2 * d * h * (1 + before[target])
                attention += 2 * h * (slots[layer, head, target].sum() + live.sum())
                keys |= {(head // shared, source) for source in np.flatnonzero(slots[layer, head, target])}
                values |= {(head // shared, source) for source in np.flatnonzero(live)}
        attention += 2 * d * h * sum(before[source] for used in (keys, values) for _, source in used)
        for token in range(n_tokens):
            state = before[token] if config.parallel else reached(layer, token, after_attention=True)
            if mask.mlp[layer, token] and state:
                products = 3 if config.gated_mlp else 2
                mlp += 2 * d * (products * (config.d_mlp * (config.n_chosen or 1) + config.d_shared) + config.n_experts)
    return attention, mlp


@pytest.mark.quick
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_neox", "qwen2_moe"])
def test_every_trace_costs_what_its_edges_need(family: str) -> None:
    config, n_tokens, rng = family_config(family), 5, np.random.default_rng(1)
    level, maps = (config.n_layers, n_tokens), (config.n_layers, config.n_heads, n_tokens, n_tokens)
    strata = EdgeTree(*(rng.choice([0, 1, 2, 3, 255], shape).astype(np.uint8) for shape in (level, maps, level, level)))
    made = compose(strata, N_SIZES, config, n_outputs=2).flops
    for k in range(N_SIZES + 1):
        expected = literal(jax.tree.map(lambda leaf, k=k: leaf <= k, strata), strata.attn != 255, config)
        assert (made.attention[k], made.mlp[k]) == expected
    assert made.head == 2 * 2 * config.d_model * config.vocab_size
    np.testing.assert_array_equal(made.total("all"), made.attention + made.mlp + made.head)
    np.testing.assert_array_equal(made.total("residual+mlp"), made.attention[-1] + made.mlp + made.head)


def test_the_full_graph_costs_what_a_compiled_pass_counts() -> None:
    """Of a shape whose products are nearly all of it; compiled it has all pairs of tokens. Loops are counted once."""
    shape: dict[str, Any] = {"n_layers": 1, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "d_mlp": 512}
    config, n_tokens = dataclasses.replace(TINY, vocab_size=997, **shape), 16
    run = jax.jit(lambda decoder, tokens: plain_forward(decoder, tokens, every=True))
    compiled = run.lower(Decoder(config, tiny_params(config)), jnp.zeros(n_tokens, jnp.int32)).compile()
    causal = np.tril(np.ones((n_tokens, n_tokens), bool))
    attn = np.where(causal, 0, 255) * np.ones((config.n_layers, config.n_heads, 1, 1))
    level = np.zeros((config.n_layers, n_tokens), np.uint8)
    whole = EdgeTree(level, attn.astype(np.uint8), level, level)
    edges = np.asarray([causal.sum() * config.n_layers * config.n_heads] * 2)
    expected = flops(work(whole, 1, config), edges, config, n_outputs=n_tokens).total()[-1]
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, rel=0.03)
