"""What traces are made of: shares of edge types, layers and components, and nodes reached (section 5)."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from jstrace.models import EdgeTree


@dataclasses.dataclass(frozen=True)
class Composition:
    """Per size, the last row being the full graph; shares of an empty trace are NaN."""

    edges: Int[np.ndarray, "Z1"]
    residual: Float[np.ndarray, "Z1"]
    """Share of residual edges, both kinds."""
    attention: Float[np.ndarray, "Z1"]
    mlp: Float[np.ndarray, "Z1"]
    layers: Float[np.ndarray, "Z1 L"]
    """Share of the edges that lie in each layer."""
    quarters: Float[np.ndarray, "Z1 4"]
    """The same per quarter of the depth; layer l is in quarter floor(4 l / L)."""
    nodes: Int[np.ndarray, "Z1"]
    """Nodes reached: the output and the source of every edge."""
    input_reached: Bool[np.ndarray, "Z1"]
    """Whether an edge leaves a node of level 0."""
    residual_edges: Int[np.ndarray, "Z1 L"]
    """Edges of each component: the residual stream of a layer (both kinds),"""
    mlp_edges: Int[np.ndarray, "Z1 L"]
    """its MLP,"""
    head_edges: Int[np.ndarray, "Z1 L H"]
    """and each of its heads."""


def compose(strata: EdgeTree, n_sizes: int, *, parallel: bool = False) -> Composition:
    """Count the edges of every trace from strata on the host; ``parallel`` as in the model's config."""
    n_layers = strata.mlp.shape[0]
    residual = _held(strata.residual_attn, n_sizes, 1) + _held(strata.residual_mlp, n_sizes, 1)
    mlp, heads = _held(strata.mlp, n_sizes, 1), _held(strata.attn, n_sizes, 2)
    layers = residual + mlp + heads.sum(-1)
    total = layers.sum(-1)
    quarter = np.arange(4)[:, None] == 4 * np.arange(n_layers) // n_layers
    nodes, from_input = _nodes(strata, n_sizes, parallel)
    with np.errstate(invalid="ignore"):
        return Composition(
            edges=total,
            residual=residual.sum(-1) / total,
            attention=heads.sum((-1, -2)) / total,
            mlp=mlp.sum(-1) / total,
            layers=layers / total[:, None],
            quarters=layers @ quarter.T / total[:, None],
            nodes=nodes,
            input_reached=from_input,
            residual_edges=residual,
            mlp_edges=mlp,
            head_edges=heads,
        )


def _held(strata: np.ndarray, n_sizes: int, kept_axes: int) -> np.ndarray:
    """How many edges of each component (the leading ``kept_axes``) each trace holds: ``[Z + 1, ...]``."""
    shape = strata.shape[:kept_axes]
    rows = np.asarray(strata).reshape(int(np.prod(shape)), -1)
    bins = np.arange(len(rows))[:, None] * 256 + rows
    counts = np.bincount(bins.ravel(), minlength=len(rows) * 256).reshape(len(rows), 256)
    return np.cumsum(counts, axis=1)[:, : n_sizes + 1].T.reshape(n_sizes + 1, *shape)


def _nodes(strata: EdgeTree, n_sizes: int, parallel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nodes reached per size, and whether one of level 0 is: a node's stratum is the least of its out-edges'."""
    after_even = np.minimum(strata.residual_attn, strata.attn.min(axis=(1, 2)))
    after_odd = np.minimum(strata.residual_mlp, strata.mlp)
    nodes = [np.minimum(after_even, after_odd)] if parallel else [after_even, after_odd]
    reached = _held(np.concatenate(nodes).reshape(1, -1), n_sizes, 1)[:, 0]
    return 1 + reached, _held(nodes[0][:1], n_sizes, 1)[:, 0] > 0
