"""Which slots of an ``EdgeTree`` are edges of the graph of a forward pass, and masks made of them (section 1).

And what a model is called with, checked: nothing that would give an answer to another question passes without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jstrace.errors import InputError as InputError
from jstrace.models.config import FAR, ModelConfig
from jstrace.models.edges import EDGE_KINDS, EdgeTree
from jstrace.models.platforms import usual_promotion


def n_seen(config: ModelConfig) -> tuple[int, ...]:
    """How many sources each layer's targets see at most: their own token alone where there is no attention."""
    return tuple(window if heads else 1 for window, heads in zip(config.windows, config.heads, strict=True))


def with_mlp(config: ModelConfig) -> tuple[bool, ...]:
    """Which layers have an MLP."""
    forms = tuple(form.d_mlp > 0 for form in config.layer_forms)
    return tuple(forms[form] for form in config.form_of) or forms * config.n_layers


def target_reach(config: ModelConfig) -> tuple[int, ...]:
    """Per layer, how far before the first output an attention target can lie that an output can be reached from.

    0 in the last layer; with every window on the way up it grows by the window less one.
    """
    reach, reaches = 0, []
    for window in reversed(n_seen(config)):
        reaches.append(reach)
        reach = min(reach + window - 1, FAR)
    return tuple(reversed(reaches))


@usual_promotion()
def edge_slots(
    config: ModelConfig, n_slots: int, length: Int[Array, ""] | int, xp: Any = jnp, *, n_outputs: int = 1
) -> EdgeTree:
    """Which slots of an ``EdgeTree`` of ``n_slots`` tokens are edges, when only ``length`` tokens are true: bool.

    The last ``n_outputs`` of them are outputs (section 9). ``xp`` is ``jax.numpy``, or ``numpy`` for arrays on the
    host.
    """
    token = xp.arange(n_slots)
    reach, window = xp.asarray(target_reach(config))[:, None], xp.asarray(n_seen(config))[:, None, None]
    targets = (token >= length - n_outputs - reach) & (token < length)
    distance = token[:, None] - token[None, :]
    seen = targets[:, :, None] & (distance >= 0) & (distance < window)
    attn = xp.broadcast_to(seen[:, None], (config.n_layers, config.n_heads, n_slots, n_slots))
    if min(config.heads) < config.n_heads:
        attn = attn & (xp.arange(config.n_heads) < xp.asarray(config.heads)[:, None])[:, :, None, None]
    mlp = targets if all(with_mlp(config)) else targets & xp.asarray(with_mlp(config))[:, None]
    return EdgeTree(targets, attn, xp.zeros_like(targets) if config.parallel else targets, mlp)


def full_mask(config: ModelConfig, n_tokens: int, *, n_outputs: int = 1) -> EdgeTree:
    """The mask that keeps every edge of ``n_tokens`` tokens: numpy, bool, false in slots that are no edge."""
    _check_tokens(n_tokens)
    check_outputs(n_outputs, n_tokens)
    return jax.tree.map(np.array, edge_slots(config, n_tokens, n_tokens, np, n_outputs=n_outputs))  # to write to


def empty_mask(config: ModelConfig, n_tokens: int) -> EdgeTree:
    """The mask that keeps no edge of ``n_tokens`` tokens: numpy, bool."""
    _check_tokens(n_tokens)
    return jax.tree.map(lambda slots: np.zeros(slots.shape, bool), edge_slots(config, n_tokens, n_tokens, np))


def mask_of(config: ModelConfig, edges: Iterable[Any], n_tokens: int, *, n_outputs: int = 1) -> EdgeTree:
    """The mask that keeps these edges alone: numpy, bool.

    Args:
      config: of the model.
      edges: each a ``jstrace.Edge``, or anything with its kind, layer, head, source and target.
      n_tokens: of the input.
      n_outputs: of the graph, the last tokens.

    Raises:
      InputError: what is no edge of a graph of ``n_tokens`` tokens.
    """
    full, mask = full_mask(config, n_tokens, n_outputs=n_outputs), empty_mask(config, n_tokens)
    columns = getattr(edges, "columns", None)
    if callable(columns) and _put_columns(columns(), full, mask):
        return mask
    if not isinstance(edges, Iterable):
        raise InputError(f"expected edges, got {type(edges).__name__}")
    for edge in edges:
        place = _place(edge)
        try:
            known = edge.kind in EDGE_KINDS and all(i >= 0 for i in place) and bool(getattr(full, edge.kind)[place])
        except (IndexError, TypeError, ValueError):
            known = False
        if not known:
            raise InputError(f"{edge!r} is no edge of this model's graph of {n_tokens} tokens")
        getattr(mask, edge.kind)[place] = True
    return mask


def _put_columns(columns: Mapping[str, np.ndarray], full: EdgeTree, tree: EdgeTree) -> bool:
    """Set the edges of ``jstrace.Edges`` all at once, unless one of them is none, which is then looked for."""
    if not np.isin(columns["kind"], EDGE_KINDS).all() or (columns["head"][columns["kind"] != "attn"] >= 0).any():
        return False
    for kind, mask in tree.items():
        layer, head, source, target = (
            columns[name][columns["kind"] == kind] for name in ("layer", "head", "source", "target")
        )
        places = (layer, head, target, source) if kind == "attn" else (layer, target)
        inside = all(((at >= 0) & (at < size)).all() for at, size in zip(places, mask.shape, strict=True))
        if not inside or not getattr(full, kind)[places].all() or (kind != "attn" and (source != target).any()):
            return False
        mask[places] = True
    return True


