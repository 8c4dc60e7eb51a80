"""Of every method that quantises weights: what it stores, and how a matrix is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from jstrace.convert.hf.packed import Scaled
from jstrace.convert.weights import FLOATS, Tensor
from jstrace.models import InputError

_NOT_OF_WEIGHTS = (".activation_scale", ".input_scale", ".k_scale", ".v_scale", ".q_scale", ".output_scale")
"""Scales of activations and of their cache."""
MOST_SHAPE = 2**31
"""Rows or columns that a file may speak of."""

Weights = dict[str, Tensor]
Group = Callable[[str, Weights, str], Tensor]
"""Makes the matrix of a name of what stands under it, which it takes out."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scheme:
    """A method, by what it stores for each weight."""

    method: str
    key: str
    """What the name of a quantised weight ends with in the file, and no other's does."""
    made: Group
    """Of the name without it."""

    def dequantised(self, tensors: Mapping[str, Tensor], where: str) -> Weights:
        """The weights with each quantised one as a matrix of float32.

        Raises:
          InputError: parts of a weight that are missing or do not fit each other.
        """
        left = {name: tensor for name, tensor in tensors.items() if not name.endswith(_NOT_OF_WEIGHTS)}
        matrices: Weights = {}
        for name in [name for name in left if name.endswith(self.key)]:
            bare = name.removesuffix(self.key)
            matrix = self.made(bare, left, where)
            matrices[bare if self.method == "mxfp4" else f"{bare}.weight"] = matrix
        return left | matrices


def part(name: str, left: Weights, where: str) -> Tensor:
    """A part of a weight, taken out of what is left.

    Raises:
      InputError: it is missing.
    """
    if name not in left:
        raise InputError(f"{where}: weight {name} is missing")
    return left.pop(name)


def scaled(key: str, block: tuple[int, int] | None, dtypes: tuple[str, ...], factor: float = 1.0) -> Group:
    """Numbers of these types times scales that are called ``key``, as of ``packed.Scaled``."""

    def made(name: str, left: Weights, where: str) -> Tensor:
        scale, weight = part(name + key, left, where), part(f"{name}.weight", left, where)
        if weight.dtype not in dtypes:
            raise InputError(f"{where}: weight {weight.name} has dtype {weight.dtype}, expected {' or '.join(dtypes)}")
        if scale.dtype not in (*FLOATS, "float8_e8m0fnu"):
            raise InputError(f"{where}: weight {scale.name} has dtype {scale.dtype}, expected float32")
        return Scaled(weight, scale, block, where, factor)

    return made
