"""A decoder with its tokenizer, and what jstrace needs of a tokenizer."""

from __future__ import annotations

import functools
import hashlib
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float32, Int

from jstrace.errors import InputError
from jstrace.models import slots
from jstrace.models.clean import plain_forward
from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Decoder
from jstrace.models.edges import AnyArray, EdgeTree
from jstrace.models.fingerprints import fingerprint
from jstrace.models.narrow import NARROW, is_narrow, widened
from jstrace.models.params import Params, shapes
from jstrace.models.replacement import Replacement, check_fits, checked_arrays
from jstrace.models.slots import checked_mask, checked_tokens, nan_unless_known
from jstrace.models.validation import validated


@runtime_checkable
class Tokenizer(Protocol):
    """What jstrace needs of a tokenizer; special tokens are the tokenizer's own defaults, no chat template."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, default special tokens included."""
        ...

    def token(self, token_id: int) -> str:
        """One token as text, spaces included; for tables and words."""
        ...

    def save(self, folder: Path) -> None:
        """Write what ``HfTokenizer(folder)`` reads back, where there is anything to write."""
        ...


@runtime_checkable
class Decoding(Protocol):
    """A tokenizer that decodes sequences, too: a character may be several tokens."""

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a sequence, special tokens included."""
        ...


def text_of(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of a sequence: decoded together, or the texts of its tokens where the tokenizer is no ``Decoding``."""
    if isinstance(tokenizer, Decoding):
        return tokenizer.text(token_ids)
    return "".join(map(tokenizer.token, token_ids))


def mesh_of(decoder: Decoder) -> Mesh | None:
    """The mesh that a decoder's weights were loaded onto, or None for a single device."""
    sharding = decoder.embed[...].sharding
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return None
    assert isinstance(sharding.mesh, Mesh)
    return sharding.mesh


