"""The graph of one forward pass: its edges, their number and their names (section 1 of the method)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jstrace.models import EdgeTree, InputError, ModelConfig

SIZES: tuple[float, ...] = (
    *(1e-5, 2e-5, 4e-5, 8e-5),
    *(1e-4, 2e-4, 4e-4, 8e-4),
    *(1e-3, 1.2e-3, 1.4e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3),
    *(1e-2, 2e-2, 4e-2, 6e-2, 8e-2),
    *(1e-1, 2e-1, 4e-1, 6e-1, 8e-1),
)
"""The 26 sizes of the paper, as fractions of all edges."""

MAX_SIZES = 254
"""Strata are uint8: Z itself marks the full graph, 255 a slot that is no edge."""

NO_EDGE = 255
_MAX_EDGES = 2**31


def n_edges(config: ModelConfig, n_tokens: int) -> int:
    """Number of edges E of the graph of ``n_tokens`` tokens: those from which the output can be reached.

    Raises:
      InputError: no tokens, or 2^31 edges or more (edges are counted in int32 on the device).
    """
    if n_tokens < 1:
        raise InputError("no tokens: a trace needs at least one")
    per_target, count = (2 if config.parallel else 3), 0
    for reach, window in zip(target_reach(config), config.windows, strict=True):
        first = max(0, n_tokens - 1 - reach)
        pairs = _pairs(n_tokens, window) - _pairs(first, window)
        count += per_target * (n_tokens - first) + config.n_heads * pairs
    if count >= _MAX_EDGES:
        raise InputError(
            f"{n_tokens} tokens make a graph of {count} edges, more than {_MAX_EDGES - 1}; shorten the input"
        )
    return count


def _pairs(n_targets: int, window: int) -> int:
    """Pairs of a source and one of the first ``n_targets`` targets, each of which sees ``window`` sources at most."""
    full = min(n_targets, window)
    return full * (full + 1) // 2 + (n_targets - full) * window


def target_reach(config: ModelConfig) -> tuple[int, ...]:
    """Per layer, how far before the last token an attention target can lie that the output can be reached from.

    0 in the last layer; with every window on the way up it grows by the window less one.
    """
    reach, found = 0, []
    for window in reversed(config.windows):
        found.append(reach)
        reach = min(reach + window - 1, _MAX_EDGES // 2)
    return tuple(reversed(found))


def edge_slot_count(config: ModelConfig, n_slots: int) -> int:
    """Slots of an ``EdgeTree`` of ``n_slots`` tokens, edges or not."""
    return config.n_layers * (config.n_heads * n_slots**2 + 3 * n_slots)


def check_slots(config: ModelConfig, n_slots: int) -> None:
    """Refuse inputs whose padded attention maps have 2^31 slots or more: edges are indexed in int32 on the device."""
    slots = edge_slot_count(config, n_slots)
    if slots >= _MAX_EDGES:
        raise InputError(f"{n_slots} tokens need {slots} slots of edges, more than {_MAX_EDGES - 1}; shorten the input")


def edge_slots(config: ModelConfig, n_slots: int, length: Int[Array, ""] | int) -> EdgeTree:
    """Which slots of an ``EdgeTree`` of ``n_slots`` tokens are edges, when only ``length`` tokens are true: bool."""
    token = jnp.arange(n_slots)
    reach, window = jnp.asarray(target_reach(config))[:, None], jnp.asarray(config.windows)[:, None, None]
    targets = (token >= length - 1 - reach) & (token < length)
    distance = token[:, None] - token[None, :]
    seen = targets[:, :, None] & (distance >= 0) & (distance < window)
    attn = jnp.broadcast_to(seen[:, None], (config.n_layers, config.n_heads, n_slots, n_slots))
    return EdgeTree(targets, attn, jnp.zeros_like(targets) if config.parallel else targets, targets)


def checked_sizes(sizes: Sequence[float]) -> tuple[float, ...]:
    """The sizes as floats.

    Raises:
      InputError: none, more than 254, outside (0, 1], or not strictly increasing.
    """
    try:
        values = tuple(float(size) for size in sizes)
    except (TypeError, ValueError) as error:
        raise InputError(f"sizes must be numbers, got {sizes!r}") from error
    if not 1 <= len(values) <= MAX_SIZES:
        raise InputError(f"{len(values)} sizes, expected 1 to {MAX_SIZES}")
    wrong = [value for value in values if not 0 < value <= 1]
    if wrong:
        raise InputError(f"size {wrong[0]!r} is outside (0, 1]; sizes are fractions of all edges")
    if any(b <= a for a, b in itertools.pairwise(values)):
        raise InputError(f"sizes must increase strictly, got {values}")
    return values


def counts(sizes: Sequence[float], edges: int) -> np.ndarray:
    """Edges of each trace, ``floor(size * E)`` in float64: int32 ``[Z]``."""
    return np.asarray([math.floor(size * edges) for size in sizes], np.int32)


@dataclasses.dataclass(frozen=True)
class Edge:
    """One edge in words: ``kind`` is residual_attn, attn, residual_mlp or mlp; ``head`` is None but for attn.

    ``source`` and ``target`` are token positions, equal but for attn.
    """

    kind: str
    layer: int
    head: int | None
    source: int
    target: int
    score: float
    stratum: int


def edges_where(chosen: EdgeTree, scores: EdgeTree, strata: EdgeTree) -> list[Edge]:
    """The edges at which ``chosen`` (bool) holds, highest score first, ties by edge index; numpy on the host."""
    found: list[Edge] = []
    for kind, wanted in chosen.items():
        score, stratum = np.asarray(getattr(scores, kind)), np.asarray(getattr(strata, kind))
        for index in map(tuple, np.argwhere(np.asarray(wanted)).tolist()):
            head = index[1] if kind == "attn" else None
            found.append(
                Edge(
                    kind,
                    index[0],
                    head,
                    index[-1],
                    index[2 if kind == "attn" else 1],
                    float(score[index]),
                    int(stratum[index]),
                )
            )
    return sorted(found, key=lambda edge: -edge.score)


def flat(edges: EdgeTree) -> Array:
    """All values in the order of edge indices, ``[E_slots]``."""
    return jnp.concatenate([jnp.ravel(values) for _, values in edges.items()])


def unflat(values: Array, like: EdgeTree) -> EdgeTree:
    """The inverse of ``flat``; ``like`` gives the shapes."""
    parts, start = {}, 0
    for name, shape in ((name, leaf.shape) for name, leaf in like.items()):
        size = math.prod(shape)
        parts[name] = values[start : start + size].reshape(shape)
        start += size
    return EdgeTree(**parts)


def picked(tree: EdgeTree, index: Int[Array, "N"]) -> EdgeTree:
    """For each family its values at edge indices, anything where an index is another family's."""
    parts, start = {}, 0
    for name, leaf in tree.items():
        parts[name] = leaf.ravel().at[index - start].get(mode="clip")
        start += leaf.size
    return EdgeTree(**parts)


