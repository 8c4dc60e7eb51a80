"""From edges between components, pooled over positions, to edges of tokens, and back; on the host, of one input.

Edge attribution patching has a node for the embeddings, each head and each MLP, and an edge from each node to the
input of each later one: to the queries, keys and values of heads, and to the logits. An edge stands for all positions.
The residual stream is no edge there, but a sum of what the earlier nodes wrote. In jstrace it is two edges a layer and
token, which carry all that was written so far. So neither graph can express every selection of the other. Both
translations give the smallest selection that holds every path of what is translated:

- ``mask_of``: a node that has a kept edge keeps its edges at all tokens (a head's from all sources); the stream is kept
  at all tokens wherever a kept edge goes by; edges from which the output cannot be reached are left out again.
- ``edges_of``: an edge is kept if at some token its source writes, the stream is kept from there on, and its target
  reads.

Components are ordered as in hannamw/EAP-IG: sources are the embeddings and, by layer, heads and MLP, ``[F]``; targets
are, by layer, the queries, keys and values of heads and the MLP's input, and last the logits, ``[R]``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jstrace.models import EdgeTree, InputError, ModelConfig
from jstrace.models.slots import edge_slots


class Components(NamedTuple):
    """Where components write to the residual stream and read from it: levels as in section 1 of the method."""

    writes: np.ndarray
    """The level that each source writes to, ``[F]``."""
    reads: np.ndarray
    """The level that each target reads, ``[R]``."""

    @property
    def edges(self) -> np.ndarray:
        """Which pairs are edges, bool ``[F, R]``."""
        return self.writes[:, None] <= self.reads


def components(config: ModelConfig) -> Components:
    """Of a model whose attention and MLP follow one another.

    Raises:
      InputError: parallel blocks, whose graph has other levels.
    """
    if config.parallel:
        raise InputError("parallel blocks have no translation here; give a model whose MLP follows its attention")
    layers, heads = range(config.n_layers), config.n_heads
    writes = [0, *(level for i in layers for level in (*[2 * i + 1] * heads, 2 * i + 2))]
    reads = [level for i in layers for level in (*[2 * i] * (3 * heads), 2 * i + 1)]
    return Components(np.asarray(writes), np.asarray([*reads, 2 * config.n_layers]))


def mask_of(kept: np.ndarray, config: ModelConfig, n_tokens: int, first: int = 0) -> EdgeTree:
    """The smallest mask that holds every path of kept edges.

    Args:
      kept: bool ``[F, R]``, without nodes that lack a way in or out.
      config: of the model.
      n_tokens: T of the input.
      first: the first token that differs from a counterfactual's. What leaves an earlier one is the same in both
        prompts whether it is kept or not, so it is not kept.

    Raises:
      InputError: an edge that the graph does not have, or parallel blocks.
    """
    graph, layers, heads = components(config), config.n_layers, config.n_heads
    if kept.shape != graph.edges.shape or (kept & ~graph.edges).any():
        raise InputError(f"kept has shape {kept.shape}, expected edges of {graph.edges.shape}")
    sources, targets = np.nonzero(kept)
    stream = np.zeros(2 * layers, bool)
    for start, stop in set(zip(graph.writes[sources].tolist(), graph.reads[targets].tolist(), strict=True)):
        stream[start:stop] = True
    nodes = np.asarray(kept.any(axis=1))[1:].reshape(layers, heads + 1)
    late = np.arange(n_tokens) >= first
    slots = edge_slots(config, n_tokens, n_tokens, np)
    whole = EdgeTree(
        residual_attn=slots.residual_attn & stream[::2, None] & late,
        attn=slots.attn & nodes[:, :heads, None, None] & late,
        residual_mlp=slots.residual_mlp & stream[1::2, None] & late,
        mlp=slots.mlp & nodes[:, heads, None] & late,
    )
    return reaching(whole)


def reaching(mask: EdgeTree) -> EdgeTree:
    """The edges of a bool mask from which the last token's last node is reached."""
    found = {name: np.array(leaf) for name, leaf in mask.items()}
    reached = np.arange(found["mlp"].shape[1]) == found["mlp"].shape[1] - 1
    for layer in reversed(range(len(found["mlp"]))):
        for name in ("residual_mlp", "mlp"):
            found[name][layer] &= reached
        reached = found["residual_mlp"][layer] | found["mlp"][layer]
        found["residual_attn"][layer] &= reached
        found["attn"][layer] &= reached[None, :, None]
        reached = found["residual_attn"][layer] | found["attn"][layer].any(axis=(0, 1))
    return EdgeTree(**found)


def edges_of(mask: EdgeTree, config: ModelConfig) -> np.ndarray:
    """The edges between components that some path of a bool mask takes, bool ``[F, R]``.

    Raises:
      InputError: parallel blocks.
    """
    graph, tokens = components(config), mask.mlp.shape[1]
    attn, mlp = np.asarray(mask.attn), np.asarray(mask.mlp)
    stream = np.empty((2 * config.n_layers, tokens), bool)
    stream[::2], stream[1::2] = mask.residual_attn, mask.residual_mlp
    into, out_of = (np.asarray(attn.any(axis=axis)) for axis in (3, 2))  # [L, H, T]: by target, by source
    every, last = np.ones((1, tokens), bool), np.arange(tokens)[None] == tokens - 1
    writes = [every, *(part for i in range(len(mlp)) for part in (into[i], mlp[i][None]))]
    reads = [part for i in range(len(mlp)) for part in (into[i], out_of[i], out_of[i], mlp[i][None])]
    ends, starts = np.concatenate([*reads, last]), np.concatenate(writes)
    far = _furthest(stream)
    kept = np.zeros(graph.edges.shape, bool)
    for token in range(tokens):
        there = graph.reads <= far[graph.writes, token, None]
        kept |= starts[:, None, token] & ends[None, :, token] & there
    return kept & graph.edges


def _furthest(stream: np.ndarray) -> np.ndarray:
    """The last level to which the stream is kept from each level on, ``[2L + 1, T]``."""
    levels, tokens = stream.shape
    far = np.full((levels + 1, tokens), levels)
    for level in reversed(range(levels)):
        far[level] = np.where(stream[level], far[level + 1], level)
    return far
