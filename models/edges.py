"""The axis alphabet, ``EdgeTree``, the one shape of scores, strata and masks, and what an edge score is.

Axes, everywhere in this project:

====  =====================  ====  =====================
B     batch of inputs        D     model width
T     query (target) token   F     MLP width
S     key (source) token     V     vocabulary
H     query heads            L     layers
K     key/value heads        E     edges of the graph
G     query heads per K      Z     sizes of traces
d     head dimension         Z1    sizes and the full graph
e     width of values        C     experts chosen for a row
P     learned positions      R     rows (any tokens, flattened)
X     experts                U     width of the MLP beside them
W     tokens of a short      c     what keys and values are
      convolution                  made of (latent attention)
a     what queries are       n     dimensions that are not
      made of                      rotated
r     rotated dimensions
====  =====================  ====  =====================
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

from jstrace.errors import InputError
from jstrace.models.config import ModelConfig

if TYPE_CHECKING:
    AnyArray = Any
    """On the device, or fetched from it."""
else:
    AnyArray = Array | np.ndarray


class ByValue:
    """A dataclass (``eq=False``) that equals another of its class where all fields do: arrays by shape and numbers.

    NaN equals NaN, and dtypes are not compared. It cannot be hashed. Inside a transformation, which does not tell
    numbers, only the same arrays are known to be equal. The equality that dataclasses make asks arrays for one truth.
    """

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # type: ignore[assignment]


_ARRAYS = (np.ndarray, jax.Array)


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if (isinstance(a, _ARRAYS) and isinstance(b, _ARRAYS)) or (isinstance(a, float) and isinstance(b, float)):
        return np.array_equal(a, b, equal_nan=all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in (a, b)))
    if isinstance(a, _ARRAYS) or isinstance(b, _ARRAYS):
        return False
    return bool(a == b)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EdgeTree(ByValue):
    """One value per edge of the graph of a forward pass (section 2 of the paper).

    The order of the fields is the order of edge indices: row-major over ``residual_attn``, ``attn``, ``residual_mlp``
    and ``mlp``. Leading batch axes and numpy arrays are welcome; inside a scan the layer axis is gone.
    Two trees are equal where their arrays are, by shape and numbers: ``==`` gives one bool.

    Examples:
      >>> small, large = trace.mask(size=0.1), trace.mask(size=0.4)
      >>> int(small.count()), int((large - small).count())
      (29, 89)
    """

    residual_attn: Shaped[AnyArray, "*B L T"]
    attn: Shaped[AnyArray, "*B L H T S"]
    residual_mlp: Shaped[AnyArray, "*B L T"]
    mlp: Shaped[AnyArray, "*B L T"]

    def items(self) -> Iterator[tuple[str, Any]]:
        """The kinds of edges with their arrays, in the order of edge indices."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    def check(
        self, what: str, config: ModelConfig, n_tokens: int, dtypes: str = "", *, lead: int = 0, hint: str = ""
    ) -> None:
        """Refuse other shapes than those of the edges of ``n_tokens`` tokens, behind ``lead`` axes, and other types.

        ``dtypes`` is "floats", or "bool or float" as of masks; any are welcome by default.

        Raises:
          InputError: about ``what`` the arrays are, with ``hint`` where a shape is another.
        """
        for kind, shape in edge_shapes(config.n_layers, config.n_heads, n_tokens).items():
            leaf = getattr(self, kind)
            if np.shape(leaf)[lead:] != shape:
                wanted = f"floats of {shape}" if dtypes == "floats" else shape
                raise InputError(f"{what} {kind} has shape {np.shape(leaf)}, expected {wanted}{hint}")
            if dtypes and not (jnp.issubdtype(leaf.dtype, jnp.floating) or (leaf.dtype == bool and "bool" in dtypes)):
                raise InputError(f"{what} {kind} is {leaf.dtype}, expected {dtypes}")

    def union(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of either mask; both bool."""
        return _joined(operator.or_, self, other)

    def intersection(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of both masks; both bool."""
        return _joined(operator.and_, self, other)

    def difference(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of this mask that are not the other's; both bool."""
        return _joined(lambda own, its: own & ~its, self, other)

    __or__, __and__, __sub__ = union, intersection, difference

    def count(self) -> Any:
        """Edges of a bool mask: an int array of its leading batch axes."""
        counts = [leaf.sum(axis=tuple(range(-_axes(kind), 0))) for kind, leaf in _of_bools(self).items()]
        return sum(counts[1:], start=counts[0])

    def overlap(self, other: EdgeTree) -> Any:
        """Shared edges over those of either mask (Jaccard index), from 0 to 1; 1 for two empty masks."""
        either = self.union(other).count()
        return (self.intersection(other).count() + (either == 0)) / (either + (either == 0))


EDGE_KINDS = tuple(field.name for field in dataclasses.fields(EdgeTree))
"""The four kinds of edges, in the order of their indices."""


def edge_shapes(n_layers: int, n_heads: int, n_tokens: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one input's ``EdgeTree``, by kind."""
    rows = (n_layers, n_tokens)
    return dict(zip(EDGE_KINDS, (rows, (n_layers, n_heads, n_tokens, n_tokens), rows, rows), strict=True))


@runtime_checkable
class Score(Protocol):
    """An edge score: how much an edge brings, given its vector and the node that it enters (Eq. 1); both in float32.

    One of your own goes to ``jstrace.trace(score=)``. It must be hashable and compare by value, as a frozen
    dataclass does, since programs are compiled for it. Where it has a true attribute ``shares``, the score of an edge
    is its share of all those into the same node, and magnitudes must not be negative; otherwise the value itself is the
    score, of any sign. An attribute ``name`` is what tables call it; otherwise its class's name is.

    Examples:
      >>> from jstrace.method.scores.measured import Norm
      >>> isinstance(Norm(1), jstrace.Score)
      True
    """

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Magnitude of residual and MLP edges."""
        ...

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Magnitude of the edges ``probs[h,i,j] * values[h,j]``, where ``values`` are the W_O v of each head.

        Under a linearised post-norm ``probs`` carry the inverse RMS of their target and ``values`` the norm's weight.
        Where heads have gates, each target is asked about alone (T = 1), as its values are its own; a negative factor
        has its sign there, and ``probs`` are not probabilities.
        """
        ...


def _axes(kind: str) -> int:
    """Axes of one input's array."""
    return 4 if kind == "attn" else 2


def _of_bools(tree: Any) -> EdgeTree:
    if not isinstance(tree, EdgeTree):
        raise InputError(f"mask is {type(tree).__name__}, expected an EdgeTree")
    for kind, leaf in tree.items():
        dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
        if dtype != "bool":
            raise InputError(f"mask {kind} is {dtype}, expected bool")
    return tree


def _joined(join: Callable[[Any, Any], Any], mask: EdgeTree, other: EdgeTree) -> EdgeTree:
    """Leaf by leaf, of masks of the same graph; batch axes broadcast."""
    leaves, others = {}, dict(_of_bools(other).items())
    for kind, leaf in _of_bools(mask).items():
        own, its = (array.shape[-_axes(kind) :] for array in (leaf, others[kind]))
        if own != its:
            raise InputError(f"mask {kind} of shape {own} and one of shape {its}: of different graphs")
        leaves[kind] = join(leaf, others[kind])
    return EdgeTree(**leaves)
