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
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Shaped

if TYPE_CHECKING:
    AnyArray = Any
else:
    AnyArray = Array | np.ndarray  # on the device, or fetched from it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EdgeTree:
    """One value per edge of the graph of a forward pass (section 2 of the paper).

    The order of the fields is the order of edge indices: row-major over ``residual_attn``, ``attn``, ``residual_mlp``
    and ``mlp``. Leading batch axes and numpy arrays are welcome; inside a scan the layer axis is gone.
    """

    residual_attn: Shaped[AnyArray, "*B L T"]
    attn: Shaped[AnyArray, "*B L H T S"]
    residual_mlp: Shaped[AnyArray, "*B L T"]
    mlp: Shaped[AnyArray, "*B L T"]

    def items(self) -> Iterator[tuple[str, Any]]:
        """The family names with their arrays, in the order of edge indices."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)


FAMILIES = tuple(field.name for field in dataclasses.fields(EdgeTree))


def edge_shapes(n_layers: int, n_heads: int, n_tokens: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one input's ``EdgeTree``, by family."""
    rows = (n_layers, n_tokens)
    return dict(zip(FAMILIES, (rows, (n_layers, n_heads, n_tokens, n_tokens), rows, rows), strict=True))