class _Words:
    """The tokenizer of a model; static for JAX, and equal to every other that does the same.

    So a program that takes a model serves all models of one config and one vocabulary. Tokenizers are compared by their
    own ``==``; those that have none are equal where they are of one class and have equal attributes.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer

    def __reduce__(self) -> tuple[Any, ...]:
        return _Words, (self.tokenizer,)  # without what was computed of it

    @functools.cached_property
    def _content(self) -> dict[str, Any]:
        return {name: _text_of(value) for name, value in vars(self.tokenizer).items()}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Words):
            return NotImplemented
        ours, theirs = self.tokenizer, other.tokenizer
        if ours is theirs or type(ours) is not type(theirs):
            return ours is theirs
        try:
            if type(ours).__eq__ is not object.__eq__:
                return bool(ours == theirs)
            return hasattr(ours, "__dict__") and self._content == other._content
        except (TypeError, ValueError):  # attributes that cannot be compared
            return False

    def __hash__(self) -> int:
        return hash(type(self.tokenizer))


def _text_of(value: Any) -> Any:
    """A digest of what the ``tokenizers`` library knows, whose objects are equal to themselves alone, and of arrays."""
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.tolist()
    value = getattr(value, "backend_tokenizer", value)
    return hashlib.sha256(value.to_str().encode()).digest() if callable(getattr(value, "to_str", None)) else value


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as ``layers.up``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda part: not isinstance(part, Mapping))
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _check_shapes(wanted: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    for name in sorted(wanted.keys() | weights.keys()):
        got, expected = (getattr(leaves.get(name), "shape", None) for leaves in (weights, wanted))
        if got != expected:
            told = "which this config does not have" if expected is None else f"expected {expected}"
            other = f"is no array but {type(weights[name]).__name__}" if name in weights else "is missing"
            raise InputError(f"weight {name} {other if got is None else f'has shape {got}'}, {told}")


def _as_float32(path: Any, array: Any) -> Array:
    """A weight, wide, of finite numbers."""
    name, real = _name(path), (jnp.floating, jnp.integer, jnp.bool_)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in real):
        raise InputError(f"weight {name} has dtype {array.dtype}, expected float32 or another type of real numbers")
    with np.errstate(over="ignore"):
        weight = jnp.asarray(widened(array), jnp.float32)
    if not jnp.isfinite(weight).all():
        raise InputError(f"weight {name} holds numbers that are not finite in float32")
    return weight


class _Memo(NamedTuple):
    """A fingerprint, and the arrays that it is of."""

    leaves: tuple[weakref.ref[Array], ...]
    fingerprint: str

    def holds(self, leaves: Sequence[Array]) -> bool:
        """Whether the fingerprint is that of these very arrays."""
        return len(leaves) == len(self.leaves) and all(
            ref() is leaf for ref, leaf in zip(self.leaves, leaves, strict=True)
        )


_MEMOS: weakref.WeakKeyDictionary[Model, _Memo] = weakref.WeakKeyDictionary()
"""Of each model; beside it, as what a model holds goes into its copies, into files and into compiled programs."""
_LOCK = threading.Lock()


class Model(nnx.Module):
    """A decoder with its tokenizer: a pytree of weights, and a pure function of tokens and an edge mask.

    Give it to ``jax.jit``, ``jax.vmap`` and ``jax.grad`` as an argument: what closes over it holds the weights.

    Examples:
      >>> tokens = np.array(model.tokenizer.encode(text))
      >>> model(tokens).shape, model(tokens, trace.mask(size=0.1)).shape
      ((97,), (97,))
    """

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer | None = None) -> None:
        self.decoder = decoder
        self._words = _Words(tokenizer)

    @staticmethod
    def from_arrays(config: ModelConfig, arrays: Params, tokenizer: Tokenizer | None = None) -> Model:
        """A model of written weights, such as a program's, in float32 on the default device.

        Args:
          config: its shape and flags.
          arrays: numpy or JAX arrays by name, nested as ``jstrace.models.shapes(config, dtype)`` is, which gives every
            name and shape: ``embed`` ``[V, D]``, ``layers`` with stacks ``[L, ...]`` and so on; narrow become wide.
          tokenizer: from texts to token ids, where there is one.

        Raises:
          InputError: a config that no model has; a weight that the config does not have, that is missing, of another
            shape, or whose numbers are not real and finite.
        """
        config = validated(config, "config")
        _check_shapes(_by_name(shapes(config, jnp.dtype("float32"))), _by_name(arrays))
        weights = jax.tree_util.tree_map_with_path(_as_float32, dict(arrays), is_leaf=is_narrow)
        return Model(Decoder(config, weights), tokenizer)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """From texts to token ids and back; None where a model came without one."""
        return self._words.tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer | None) -> None:
        self._words = _Words(tokenizer)

    def fingerprint(self) -> str:
        """A short hash of config, dtype and every weight, computed on first use."""
        leaves = jax.tree.leaves(self.decoder)
        with _LOCK:
            memo = _MEMOS.get(self)
        if memo is None or not memo.holds(leaves):
            memo = self._remembered(leaves, fingerprint(self.decoder))
        return memo.fingerprint

    def remember(self, known: str) -> None:
        """Take the fingerprint of these very weights that was computed elsewhere."""
        self._remembered(jax.tree.leaves(self.decoder), known)

    def _remembered(self, leaves: Sequence[Array], known: str) -> _Memo:
        memo = _Memo(tuple(map(weakref.ref, leaves)), known)
        with _LOCK:
            _MEMOS[self] = memo
        return memo

    @property
    def mesh(self) -> Mesh | None:
        """The mesh that the weights lie on; None for a single device."""
        return mesh_of(self.decoder)

    @property
    def dtype(self) -> jnp.dtype:
        """Of the residual stream, and of the weights unless they are stored narrow."""
        return self.decoder.embed[...].dtype

    @property
    def weights(self) -> str:
        """How matrices are stored: one of ``narrow.NARROW``, or nothing where all are in ``dtype``, on disk or not."""
        leaves = jax.tree.leaves(self.decoder.params(), is_leaf=is_narrow)
        ways = {leaf.way for leaf in leaves if is_narrow(leaf)}
        return next((way for way in reversed(NARROW) if way in ways), "")

    @property
    def config(self) -> ModelConfig:
        """Shape and flags of the decoder."""
        return self.decoder.config

    def full_mask(self, n_tokens: int, *, n_outputs: int = 1) -> EdgeTree:
        """The mask that keeps every edge of ``n_tokens`` tokens: numpy, bool, false in slots that are no edge.

        ``n_outputs`` is a trace's: the tokens before those of an answer, the last ones.
        """
        return slots.full_mask(self.config, n_tokens, n_outputs=n_outputs)

    def empty_mask(self, n_tokens: int) -> EdgeTree:
        """The mask that keeps no edge of ``n_tokens`` tokens: numpy, bool."""
        return slots.empty_mask(self.config, n_tokens)

    def mask_of(self, edges: Iterable[Any], n_tokens: int, *, n_outputs: int = 1) -> EdgeTree:
        """The mask that keeps these edges alone, such as those of ``trace.edges(k)``: numpy, bool.

        Raises:
          InputError: what is no edge of a graph of ``n_tokens`` tokens.
        """
        return slots.mask_of(self.config, edges, n_tokens, n_outputs=n_outputs)

    def __call__(
        self,
        tokens: Int[AnyArray, "T"],
        mask: EdgeTree | None = None,
        *,
        replace: Replacement | None = None,
        pre_softmax: bool = False,
        every: bool = False,
    ) -> Float32[Array, "*T V"]:
        """Next-token logits ``[V]`` with every edge multiplied by its mask (bool, or float in [0, 1]).

        What a mask ablates carries nothing, or what ``replace`` says (section 8 of the method). Without a mask it is a
        plain forward pass, which gives the logits after every token, ``[T, V]``, where ``every`` asks for them.

        Raises:
          InputError: tokens, masks or replacements of other shapes or kinds; token ids outside the vocabulary, which
            give NaN under ``jax.jit``, where they are not known; a replacement before the softmax; ``every`` with a
            mask, or a replacement without one.
        """
        ids = checked_tokens(self.config, tokens)
        if mask is None:
            if replace is not None or pre_softmax:
                raise InputError("without a mask nothing is ablated, so that replace and pre_softmax say nothing")
            return nan_unless_known(self.config, ids, plain_forward(self.decoder, ids, every=every))
        if every:
            raise InputError("a mask is of the edges that lead to the token after the last; every is for no mask")
        if replace is not None:
            check_fits(checked_arrays(replace), self.config, ids.size)
        mask = checked_mask(self.config, ids.size, mask)
        logits = self.decoder(ids, mask, replace=replace, pre_softmax=pre_softmax)
        return nan_unless_known(self.config, ids, logits)
