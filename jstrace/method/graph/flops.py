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
import functools
from collections.abc import Callable
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
    rows, n_slots = attn.min(axis=-1), attn.shape[-1]
    seen = xp.where(slots, rows[..., None], none)
    shared = ((seen, config.n_kv_heads), (attn, config.n_value_heads))
    keys, values = (tree.min(axis=1).reshape(n_heads, -1, n_slots).min(axis=1) for tree, n_heads in shared)
    moved = xp.where(slots[0], before, none).min(axis=1)  # a row is a constant where no source's state is computed
    read = xp.where(slots[0], after[:, None], none).min(axis=0)
    values = _convolved(values, config.conv_width, xp)
    return LayerWork(rows, keys, values, xp.maximum(after, moved), read, slots.sum(axis=-1))


def _convolved(first: Any, width: int, xp: Any) -> Any:
    """The first size at which projections are needed of tokens that are part of so many tokens' values or queries."""
    later = [xp.concatenate([first[..., by:], xp.full_like(first[..., :by], NO_EDGE)], -1) for by in range(1, width)]
    return functools.reduce(xp.minimum, later, first)


def over_layers(strata: EdgeTree, xp: Any = np) -> tuple[Any, Any, Any]:
    """The arguments of ``of_layer``, of every layer: ``[L, H, T, T]``, ``[L, T]`` and ``[L, T]``."""
    after = xp.minimum(strata.residual_mlp, strata.mlp)
    return strata.attn, after, _one_later(after, xp)


def needed(
    strata: EdgeTree, config: ModelConfig, over: Callable[[ModelConfig, Any], LayerWork], xp: Any = np
) -> list[dict[str, tuple[Any, Any]]]:
    """Of each form of layers, for each thing of ``WORK`` the first size (uint8) at which a trace needs it, and for how
    many it stands.

    Args:
      strata: uint8 of one input.
      config: of the model.
      over: ``of_layer`` for a form's config and the arguments of all its layers, on a leading axis.
      xp: ``numpy``, or ``jax.numpy`` on the device.
    """
    places: list[Any] = [np.asarray(config.layers_of(form)) for form in range(len(config.forms))] or [slice(None)]
    attn, *rest = over_layers(strata, xp)
    forms = list(zip(config.layer_forms, places, strict=True))
    layers = [over(form, (attn[at][:, : form.n_heads], *(each[at] for each in rest))) for form, at in forms]
    rows = [own.rows.min(axis=1) for own in layers]
    read = xp.concatenate(rows)[np.argsort(np.concatenate(places))] if config.forms else rows[0]
    before, between = _states(strata, read, config.parallel, xp)
    return [
        _latest(strata.mlp[at], own, before[at], between[at], form, xp)
        for own, (form, at) in zip(layers, forms, strict=True)
    ]


def _latest(
    mlp: Any, layers: LayerWork, before: Any, between: Any, config: ModelConfig, xp: Any
) -> dict[str, tuple[Any, Any]]:
    computed, sources = before[:, None], layers.n_sources
    return {
        "rows": (layers.rows, 1),
        "queries": (xp.maximum(_convolved(layers.rows, config.conv_width, xp), computed), 1),
        "pairs": (layers.rows, sources),
        "keys": (xp.maximum(layers.keys, computed), 1),
        "values": (xp.maximum(layers.values, computed), 1),
        "mlps": (xp.maximum(mlp, between), 1),
        "replaced_rows": (layers.replaced_rows, config.n_heads),
        "replaced_queries": (xp.maximum(layers.replaced_rows, before), config.n_heads),
        "replaced_pairs": (layers.replaced_rows, sources.sum(axis=1)),
        "replaced_keys": (xp.maximum(layers.replaced_keys, before), config.n_kv_heads),
    }


def _states(strata: EdgeTree, attention: Any, parallel: bool, xp: Any) -> tuple[Any, Any]:
    """The first size at which an edge leads to the state ``[L, T]`` that attention reads, and to that of the MLP.

    ``attention`` is that at which any edge of attention does to the latter.
    """
    after_attention = xp.minimum(strata.residual_attn, attention)
    after_mlp = xp.minimum(strata.residual_mlp, strata.mlp)
    before = _one_later(xp.minimum(after_attention, after_mlp) if parallel else after_mlp, xp)
    return before, before if parallel else after_attention


