"""Matrices of layers, read from safetensors when a pass asks for them; the next layer's are fetched meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.convert.stacks import Part
from jstrace.models.declared import Weight
from jstrace.models.streamed import Streamed

PartOf = Callable[[int, jnp.dtype, bool], Part]
"""From a layer's place in its stack, the dtype to read it in and whether to look at every number, to what reads it."""


@runtime_checkable
class Paged(Protocol):
    """A matrix of a file that the system maps into memory page by page."""

    def fetch(self) -> None:
        """Have its pages read from disk, without waiting for them."""
        ...

    def release(self) -> None:
        """Take its pages out of this process; the system keeps them as long as it has room."""
        ...


class LayerReader:
    """Reads the layers of one weight: ``models.streamed.Reader``."""

    def __init__(self, part: PartOf, dtype: jnp.dtype, shape: Sequence[int], order: Sequence[int], own: Any) -> None:
        """What the files have.

        Args:
          part: reads it.
          dtype: to read it in.
          shape: of a layer there.
          order: of its axes, in that of the weight.
          own: of each layer its matrices.
        """
        self._part, self._dtype, self._order, self._own = part, dtype, order, own
        self._everything = tuple(slice(0, length) for length in shape)
        self._last = -1

    def __call__(self, layer: int) -> np.ndarray:
        """A layer, of which the file is known to be whole."""
        return self._read(layer, checked=False)

    def checked(self, layer: int) -> np.ndarray:
        """A layer, each of its numbers looked at."""
        return self._read(layer, checked=True)

    def __deepcopy__(self, memo: object) -> LayerReader:
        """Itself: files that are open have no copy."""
        return self

    def _read(self, layer: int, *, checked: bool) -> np.ndarray:
        last, self._last = self._last, layer
        step = -1 if layer == last - 1 else 1  # a backward pass goes from the last layer to the first
        for matrix in self._own[(layer + step) % len(self._own)]:
            matrix.fetch()
        for matrix in self._own[last] if last not in (-1, layer) else ():
            matrix.release()
        return np.transpose(self._part(layer, self._dtype, checked)(self._everything), self._order)


def streamed_leaf(
    part: PartOf,
    letters: tuple[str, ...],
    weight: Weight,
    blank: Streamed,
    own: Sequence[Sequence[Any]],
    place: jax.sharding.Sharding,
    *,
    exact: bool,
) -> Streamed:
    """One parameter, none of which is read yet.

    Args:
      part: reads it.
      letters: the axes of a layer in the files.
      weight: what it is declared as.
      blank: its shape.
      own: of each layer its matrices.
      place: the device that layers are read to.
      exact: whether the numbers of the files are those of the weight.
    """
    sizes = dict(zip(weight.axes[1:], blank.row, strict=True))
    shape, order = [sizes[letter] for letter in letters], [letters.index(axis) for axis in weight.axes[1:]]
    stored = {jnp.dtype(matrix.dtype) for layer in own for matrix in layer}
    # Numbers of fewer digits become wider on the device; what has to be rounded is rounded as it is read.
    fewer = exact and len(stored) == 1 and jnp.promote_types(blank.dtype, *stored) == blank.dtype
    fewer = fewer and max(each.itemsize for each in stored) <= blank.dtype.itemsize
    read = stored.pop() if fewer else blank.dtype
    paged = [[matrix for matrix in layer if isinstance(matrix, Paged)] for layer in own]
    layers = jax.device_put(np.arange(len(own), dtype=np.int32), place)
    reader = LayerReader(part, read, shape, order, paged)
    return dataclasses.replace(blank, layer=layers, reader=reader, read=read)
