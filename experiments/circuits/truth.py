"""Which edges of a program's run are true: computed from its weights and states in numpy, without jstrace's scores.

An edge is true if it carries, where it is, a part that is not zero of a dimension that something downstream reads which
is true itself. The answer's dimensions are read at the output. A unit reads what its input weights do, if the MLP's
output at its place is true and it writes any of what is read there. A head reads values at the places of its true
edges; if it has any at a target that sees more than one place, it also reads the query there and every key in sight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jstrace.models import EdgeTree, ModelConfig

LEAST = 1e-3
"""Parts below count as zero: what a head does not select has a share of 1e-5."""


class Layer(NamedTuple):
    """States of one layer of a run, in float64."""

    before: np.ndarray
    """[T, D]"""
    attention: np.ndarray
    """The vector of every attention edge, [H, T, S, D]."""
    middle: np.ndarray
    mlp: np.ndarray
    weights: dict[str, np.ndarray]


def run(config: ModelConfig, params: Mapping[str, Any], tokens: np.ndarray) -> tuple[list[Layer], np.ndarray]:
    """Every layer's states, and the logits after the last token, ``[V]``; decoders without norms alone."""
    x = params["embed"][tokens] + params["positions"][: len(tokens)]
    found, hidden = [], np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for index in range(config.n_layers):
        w = {name: stack[index] for name, stack in params["layers"].items()}
        q, k, v = (np.einsum("td,dhe->hte", x, w[name]) for name in "qkv")
        logits = np.einsum("hte,hse->hts", q, k) * config.scale + hidden
        probs = np.exp(logits - logits.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        attention = np.einsum("hts,hsd->htsd", probs, np.einsum("hse,hed->hsd", v, w["o"]))
        middle = x + attention.sum((0, 2))
        mlp = np.maximum(middle @ w["up"] + w["up_bias"], 0) @ w["down"] + w["down_bias"]
        found.append(Layer(x, attention, middle, mlp, w))
        x = middle + mlp
    return found, params["head"] @ x[-1]


@dataclasses.dataclass(frozen=True)
class Truth:
    """True edges of a run."""

    edges: EdgeTree
    """bool"""
    differing: EdgeTree | None
    """Those whose part that is read differs from another run's; None without one."""

    @property
    def count(self) -> int:
        """Of true edges."""
        return int(self.edges.count())


def truth(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokens: np.ndarray,
    other: np.ndarray | None = None,
    *,
    keys: bool = True,
) -> Truth:
    """The true edges of a program on one input.

    Args:
      config, params: of ``Writer.finished``.
      tokens: of the input, ``[T]``.
      other: of another input of as many tokens, for ``Truth.differing``.
      keys: whether heads read queries and keys, or values alone.
    """
    layers, _ = run(config, params, tokens)
    others = layers if other is None else run(config, params, other)[0]
    n = len(tokens)
    rows = [np.zeros((2, config.n_layers, n), bool) for _ in range(3)]
    attn = np.zeros((2, config.n_layers, config.n_heads, n, n), bool)
    read = np.zeros((n, config.d_model), bool)
    read[-1] = np.any(params["head"], axis=0)
    for index in reversed(range(config.n_layers)):
        own, rival = layers[index], others[index]
        rows[2][:, index], rows[1][:, index] = (_carries(read, *pair) for pair in _states(own, rival, "mlp", "middle"))
        read = _before_mlp(own, read, rows[2][0, index])
        (rows[0][:, index],) = (_carries(read, *pair) for pair in _states(own, rival, "before"))
        attn[:, index] = _carries(read[None, :, None], own.attention, rival.attention)
        read = _before_attention(own, read, attn[0, index], keys=keys)
    trees = [EdgeTree(rows[0][i], attn[i], rows[1][i], rows[2][i]) for i in range(2)]
    return Truth(trees[0], None if other is None else trees[1])


def _states(own: Layer, rival: Layer, *names: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(getattr(own, name), getattr(rival, name)) for name in names]


def _there(x: np.ndarray) -> np.ndarray:
    return np.abs(x) > LEAST


def _carries(read: np.ndarray, vector: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether vectors have anything of what is read, and whether that differs from others': ``[2, ...]``."""
    found = (_there(vector) & read).any(-1)
    return np.stack([found, found & (_there(vector - other) & read).any(-1)])


def _before_mlp(own: Layer, read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """What is read of the state after attention, where it is not zero."""
    written = read & _there(own.mlp) & true[:, None]
    units = written @ (own.weights["down"] != 0).T
    return (read | units @ (own.weights["up"] != 0).T) & _there(own.middle)


def _before_attention(own: Layer, read: np.ndarray, true: np.ndarray, *, keys: bool) -> np.ndarray:
    """What is read of the state before attention, where it is not zero; ``true`` are edges, [H, T, S]."""
    before, w = read & _there(own.before), own.weights
    for head, edges in enumerate(true):
        for target in np.flatnonzero(edges.any(-1)):
            writes = (w["o"][head] != 0) @ (read[target] & _there(own.attention[head, target]).any(0))
            values = (w["v"][:, head] != 0) @ writes
            before[edges[target]] |= values
            if keys and target:
                before[target] |= (w["q"][:, head] != 0).any(-1)
                before[: target + 1] |= (w["k"][:, head] != 0).any(-1)
    return before & _there(own.before)