def _one_later(states: Any, xp: Any) -> Any:
    """From the states after layers to those before them, of which the embeddings are always there."""
    return xp.concatenate([xp.zeros_like(states[:1]), states[:-1]])


def work(strata: EdgeTree, n_sizes: int, config: ModelConfig) -> Int[np.ndarray, "Z1 W"]:
    """How much of each of ``WORK`` every trace needs, the full graph last; of strata on the host.

    Of one form of layers after the other.
    """

    def over(form: ModelConfig, layers: Any) -> LayerWork:
        parts = [
            of_layer(attn, after, before, form) for attn, after, before in zip(*layers, strict=True)
        ]  # one at a time
        return LayerWork(*map(np.stack, zip(*parts, strict=True)))

    counts = [
        np.bincount(first.ravel(), np.broadcast_to(many, first.shape).ravel(), minlength=256)
        for form in needed(strata, config, over)
        for first, many in map(form.__getitem__, WORK)
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
    attn_edges: Int[np.ndarray, "Z1 L"],
    mlp_edges: Int[np.ndarray, "Z1 L"],
    config: ModelConfig,
    n_outputs: int = 1,
) -> Flops:
    """Two operations for each multiplication of a product.

    With d the width of the model, h of a head and m of an MLP: a query, key or value costs 2dh, a row's way back into
    the stream 2hd, a query with one key 2h, a value in the sum 2h, an MLP 4dm (6dm with a gate), the logits 2dV for
    each output. In latent attention the width of what queries, and keys and values, are made of is in the place of d,
    and what makes it is divided among the heads. Of experts m is the width of those chosen for a token, and their
    router costs 2d for each there is. A head's gate costs as much as its row's way back. In Gated DeltaNet and
    Mamba-2 heads divide the query that they share; in the former a pair has two products, and the triangular system is
    not counted.

    Args:
      work: from ``work``, or counted on the device.
      attn_edges: attention edges of every trace.
      mlp_edges: MLP edges of every trace.
      config: of the model.
      n_outputs: of the graph.
    """
    totals = []
    for number, form in enumerate(config.layer_forms):
        own, layers = work[:, number * len(WORK) : (number + 1) * len(WORK)], list(config.layers_of(number))
        totals.append(_of_form(own, attn_edges[:, layers].sum(-1), mlp_edges[:, layers].sum(-1), form))
    attention, pre_softmax, replaced, mlp, live_mlp = (sum(parts) for parts in zip(*totals, strict=True))
    return Flops(attention, pre_softmax, replaced, mlp, live_mlp, 2.0 * config.d_model * config.vocab_size * n_outputs)


def _of_form(work: Any, attn_edges: Any, mlp_edges: Any, config: ModelConfig) -> tuple[Any, ...]:
    """The fields of ``Flops`` but for the last, of the layers of one form."""
    rows, queries, pairs, keys, values, mlps, *replaced = work.astype(np.float64).T
    every_row, every_query, every_pair, every_key = replaced
    d, h, v = config.d_model, config.head_dim, config.value_width
    each = ((6.0 if config.gated_mlp else 4.0) * config.mlp_width + 2.0 * config.n_experts) * d

    q = k = float(h * d)
    if config.q_rank:
        q = config.q_rank * (h + d / config.n_heads)
    if config.kv_rank:
        k = config.kv_rank * (h - config.n_rotary) + d * (config.kv_rank + config.n_rotary) / config.n_heads
    value, pair, row = v * (config.kv_rank or d), float(h), v * d
    if config.mixer in ("delta", "mamba"):
        n = 2 if config.mixer == "delta" else 1  # products of a pair, and numbers of a head beside its key
        q, pair, k = q / config.n_groups, n * h / config.n_groups, k + n * d * config.n_groups
    if config.mixer in ("delta", "mamba") or config.gated_attention:
        row = 2 * row

    def attention(rows: Any, queries: Any, pairs: Any, keys: Any, mixed: Any) -> Any:
        return 2 * (row * rows + value * values + q * queries + k * keys + pair * pairs + v * mixed)

    zero = attention(rows, queries, pairs, keys, attn_edges)
    # With parallel blocks every state but the embeddings hangs on a row of attention.
    other = (
        np.full_like(zero, zero[-1])
        if config.parallel
        else attention(every_row, every_query, every_pair, every_key, every_pair)
    )
    before_softmax = attention(rows, queries, attn_edges, values, attn_edges)
    return zero, before_softmax, other, each * mlps, each * mlp_edges
