"""Records that hold arrays, compared: the equality that dataclasses make asks arrays for one truth, which they lack."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class ByValue:
    """A dataclass (``eq=False``) that equals another of its class where all fields do: arrays by shape and numbers.

    NaN equals NaN, and dtypes are not compared. It cannot be hashed. Inside a transformation, which does not tell
    numbers, only the same arrays are known to be equal.
    """

    def __eq__(self, other: object) -> bool:
        return same(self, other) if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def same(one: Any, other: Any) -> bool:
    """Whether all fields of two records of one class are equal."""
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    return all(_equal(a, b) for a, b in pairs)


_ARRAYS = (np.ndarray, jax.Array)


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if (isinstance(a, _ARRAYS) and isinstance(b, _ARRAYS)) or (isinstance(a, float) and isinstance(b, float)):
        return np.array_equal(a, b, equal_nan=all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in (a, b)))
    if isinstance(a, _ARRAYS) or isinstance(b, _ARRAYS):
        return False
    return bool(a == b)
