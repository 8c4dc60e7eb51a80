"""Matrices of layers that stay in the files of a model: a pass reads those of one layer at a time.

A ``Streamed`` stands in the place of a weight's array. The numbers are those of the files, so that results are the same
to the bit as those of weights in memory. A backward pass reads each layer again.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

STREAMED = "streamed"


@runtime_checkable
class Reader(Protocol):
    """What gives the layers of one weight; programs are compiled for each anew, by its identity."""

    def __call__(self, layer: int) -> np.ndarray:
        """The weight of a layer, in the dtype in which it is read; a view of the file where it can be."""
        ...

    def checked(self, layer: int) -> np.ndarray:
        """The same, after a look at every number.

        Raises:
          InputError: numbers that are not finite.
        """
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A weight by the numbers of its layers; as a pytree it may also hold shapes, shardings or a single layer."""

    layer: Int32[Array, "*L"]
    """Places in the stack, ``[L]``, or one of them."""
    reader: Reader | None = dataclasses.field(metadata={"static": True})
    """None where shapes alone are known."""
    row: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    """Shape of a layer."""
    read: jnp.dtype = dataclasses.field(metadata={"static": True})
    """Of what the reader gives."""
    dtype: jnp.dtype = dataclasses.field(metadata={"static": True})
    """Of the weight in a pass."""

    way = STREAMED

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return (*self.layer.shape, *self.row)

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """Of the device that layers are read to."""
        return self.layer.sharding

    def __getitem__(self, index: Any) -> Streamed:
        """Some of the layers, or one; all for ``...``, as ``nnx.Param`` asks."""
        return self if index is Ellipsis else dataclasses.replace(self, layer=self.layer[index])

    def wide(self) -> Array:
        """The array that it stands for. Inside a program it is read when the program runs, one layer after another."""
        if self.layer.ndim:
            return jax.lax.map(Streamed.wide, self)
        reader = self.reader

        def read(layer: Any) -> np.ndarray:
            assert reader is not None
            return reader(int(layer))

        numbers = jax.pure_callback(read, jax.ShapeDtypeStruct(self.row, self.read), self.layer)
        return numbers.astype(self.dtype)

    def checked(self, layer: int) -> np.ndarray:
        """The numbers of a layer on the host, in the dtype of the weight, each of them looked at.

        Raises:
          InputError: numbers that are not finite.
        """
        assert self.reader is not None
        return self.reader.checked(layer).astype(self.dtype, copy=False)


def blank_of(whole: jax.ShapeDtypeStruct) -> Streamed:
    """The shape of a stack as that of a ``Streamed``, which reads nothing."""
    layers: Any = jax.ShapeDtypeStruct(whole.shape[:1], jnp.int32)
    return Streamed(layers, None, whole.shape[1:], whole.dtype, whole.dtype)
