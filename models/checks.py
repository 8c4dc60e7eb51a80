"""What a model is called with, checked: nothing that would give an answer to another question passes without a word."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.errors import InputError as InputError
from jstrace.models.config import ModelConfig
from jstrace.models.edges import EdgeTree, edge_shapes


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
    """Refuse ids outside the vocabulary, where they are known, and more of them than learned positions.

    Raises:
      InputError: with the first such id or the number of tokens, after ``where``, which names the input.
    """
    known = on_host(ids)
    if known is not None:
        outside = known[(known < 0) | (known >= config.vocab_size)]
        if outside.size:
            raise InputError(f"{where}token id {int(outside[0])} is outside the vocabulary of {config.vocab_size}")
    if config.learned_positions and ids.size > config.max_positions:
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
        found = np.asarray(tokens)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"tokens: expected a flat list of integers, got {type(tokens).__name__}") from error
    return found if found.size else found.astype(np.int32)


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
    shapes, arrays = edge_shapes(config.n_layers, config.n_heads, n_tokens), {}
    for name, leaf in mask.items():
        try:
            array = jnp.asarray(leaf)
        except (ValueError, TypeError) as error:
            raise InputError(f"mask {name} is {type(leaf).__name__}, expected an array of bool or float") from error
        if array.shape != shapes[name]:
            raise InputError(
                f"mask {name} has shape {array.shape}, expected {shapes[name]}; for several masks use jax.vmap"
            )
        if not (array.dtype == bool or jnp.issubdtype(array.dtype, jnp.floating)):
            raise InputError(f"mask {name} is {array.dtype}, expected bool or float; the mask of strata is strata <= k")
        arrays[name] = array
    return EdgeTree(**arrays)