def joined(parts: EdgeTree, index: Int[Array, "N"], like: EdgeTree) -> Array:
    """The value of the family that each edge index belongs to in ``like``; 0 beyond the last slot."""
    out, start = jnp.zeros(index.shape, parts.mlp.dtype), 0
    for (_, values), (_, leaf) in zip(parts.items(), like.items(), strict=True):
        out = jnp.where((index >= start) & (index < start + leaf.size), values, out)
        start += leaf.size
    return out


def replaced(tree: EdgeTree, index: Int[Array, "N"], values: Array, where: Bool[Array, "N"]) -> EdgeTree:
    """The tree with the values at edge indices, where ``where`` holds."""
    parts, start = {}, 0
    for name, leaf in tree.items():
        here = where & (index >= start) & (index < start + leaf.size)
        place = jnp.where(here, index - start, leaf.size)
        parts[name] = leaf.ravel().at[place].set(values.astype(leaf.dtype), mode="drop").reshape(leaf.shape)
        start += leaf.size
    return EdgeTree(**parts)


def n_nodes(config: ModelConfig, n_tokens: int) -> int:
    """Number of (level, token) nodes: levels 0 to 2L, or 0 to L with parallel blocks."""
    return (_levels(config.n_layers, config.parallel) + 1) * n_tokens


def _levels(n_layers: int, parallel: bool) -> int:
    return n_layers if parallel else 2 * n_layers


def endpoints(index: Int[Array, "N"], like: EdgeTree, *, parallel: bool) -> tuple[Int[Array, "N"], Int[Array, "N"]]:
    """Source and target node of edges given by index; a node's number is ``level * T + token``."""
    n_layers, n_heads, n_tokens, _ = like.attn.shape
    per_family = n_layers * n_tokens
    in_attn = (index >= per_family) & (index < per_family + like.attn.size)
    rest = jnp.where(index < per_family, index, jnp.where(in_attn, index - per_family, index - like.attn.size))
    # Residual and MLP families now count 0 .. 3 L T; attention counts its own slots.
    family, place = rest // per_family, rest % per_family
    layer = jnp.where(in_attn, rest // (n_heads * n_tokens * n_tokens), place // n_tokens)
    target = jnp.where(in_attn, rest // n_tokens % n_tokens, place % n_tokens)
    source = jnp.where(in_attn, rest % n_tokens, target)
    level = layer if parallel else 2 * layer + jnp.where(in_attn | (family == 0), 0, 1)
    return level * n_tokens + source, (level + 1) * n_tokens + target
