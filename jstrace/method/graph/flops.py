"""What a pass costs that computes only what a trace keeps: floating-point operations by size (section 5).

Share of edges is not share of computation: the rows of a layer are computed for one live edge as for all. A pass that
knows the mask beforehand skips an MLP without a live edge. Under zero ablation it skips an attention row (head and
target) without one, and keys and values that no such row reads. An ablated attention edge that carries a replacement
keeps its probability, so then a row is computed wherever the state after it is read. States that no live edge leads to
are constants, and so are their projections. What costs a hundredth of a product (norms, activations, softmax, sums) is
not counted.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jstrace.method.conditions import Condition
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import EdgeTree, ModelConfig
from jstrace.models.edges import ByValue

_REPLACED = ("rows", "queries", "pairs", "keys")
WORK = ("rows", "queries", "pairs", "keys", "values", "mlps", *(f"replaced_{name}" for name in _REPLACED))
"""What is counted of each trace: rows of attention with a live edge, those of them whose query is computed, sources of
those rows, keys and values that are computed, and MLPs of tokens; and the same of rows that are computed where ablated
edges carry a replacement."""


class LayerWork(NamedTuple):
    """The first size (uint8) at which a trace needs parts of a layer's attention, with the sources of each row."""

    rows: Any
    """``[H, T]``,"""
    keys: Any
    """``[K, T]``,"""
    values: Any
    """``[K, T]``; and where ablated edges carry a replacement, alike for all heads,"""
    replaced_rows: Any
    """``[T]``,"""
    replaced_keys: Any
    """``[T]``."""
    n_sources: Any
    """``[H, T]``."""


def of_layer(attn: Any, after: Any, before: Any, config: ModelConfig, xp: Any = np) -> LayerWork:
    """What a layer's attention is needed for, whether its states are computed or not.

    Args:
      attn: strata ``[H, T, T]`` of its edges.
      after: the first size at which the MLP's side reads the states after it ``[T]``.
      before: the first size at which an edge leads to the states that it reads ``[T]``; blocks are not parallel.
      config: of the model.
      xp: ``numpy``, or ``jax.numpy`` on the device.
    """
    none, slots = np.uint8(NO_EDGE), attn != NO_EDGE
    rows, groups = attn.min(axis=-1), (config.n_kv_heads, config.n_groups, -1)
    seen = xp.where(slots, rows[..., None], none)
    keys, values = (tree.min(axis=1).reshape(groups).min(axis=1) for tree in (seen, attn))
    moved = xp.where(slots[0], before, none).min(axis=1)  # a row is a constant where no source's state is computed
    read = xp.where(slots[0], after[:, None], none).min(axis=0)
    return LayerWork(rows, keys, values, xp.maximum(after, moved), read, slots.sum(axis=-1))


def over_layers(strata: EdgeTree, xp: Any = np) -> tuple[Any, Any, Any]:
    """The arguments of ``of_layer``, of every layer: ``[L, H, T, T]``, ``[L, T]`` and ``[L, T]``."""
    after = xp.minimum(strata.residual_mlp, strata.mlp)
    return strata.attn, after, _one_later(after, xp)


def latest(strata: EdgeTree, layers: LayerWork, config: ModelConfig, xp: Any = np) -> dict[str, tuple[Any, Any]]:
    """For each thing of ``WORK`` the first size (uint8) at which a trace needs it, and for how many it stands.

    Args:
      strata: uint8 of one input.
      layers: from ``of_layer``, of every layer on a leading axis.
      config: of the model.
      xp: ``numpy``, or ``jax.numpy`` on the device.
    """
    before, between = _states(strata, layers.rows, config.parallel, xp)
    computed, sources = before[:, None], layers.n_sources
    return {
        "rows": (layers.rows, 1),
        "queries": (xp.maximum(layers.rows, computed), 1),
        "pairs": (layers.rows, sources),
        "keys": (xp.maximum(layers.keys, computed), 1),
        "values": (xp.maximum(layers.values, computed), 1),
        "mlps": (xp.maximum(strata.mlp, between), 1),
        "replaced_rows": (layers.replaced_rows, config.n_heads),
        "replaced_queries": (xp.maximum(layers.replaced_rows, before), config.n_heads),
        "replaced_pairs": (layers.replaced_rows, sources.sum(axis=1)),
        "replaced_keys": (xp.maximum(layers.replaced_keys, before), config.n_kv_heads),
    }


