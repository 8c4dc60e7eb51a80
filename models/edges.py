"""The axis alphabet and ``EdgeTree``, the one shape of scores, strata and masks.

Axes, everywhere in this project:

====  =====================  ====  =====================
B     batch of inputs        D     model width
T     query (target) token   F     MLP width
S     key (source) token     V     vocabulary
H     query heads            L     layers
K     key/value heads        E     edges of the graph
G     query heads per K      Z     sizes of traces
d     head dimension         Z1    sizes and the full graph
P     learned positions      R     rows (any tokens, flattened)
====  =====================  ====  =====================
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Shaped

from jstrace.errors import InputError
from jstrace.models.records import ByValue

if TYPE_CHECKING:
    AnyArray = Any
    """On the device, or fetched from it."""
else:
    AnyArray = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EdgeTree(ByValue):
    """One value per edge of the graph of a forward pass (section 2 of the paper).

    The order of the fields is the order of edge indices: row-major over ``residual_attn``, ``attn``, ``residual_mlp``
    and ``mlp``. Leading batch axes and numpy arrays are welcome; inside a scan the layer axis is gone.
    Two trees are equal where their arrays are, by shape and numbers: ``==`` gives one bool.
    """

    residual_attn: Shaped[AnyArray, "*B L T"]
    attn: Shaped[AnyArray, "*B L H T S"]
    residual_mlp: Shaped[AnyArray, "*B L T"]
    mlp: Shaped[AnyArray, "*B L T"]

    def items(self) -> Iterator[tuple[str, Any]]:
        """The kinds of edges with their arrays, in the order of edge indices."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    def union(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of either mask; both bool."""
        return _joined(operator.or_, self, other)

    def intersection(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of both masks; both bool."""
        return _joined(operator.and_, self, other)

    def difference(self, other: EdgeTree) -> EdgeTree:
        """The mask of the edges of this mask that are not the other's; both bool."""
        return _joined(lambda one, two: one & ~two, self, other)

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


def _axes(kind: str) -> int:
    """Axes of one input's array."""
    return 4 if kind == "attn" else 2


def _of_bools(tree: Any) -> EdgeTree:
    if not isinstance(tree, EdgeTree):
        raise InputError(f"mask is {type(tree).__name__}, expected an EdgeTree")
    for kind, leaf in tree.items():
        found = str(getattr(leaf, "dtype", type(leaf).__name__))
        if found != "bool":
            raise InputError(f"mask {kind} is {found}, expected bool")
    return tree


def _joined(join: Callable[[Any, Any], Any], one: EdgeTree, other: EdgeTree) -> EdgeTree:
    """Leaf by leaf, of masks of the same graph; batch axes broadcast."""
    found, others = {}, dict(_of_bools(other).items())
    for kind, leaf in _of_bools(one).items():
        own, its = (array.shape[-_axes(kind) :] for array in (leaf, others[kind]))
        if own != its:
            raise InputError(f"mask {kind} of shape {own} and one of shape {its}: of different graphs")
        found[kind] = join(leaf, others[kind])
    return EdgeTree(**found)
