"""Records that hold arrays, compared."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from jstrace.models import EdgeTree


def same(one: Any, other: Any) -> bool:
    """Whether all fields of two records of one class are equal: arrays by value, NaN being equal to NaN."""
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one))
    return all(_equal(a, b) for a, b in pairs)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, EdgeTree) and isinstance(b, EdgeTree):
        return all(jax.tree.leaves(jax.tree.map(_equal, a, b)))
    if isinstance(a, np.ndarray | jax.Array | float) and isinstance(b, np.ndarray | jax.Array | float):
        return np.array_equal(a, b, equal_nan=np.issubdtype(np.asarray(a).dtype, np.inexact))
    return bool(a == b)