def _states(strata: EdgeTree, rows: Any, parallel: bool, xp: Any) -> tuple[Any, Any]:
    """The first size at which an edge leads to the state ``[L, T]`` that attention reads, and to that of the MLP."""
    after_attention = xp.minimum(strata.residual_attn, rows.min(axis=1))
    after_mlp = xp.minimum(strata.residual_mlp, strata.mlp)
    before = _one_later(xp.minimum(after_attention, after_mlp) if parallel else after_mlp, xp)
    return before, before if parallel else after_attention


def _one_later(states: Any, xp: Any) -> Any:
    """From the states after layers to those before them, of which the embeddings are always there."""
    return xp.concatenate([xp.zeros_like(states[:1]), states[:-1]])


def work(strata: EdgeTree, n_sizes: int, config: ModelConfig) -> Int[np.ndarray, "Z1 W"]:
    """How much of each of ``WORK`` every trace needs, the full graph last; of strata on the host."""
    layers = [of_layer(*one, config) for one in zip(*over_layers(strata), strict=True)]  # one at a time
    needed = latest(strata, LayerWork(*map(np.stack, zip(*layers, strict=True))), config)
    counts = [
        np.bincount(first.ravel(), np.broadcast_to(many, first.shape).ravel(), minlength=256)
        for first, many in (needed[name] for name in WORK)
    ]
    return np.cumsum(counts, axis=1)[:, : n_sizes + 1].T.astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Flops(ByValue):
    """Floating-point operations by size, the last the full graph's."""

    attention: Float[np.ndarray, "Z1"]
    """Under zero ablation."""
    pre_softmax: Float[np.ndarray, "Z1"]
    """Of attention where masks enter the softmax, which pairs without a live edge stay out of."""
    replaced: Float[np.ndarray, "Z1"]
    """Of attention where ablated edges carry a replacement."""
    mlp: Float[np.ndarray, "Z1"]
    """Of MLPs whose state an edge leads to."""
    live_mlp: Float[np.ndarray, "Z1"]
    """Of all live MLPs: attention that is computed anyway leads to their states."""
    head: float
    """Of the logits, which every trace needs."""

    def total(self, condition: Condition) -> Float[np.ndarray, "Z1"]:
        """Of a pass under this condition: under "residual+mlp" attention is always computed whole."""
        if condition.ablate != "all":
            return self.attention[-1] + self.live_mlp + self.head
        if condition.replace != "zero":
            return self.replaced + self.live_mlp + self.head
        return (self.pre_softmax if condition.pre_softmax else self.attention) + self.mlp + self.head


def flops(
    work: Int[np.ndarray, "Z1 W"],
    attn_edges: Int[np.ndarray, "Z1"],
    mlp_edges: Int[np.ndarray, "Z1"],
    config: ModelConfig,
    n_outputs: int = 1,
) -> Flops:
    """Two operations for each multiplication of a product.

    With d the width of the model, h of a head and m of an MLP: a query, key or value costs 2dh, a row's way back into
    the stream 2hd, a query with one key 2h, a value in the sum 2h, an MLP 4dm (6dm with a gate), the logits 2dV for
    each output. Of experts m is the width of those chosen for a token, and their router costs 2d for each there is.

    Args:
      work: from ``work``, or counted on the device.
      attn_edges: attention edges of every trace.
      mlp_edges: MLP edges of every trace.
      config: of the model.
      n_outputs: of the graph.
    """
    rows, queries, pairs, keys, values, mlps, *replaced = work.astype(np.float64).T
    every_row, every_query, every_pair, every_key = replaced
    d, h = config.d_model, config.head_dim
    each = ((6.0 if config.gated_mlp else 4.0) * config.mlp_width + 2.0 * config.n_experts) * d

    def attention(rows: Any, queries: Any, pairs: Any, keys: Any, mixed: Any) -> Any:
        return 2 * d * h * (rows + queries + keys + values) + 2 * h * (pairs + mixed)

    zero = attention(rows, queries, pairs, keys, attn_edges)
    # With parallel blocks every state but the embeddings hangs on a row of attention.
    other = (
        np.full_like(zero, zero[-1])
        if config.parallel
        else attention(every_row, every_query, every_pair, every_key, every_pair)
    )
    before_softmax = attention(rows, queries, attn_edges, values, attn_edges)
    return Flops(zero, before_softmax, other, each * mlps, each * mlp_edges, 2.0 * d * config.vocab_size * n_outputs)
