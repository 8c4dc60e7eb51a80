"""What traces are made of: shares of edge types, layers and components, and nodes reached (section 5)."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from jstrace.method.graph.counting import Counts
from jstrace.method.graph.depth import by_quarter
from jstrace.method.graph.flops import Flops, flops, work
from jstrace.models import EdgeTree, ModelConfig
from jstrace.models.edges import ByValue


@dataclasses.dataclass(frozen=True, eq=False)
class Composition(ByValue):
    """Per size, the last row being the full graph; shares of an empty trace are NaN.

    Two are equal where all their numbers are.
    """

    edges: Int[np.ndarray, "Z1"]
    residual: Float[np.ndarray, "Z1"]
    """Share of residual edges, both kinds."""
    attention: Float[np.ndarray, "Z1"]
    mlp: Float[np.ndarray, "Z1"]
    layers: Float[np.ndarray, "Z1 L"]
    """Share of the edges that lie in each layer."""
    quarters: Float[np.ndarray, "Z1 4"]
    """The same per quarter of the depth."""
    nodes: Int[np.ndarray, "Z1"]
    """Nodes reached: the outputs and the source of every edge."""
    input_reached: Bool[np.ndarray, "Z1"]
    """Whether an edge leaves a node of level 0."""
    residual_edges: Int[np.ndarray, "Z1 L"]
    """Edges of each component: the residual stream of a layer (both kinds),"""
    mlp_edges: Int[np.ndarray, "Z1 L"]
    """its MLP,"""
    head_edges: Int[np.ndarray, "Z1 L H"]
    """and each of its heads."""
    flops: Flops
    """What a pass costs that computes only what each trace keeps."""


def compose(strata: EdgeTree, n_sizes: int, config: ModelConfig, n_outputs: int = 1) -> Composition:
    """Count the edges of every trace from strata on the host."""
    residual = _held(strata.residual_attn, n_sizes, 1) + _held(strata.residual_mlp, n_sizes, 1)
    mlp, heads = _held(strata.mlp, n_sizes, 1), _held(strata.attn, n_sizes, 2)
    nodes, input_reached = _nodes(strata, n_sizes, config.parallel)
    counts = Counts(residual, mlp, heads, nodes, input_reached, work(strata, n_sizes, config))
    return composed(counts, config, n_outputs)


def composed(counts: Counts, config: ModelConfig, n_outputs: int = 1) -> Composition:
    """The composition that counts of one input, on the host, make."""
    residual, mlp, heads = counts.residual, counts.mlp, counts.heads
    layers = residual + mlp + heads.sum(-1)
    total = layers.sum(-1)
    with np.errstate(invalid="ignore"):
        return Composition(
            edges=total,
            residual=residual.sum(-1) / total,
            attention=heads.sum((-1, -2)) / total,
            mlp=mlp.sum(-1) / total,
            layers=layers / total[:, None],
            quarters=by_quarter(layers) / total[:, None],
            nodes=counts.nodes + n_outputs - 1,
            input_reached=counts.input_reached,
            residual_edges=residual,
            mlp_edges=mlp,
            head_edges=heads,
            flops=flops(counts.work, heads.sum(-1), mlp, config, n_outputs),
        )


def _held(strata: np.ndarray, n_sizes: int, kept_axes: int) -> np.ndarray:
    """How many edges of each component (the leading ``kept_axes``) each trace holds: ``[Z + 1, ...]``."""
    strata = np.asarray(strata)
    shape = strata.shape[:kept_axes]
    # Strata of one input in a batch are no contiguous array: of large ones no more than a layer is copied at a time.
    pieces = strata[None] if strata.size <= 16 * _BLOCK else strata[:, None]
    rows = (piece.reshape(math.prod(piece.shape[:kept_axes]), -1) for piece in pieces)
    counts = np.concatenate([_histograms(piece) for piece in rows])
    return np.cumsum(counts, axis=1)[:, : n_sizes + 1].T.reshape(n_sizes + 1, *shape)


def counted(strata: np.ndarray) -> Int[np.ndarray, "256"]:
    """How often each stratum (uint8) occurs, with a few MB beside the strata."""
    return sum((_histograms(np.reshape(layer, (1, -1)))[0] for layer in strata), start=np.zeros(256, np.int64))


_BLOCK = 2**16
"""Strata that are counted at a time, in bins of 8 bytes: they stay in a core's cache."""


def _histograms(rows: np.ndarray) -> np.ndarray:
    """How often each stratum (uint8) stands in each row: int64 ``[..., 256]``."""
    n_rows, length = rows.shape
    counts = np.zeros((n_rows, 256), np.int64)
    together = max(1, _BLOCK // length)
    offsets = 256 * np.arange(together)[:, None]
    for row in range(0, n_rows, together):
        for start in range(0, length, _BLOCK):
            block = rows[row : row + together, start : start + _BLOCK]
            bins = offsets[: len(block)] + block
            counts[row : row + together] += np.bincount(bins.ravel(), minlength=256 * len(block)).reshape(-1, 256)
    return counts


def _nodes(strata: EdgeTree, n_sizes: int, parallel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Nodes reached per size, and whether one of level 0 is: a node's stratum is the least of its out-edges'."""
    after_even = np.minimum(strata.residual_attn, strata.attn.min(axis=(1, 2)))
    after_odd = np.minimum(strata.residual_mlp, strata.mlp)
    nodes = [np.minimum(after_even, after_odd)] if parallel else [after_even, after_odd]
    reached = _held(np.concatenate(nodes).reshape(1, -1), n_sizes, 1)[:, 0]
    return 1 + reached, _held(nodes[0][:1], n_sizes, 1)[:, 0] > 0
