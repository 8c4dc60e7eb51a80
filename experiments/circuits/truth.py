"""Which edges of a program's run are true: computed from its weights and states in numpy, without jstrace's scores.

An edge is true if it carries, where it is, a dimension that something downstream reads which is true itself, and that
is not zero there in this run or in that of another input: where the others have a flag, its absence is information. An
attention edge must be selected in this run. The answer's dimensions are read at the output. A unit reads what its input
weights do, if the MLP's output at its place is true and it writes any of what is read there. A head reads values at the
places of its true edges; if it has any at a target that sees more than one place, it also reads the query there and
every key in sight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
    values: np.ndarray
    """What a head would add of each source if it selected that alone, [H, S, D]."""
    selected: np.ndarray
    """bool, [H, T, S]"""
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
        values = np.einsum("hse,hed->hsd", v, w["o"])
        attention = np.einsum("hts,hsd->htsd", probs, values)
        middle = x + attention.sum((0, 2))
        mlp = np.maximum(middle @ w["up"] + w["up_bias"], 0) @ w["down"] + w["down_bias"]
        found.append(Layer(x, attention, values, probs > LEAST, middle, mlp, w))
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


@dataclasses.dataclass(frozen=True)
class Carried:
    """Dimensions that are not zero somewhere, in this run or in those of other inputs: bool, by layer."""

    before: np.ndarray
    """[T, D]"""
    values: np.ndarray
    """[H, S, D]"""
    middle: np.ndarray
    mlp: np.ndarray

    @staticmethod
    def of(layers: Sequence[Layer]) -> Carried:
        """Of one layer in all runs."""
        names = [field.name for field in dataclasses.fields(Carried)]
        return Carried(*(np.any([_there(getattr(layer, name)) for layer in layers], axis=0) for name in names))


def truth(
    config: ModelConfig,
    params: Mapping[str, Any],
    tokens: np.ndarray,
    other: np.ndarray | None = None,
    *,
    inputs: Sequence[np.ndarray] = (),
    keys: bool = True,
) -> Truth:
    """The true edges of a program on one input.

    Args:
      config, params: of ``Writer.finished``.
      tokens: of the input, ``[T]``.
      other: of another input of as many tokens, for ``Truth.differing``.
      inputs: other inputs that the program is made for. Without any, a part that is zero in this run is not true.
      keys: whether heads read queries and keys, or values alone.
    """
    layers, _ = run(config, params, tokens)
    others = layers if other is None else run(config, params, other)[0]
    runs = [layers, *(run(config, params, each)[0] for each in inputs)]
    n = len(tokens)
    rows = [np.zeros((2, config.n_layers, n), bool) for _ in range(3)]
    attn = np.zeros((2, config.n_layers, config.n_heads, n, n), bool)
    read = np.zeros((n, config.d_model), bool)
    read[-1] = np.any(params["head"], axis=0)
    for index in reversed(range(config.n_layers)):
        own, rival, ever = layers[index], others[index], Carried.of([each[index] for each in runs])
        rows[2][:, index] = _true(read & ever.mlp, own.mlp - rival.mlp)
        rows[1][:, index] = _true(read & ever.middle, own.middle - rival.middle)
        read = _before_mlp(own, ever, read, rows[2][0, index])
        rows[0][:, index] = _true(read & ever.before, own.before - rival.before)
        carried = read[None, :, None] & ever.values[:, None] & own.selected[..., None]
        attn[:, index] = _true(carried, own.attention - rival.attention)
        read = _before_attention(own, ever, read, attn[0, index], keys=keys)
    trees = [EdgeTree(rows[0][i], attn[i], rows[1][i], rows[2][i]) for i in range(2)]
    return Truth(trees[0], None if other is None else trees[1])


def _there(x: np.ndarray) -> np.ndarray:
    return np.abs(x) > LEAST


def _true(carried: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Whether edges carry anything of what is read, and whether that differs from another run's: ``[2, ...]``."""
    return np.stack([carried.any(-1), (carried & _there(difference)).any(-1)])


def _before_mlp(own: Layer, ever: Carried, read: np.ndarray, true: np.ndarray) -> np.ndarray:
    """What is read of the state after attention, where it is ever not zero."""
    written = read & ever.mlp & true[:, None]
    units = written @ (own.weights["down"] != 0).T
    return (read | units @ (own.weights["up"] != 0).T) & ever.middle


def _before_attention(own: Layer, ever: Carried, read: np.ndarray, true: np.ndarray, *, keys: bool) -> np.ndarray:
    """What is read of the state before attention, where it is ever not zero; ``true`` are edges, [H, T, S]."""
    before, w = read & ever.before, own.weights
    for head, edges in enumerate(true):
        for target in np.flatnonzero(edges.any(-1)):
            writes = (w["o"][head] != 0) @ (read[target] & ever.values[head, edges[target]].any(0))
            values = (w["v"][:, head] != 0) @ writes
            before[edges[target]] |= values
            if keys and target:
                before[target] |= (w["q"][:, head] != 0).any(-1)
                before[: target + 1] |= (w["k"][:, head] != 0).any(-1)
    return before & ever.before