def _place(edge: Any) -> tuple[int, ...]:
    try:
        if edge.kind == "attn":
            return (edge.layer, -1 if edge.head is None else edge.head, edge.target, edge.source)
        return (edge.layer, edge.target if edge.source == edge.target and edge.head is None else -1)
    except AttributeError as error:
        raise InputError(f"{edge!r} is no edge: expected its kind, layer, head, source and target") from error


def _check_tokens(n_tokens: Any) -> None:
    if not isinstance(n_tokens, int | np.integer) or isinstance(n_tokens, bool) or n_tokens < 1:
        raise InputError(f"n_tokens = {n_tokens!r}, expected the number of tokens, at least 1")


def check_outputs(n_outputs: Any, n_tokens: int) -> None:
    """Refuse what is no number of output nodes in ``n_tokens`` tokens.

    Raises:
      InputError: with what it can be.
    """
    whole = isinstance(n_outputs, int | np.integer) and not isinstance(n_outputs, bool)
    if not whole or not 1 <= n_outputs <= n_tokens:
        raise InputError(f"n_outputs = {n_outputs!r}, expected 1 to the {n_tokens} tokens")


def check_softmax(config: ModelConfig, *, pre_softmax: bool) -> None:
    """Refuse masks before the softmax of layers that have none.

    Raises:
      InputError: with what to do.
    """
    if pre_softmax and config.has_linear:
        raise InputError("pre_softmax: this model has layers of linear attention, without a softmax; leave it out")


def checked_tokens(config: ModelConfig, tokens: Any) -> jax.Array:
    """Token ids of one input, int ``[T]``.

    Raises:
      InputError: another shape or kind, more tokens than learned positions, or, where they are known, ids outside the
        vocabulary (under ``jax.jit`` they are not: see ``nan_unless_known``).
    """
    ids = tokens if isinstance(tokens, jax.Array) else _as_numpy(tokens)
    if ids.ndim != 1 or ids.size == 0:
        raise InputError(f"tokens of shape {ids.shape}: expected those of one input, [T]; for [B, T] use jax.vmap")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise InputError(f"tokens are {ids.dtype}, expected integers")
    check_ids(config, ids)
    return jnp.asarray(ids)


def check_ids(config: ModelConfig, ids: jax.Array | np.ndarray, where: str = "") -> None:
    """Refuse ids outside the vocabulary, where they are known, and more of them than the model has positions.

    Raises:
      InputError: with the first such id or the number of tokens, after ``where``, which names the input.
    """
    known = on_host(ids)
    if known is not None:
        outside = known[(known < 0) | (known >= config.vocab_size)]
        if outside.size:
            raise InputError(f"{where}token id {int(outside[0])} is outside the vocabulary of {config.vocab_size}")
    if ids.size > config.most_tokens:
        raise InputError(f"{where}{ids.size} tokens, more than the {config.max_positions} positions of this model")


def on_host(array: jax.Array | np.ndarray) -> np.ndarray | None:
    """The numbers, where they are known; None inside a transformation that does not tell them, or on other hosts.

    What is asked of them is asked of numpy: under ``jax.jit`` and the like JAX's own operations on an array whose
    numbers are known give one whose numbers are not.
    """
    if isinstance(array, jax.core.Tracer):
        return None
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return None
    return np.asarray(array)


def _as_numpy(tokens: Any) -> np.ndarray:
    """Token ids as numpy's, in which no number is narrowed before it is looked at."""
    try:
        ids = np.asarray(tokens)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"tokens: expected a flat list of integers, got {type(tokens).__name__}") from error
    return ids if ids.size else ids.astype(np.int32)


def nan_unless_known(config: ModelConfig, tokens: jax.Array, logits: jax.Array) -> jax.Array:
    """The logits, all NaN if a token id is outside the vocabulary: what a compiled program can say."""
    if not isinstance(tokens, jax.core.Tracer):
        return logits
    return jnp.where(jnp.any((tokens < 0) | (tokens >= config.vocab_size)), np.float32(np.nan), logits)


def checked_mask(config: ModelConfig, n_tokens: int, mask: Any) -> EdgeTree:
    """A mask of every edge of ``n_tokens`` tokens, bool or float.

    Raises:
      InputError: no ``EdgeTree``, arrays of other shapes, or integers, such as strata.
    """
    if not isinstance(mask, EdgeTree):
        raise InputError(f"mask is {type(mask).__name__}, expected an EdgeTree")
    arrays = {}
    for name, leaf in mask.items():
        try:
            arrays[name] = jnp.asarray(leaf)
        except (ValueError, TypeError) as error:
            raise InputError(f"mask {name} is {type(leaf).__name__}, expected an array of bool or float") from error
    mask, dtypes = EdgeTree(**arrays), "bool or float; the mask of strata is strata <= k"
    mask.check("mask", config, n_tokens, dtypes, hint="; for several masks use jax.vmap")
    return mask
