"""The sizes of traces, as fractions of all edges (sections 3 and 5 of the method); no JAX."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np

from jstrace.errors import InputError

SIZES: tuple[float, ...] = (
    *(1e-5, 2e-5, 4e-5, 8e-5),
    *(1e-4, 2e-4, 4e-4, 8e-4),
    *(1e-3, 1.2e-3, 1.4e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3),
    *(1e-2, 2e-2, 4e-2, 6e-2, 8e-2),
    *(1e-1, 2e-1, 4e-1, 6e-1, 8e-1),
)
"""The 26 sizes of the paper, as fractions of all edges.

Examples:
  >>> len(jstrace.SIZES), jstrace.SIZES[0], jstrace.SIZES[-1]
  (26, 1e-05, 0.8)
"""

MAX_SIZES = 254
"""Strata are uint8: Z itself marks the full graph, 255 a slot that is no edge."""

NO_EDGE = 255
"""The stratum of slots that are no edge."""

CONTROLLED = 0.5
"""Beyond this share of the edges a control says nothing: what is left is nearly the model, which predicts its own."""

NUCLEUS_LEVELS: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
"""Probability masses of the nuclei that are compared."""


def percent(share: float, digits: int = 2) -> str:
    """A share of the edges as people write it: 0.42%, 12%, 100%."""
    return f"{float(f'{100 * share:.{digits}g}'):g}%"


def checked_sizes(sizes: Sequence[float]) -> tuple[float, ...]:
    """The sizes as floats.

    Raises:
      InputError: no numbers in an order, none, more than 254, outside (0, 1], or not strictly increasing.
    """
    if isinstance(sizes, str | bytes | Set | Mapping | Iterator):  # have no order, are gone when read, or are letters
        raise InputError(f"sizes = {sizes!r}, expected a sequence of numbers")
    try:
        given = tuple(sizes)
        if any(isinstance(size, str | bytes | bool | np.bool_) for size in given):
            raise TypeError("float() would take them")
        values = tuple(float(size) for size in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"sizes must be numbers, got {sizes!r}") from error
    if not 1 <= len(values) <= MAX_SIZES:
        raise InputError(f"{len(values)} sizes, expected 1 to {MAX_SIZES}")
    wrong = [value for value in values if not 0 < value <= 1]
    if wrong:
        raise InputError(f"size {wrong[0]!r} is outside (0, 1]; sizes are fractions of all edges")
    if any(b <= a for a, b in itertools.pairwise(values)):
        raise InputError(f"sizes must increase strictly, got {values}")
    return values


def most_selective(sizes: Sequence[float], selectivity: np.ndarray) -> int:
    """The index of the size where selectivity is largest, of those up to ``CONTROLLED``; of all where none is."""
    small = sum(size <= CONTROLLED for size in sizes) or len(sizes)
    return int(np.argmax(selectivity[:small]))


def counts(sizes: Sequence[float], edges: int) -> np.ndarray:
    """Edges of each trace, ``floor(size * E)`` in float64: int32 ``[Z]``."""
    return np.asarray([math.floor(size * edges) for size in sizes], np.int32)
