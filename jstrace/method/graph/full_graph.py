"""The graph of one forward pass: its edges and their number (section 1 of the method)."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import jax

from jstrace.models import InputError, ModelConfig
from jstrace.models import edge_slots as edge_slots
from jstrace.models import target_reach as target_reach
from jstrace.models.slots import check_outputs, n_seen, with_mlp

_MAX_EDGES = 2**31


def n_edges(config: ModelConfig, n_tokens: int, n_outputs: int = 1) -> int:
    """Number of edges E of the graph of ``n_tokens`` tokens: those from which one of the last ``n_outputs`` can be
    reached on the last level.

    Raises:
      InputError: no tokens, more outputs than tokens, or 2^31 edges or more (edges are counted in int32 on the device).
    """
    if n_tokens < 1:
        raise InputError("no tokens: a trace needs at least one")
    check_outputs(n_outputs, n_tokens)
    residual, count = (1 if config.parallel else 2), 0
    layers = zip(target_reach(config), n_seen(config), config.heads, with_mlp(config), strict=True)
    for reach, window, n_heads, mlp in layers:
        first = max(0, n_tokens - n_outputs - reach)
        pairs = _pairs(n_tokens, window) - _pairs(first, window)
        count += (residual + mlp) * (n_tokens - first) + n_heads * pairs
    if count >= _MAX_EDGES:
        raise InputError(
            f"{n_tokens} tokens make a graph of {count} edges, more than {_MAX_EDGES - 1}; shorten the input"
        )
    return count


def _pairs(n_targets: int, window: int) -> int:
    """Pairs of a source and one of the first ``n_targets`` targets, each of which sees ``window`` sources at most."""
    full = min(n_targets, window)
    return full * (full + 1) // 2 + (n_targets - full) * window


def edge_slot_count(config: ModelConfig, n_slots: int) -> int:
    """Slots of an ``EdgeTree`` of ``n_slots`` tokens, edges or not."""
    return config.n_layers * (config.n_heads * n_slots**2 + 3 * n_slots)


def check_slots(config: ModelConfig, n_tokens: int, padded: Callable[[int], int] | None = None) -> None:
    """Refuse inputs whose attention maps have 2^31 slots or more: edges are indexed in int32 on the device.

    Args:
      config: of the model.
      n_tokens: of the input.
      padded: the number of tokens that so many are padded to; by default none are added.

    Raises:
      InputError: with the number of tokens that would fit.
    """

    def slots(tokens: int) -> int:
        return edge_slot_count(config, tokens if padded is None else padded(tokens))

    if slots(n_tokens) >= _MAX_EDGES:
        fitting = bisect.bisect_left(range(n_tokens), _MAX_EDGES, key=slots) - 1
        raise InputError(
            f"{n_tokens} tokens are too many: this model's graph of them is too large to index; up to {fitting} tokens"
            " fit, so shorten the input"
        )


def check_length(length: Any, n_tokens: int) -> None:
    """Refuse, where it is known, a number of true tokens that ``n_tokens``, padding among them, do not hold.

    Raises:
      InputError: with what it can be.
    """
    if not isinstance(length, jax.core.Tracer) and not 1 <= int(length) <= n_tokens:
        raise InputError(f"length = {length}, expected 1 to {n_tokens}")


def n_nodes(config: ModelConfig, n_tokens: int) -> int:
    """Number of (level, token) nodes: levels 0 to 2L, or 0 to L with parallel blocks."""
    return (_levels(config.n_layers, config.parallel) + 1) * n_tokens


def _levels(n_layers: int, parallel: bool) -> int:
    return n_layers if parallel else 2 * n_layers
