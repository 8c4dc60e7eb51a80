"""What a trace costs: counted edge by edge, and what a compiled pass counts of itself."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.method.conditions import Condition
from jstrace.method.graph import full_graph
from jstrace.method.graph.composition import compose
from jstrace.models import Decoder, EdgeTree, ModelConfig
from jstrace.models.clean import plain_forward
from tests.conftest import TINY, family_config, tiny_params

N_SIZES = 3


def literal(mask: EdgeTree, slots: np.ndarray, config: ModelConfig, condition: Condition) -> float:
    """Operations of attention, whole where it is not ablated, and of MLPs that a pass under a mask needs."""
    d, h, shared = config.d_model, config.head_dim, config.n_groups
    found = 0.0
    n_layers, n_heads, n_tokens, _ = mask.attn.shape
    whole = condition.ablate != "all"
    replaced = condition.replace != "zero" and not whole

    @functools.cache
    def moved(layer: int, token: int, *, middle: bool) -> bool:
        """Whether a state is no constant: that before the layer's attention, or the one after it."""
        if whole or (layer == 0 and (config.parallel or not middle)):
            return True
        if config.parallel:
            before = layer - 1
            edges = [mask.residual_attn[before, token], *mask.attn[before, :, token].ravel(), mask.mlp[before, token]]
            return bool(any(edges)) or drifts(before, token)
        if middle:
            return bool(mask.residual_attn[layer, token] or mask.attn[layer, :, token].any()) or drifts(layer, token)
        return bool(mask.residual_mlp[layer - 1, token] or mask.mlp[layer - 1, token])

    def drifts(layer: int, token: int) -> bool:
        """Whether attention moves a state without a live edge, by its probabilities."""
        sources = np.flatnonzero(slots[layer, 0, token])
        return replaced and any(moved(layer, source, middle=False) for source in sources)

    for layer in range(n_layers):
        keys, values = set(), set()
        before = [moved(layer, token, middle=False) for token in range(n_tokens)]
        for head, target in itertools.product(range(n_heads), range(n_tokens)):
            live, seen = mask.attn[layer, head, target], slots[layer, head, target]
            if replaced and not config.parallel:
                wanted = bool(mask.residual_mlp[layer, target] or mask.mlp[layer, target])
            else:
                wanted = replaced or bool(live.any())
            values |= {(head // shared, source) for source in np.flatnonzero(live)}
            if not wanted or not seen.any():
                continue
            read = live if condition.pre_softmax else seen
            keys |= {(head // shared, source) for source in np.flatnonzero(read)}
            if replaced and not any(before[source] for source in np.flatnonzero(seen)):
                continue
            found += 2 * d * h * (1 + before[target])
            found += 2 * h * (read.sum() + (seen if replaced else live).sum())
        if replaced and config.parallel:  # nobody knows which values move
            values = keys
        found += 2 * d * h * sum(before[source] for used in (keys, values) for _, source in used)
        width = config.d_mlp * (config.n_chosen or 1) + config.d_shared
        each = 2 * d * ((3 if config.gated_mlp else 2) * width + config.n_experts)
        found += each * sum(
            bool(m) and (replaced or moved(layer, i, middle=True)) for i, m in enumerate(mask.mlp[layer])
        )
    return found


CONDITIONS = (
    Condition(),
    Condition(pre_softmax=True),
    Condition(replace="mean"),
    Condition("residual+mlp"),
    Condition("residual+mlp", replace="mean"),
)


@pytest.mark.quick
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_neox", "qwen2_moe"])
def test_every_trace_costs_what_its_edges_need(family: str) -> None:
    config, n_tokens, rng = family_config(family), 5, np.random.default_rng(1)
    level, maps = (config.n_layers, n_tokens), (config.n_layers, config.n_heads, n_tokens, n_tokens)
    slots = full_graph.edge_slots(config, n_tokens, n_tokens, np, n_outputs=2)
    shapes = EdgeTree(level, maps, level, level)
    drawn = (rng.choice([0, 1, 2, 3], shape, p=[0.1, 0.2, 0.3, 0.4]) for _, shape in shapes.items())
    strata = EdgeTree(
        *(np.where(slot, one, 255).astype(np.uint8) for one, (_, slot) in zip(drawn, slots.items(), strict=True))
    )
    made = compose(strata, N_SIZES, config, n_outputs=2).flops
    assert made.head == 2 * 2 * config.d_model * config.vocab_size
    every = jax.tree.map(lambda leaf: leaf <= N_SIZES, strata)
    for condition in CONDITIONS:
        for k, total in enumerate(made.total(condition)):
            mask = jax.tree.map(lambda leaf, k=k: leaf <= k, strata)
            if condition.ablate != "all":
                mask = dataclasses.replace(mask, attn=every.attn)
            assert total - made.head == literal(mask, slots.attn, config, condition), (condition, k)
        assert total == made.total(Condition())[-1]  # the full graph


@pytest.mark.parametrize("mixer", ["softmax", "delta", "mamba"])
def test_the_full_graph_costs_what_a_compiled_pass_counts(mixer: str) -> None:
    """Of a shape whose products are nearly all of it; compiled it has all pairs of tokens. Loops are counted once."""
    shape: dict[str, Any] = {"n_layers": 1, "d_model": 128, "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "d_mlp": 512}
    if mixer != "softmax":
        shape |= {"mixer": mixer, "value_dim": 48, "conv_width": 4, "rotary_dim": 0}
    config, n_tokens = dataclasses.replace(TINY, vocab_size=997, **shape), 16
    run = jax.jit(lambda decoder, tokens: plain_forward(decoder, tokens, every=True))
    compiled = run.lower(Decoder(config, tiny_params(config)), jnp.zeros(n_tokens, jnp.int32)).compile()
    causal = np.tril(np.ones((n_tokens, n_tokens), bool))
    attn = np.where(causal, 0, 255) * np.ones((config.n_layers, config.n_heads, 1, 1))
    level = np.zeros((config.n_layers, n_tokens), np.uint8)
    whole = EdgeTree(level, attn.astype(np.uint8), level, level)
    made = compose(whole, 1, config, n_outputs=n_tokens).flops
    expected = made.total(Condition())[-1]
    assert compiled.cost_analysis()["flops"] == pytest.approx(expected, rel=0.03)
