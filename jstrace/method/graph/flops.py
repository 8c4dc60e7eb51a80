"""What a pass costs that computes only what a trace keeps: floating-point operations by size (section 5).

Share of edges is not share of computation: the rows of a layer are computed for one live edge as for all. A pass that
knows the mask beforehand skips an MLP without a live edge, an attention row (head and target) without one, and keys and
values that no such row reads. States that no live edge leads to are constants of the replacement, and so are their
projections. What costs a hundredth of a product (norms, activations, softmax, sums) is not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import EdgeTree, ModelConfig
from jstrace.models.edges import ByValue

WORK = ("rows", "queries", "pairs", "keys", "values", "mlps")
"""What is counted of each trace: rows of attention with a live edge, those of them whose query is computed, sources of
those rows, keys and values that are computed, and MLPs of tokens."""


def of_layer(attn: Any, config: ModelConfig, xp: Any = np) -> tuple[Any, ...]:
    """Of the strata ``[H, T, T]`` of a layer's attention edges the first size (uint8) at which a trace has

    a row ``[H, T]``, and reads a key and a value ``[K, T]``; and the sources of each row ``[H, T]``.
    """
    rows = attn.min(axis=-1)
    groups = (config.n_kv_heads, config.n_groups, -1)
    seen = xp.where(attn == NO_EDGE, np.uint8(NO_EDGE), rows[..., None])
    keys, values = (tree.min(axis=1).reshape(groups).min(axis=1) for tree in (seen, attn))
    return rows, keys, values, (attn != NO_EDGE).sum(axis=-1)


def latest(strata: EdgeTree, layers: Sequence[Any], config: ModelConfig, xp: Any = np) -> dict[str, Any]:
    """For each thing that ``WORK`` counts, the first size (uint8) at which a trace needs it; sources have weights.

    Args:
      strata: uint8 of one input.
      layers: from ``of_layer``, of every layer.
      config: of the model.
      xp: ``numpy``, or ``jax.numpy`` on the device.

    Returns:
      Arrays of ``[L, H, T]``, ``[L, K, T]`` and ``[L, T]`` by the names of ``WORK``, and the sources of each row
      ``[L, H, T]`` as ``n_sources``.
    """
    rows, keys, values, n_sources = layers
    before, between = _states(strata, rows, config.parallel, xp)
    computed = before[:, None]
    return {
        "rows": rows,
        "queries": xp.maximum(rows, computed),
        "pairs": rows,
        "keys": xp.maximum(keys, computed),
        "values": xp.maximum(values, computed),
        "mlps": xp.maximum(strata.mlp, between),
        "n_sources": n_sources,
    }


def _states(strata: EdgeTree, rows: Any, parallel: bool, xp: Any) -> tuple[Any, Any]:
    """The first size at which an edge leads to the state ``[L, T]`` that attention reads, and to that of the MLP."""
    after_attention = xp.minimum(strata.residual_attn, rows.min(axis=1))
    after_mlp = xp.minimum(strata.residual_mlp, strata.mlp)
    after = xp.minimum(after_attention, after_mlp) if parallel else after_mlp
    before = xp.concatenate([xp.zeros_like(after[:1]), after[:-1]])
    return before, before if parallel else after_attention


def work(strata: EdgeTree, n_sizes: int, config: ModelConfig) -> Int[np.ndarray, "Z1 6"]:
    """How much of each of ``WORK`` every trace needs, the full graph last; of strata on the host."""
    layers = zip(*(of_layer(attn, config) for attn in strata.attn), strict=True)  # no more than one beside the strata
    found = latest(strata, [np.stack(one) for one in layers], config)
    weights = {"pairs": found.pop("n_sources").ravel()}
    counts = [np.bincount(found[name].ravel(), weights.get(name), minlength=256) for name in WORK]
    return np.cumsum(counts, axis=1)[:, : n_sizes + 1].T.astype(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Flops(ByValue):
    """Floating-point operations by size, the last the full graph's."""

    attention: Float[np.ndarray, "Z1"]
    mlp: Float[np.ndarray, "Z1"]
    head: float
    """Of the logits, which every trace needs."""

    def total(self, ablate: str = "all") -> Float[np.ndarray, "Z1"]:
        """Of a pass with this ablation: under "residual+mlp" attention is always computed whole."""
        attention = self.attention if ablate == "all" else np.full_like(self.attention, self.attention[-1])
        return attention + self.mlp + self.head


def flops(
    work: Int[np.ndarray, "Z1 6"], edges: Int[np.ndarray, "Z1"], config: ModelConfig, n_outputs: int = 1
) -> Flops:
    """Two operations for each multiplication of a product.

    With d the width of the model, h of a head and m of an MLP: a query, key or value costs 2dh, a row's way back into
    the stream 2hd, a query with one key 2h, a value in the sum 2h, an MLP 4dm (6dm with a gate), the logits 2dV for
    each output. Of experts m is the width of those chosen for a token, and their router costs 2d for each there is.

    Args:
      work: from ``work``, or counted on the device.
      edges: attention edges of every trace.
      config: of the model.
      n_outputs: of the graph.
    """
    rows, queries, pairs, keys, values, mlps = work.astype(np.float64).T
    d, h = config.d_model, config.head_dim
    attention = 2 * d * h * (rows + queries + keys + values) + 2 * h * (pairs + edges)
    mlp = ((6 if config.gated_mlp else 4) * config.mlp_width + 2 * config.n_experts) * d * mlps
    return Flops(attention, mlp, 2.0 * d * config.vocab_size * n_outputs)
