"""The shape of a cloud of hidden states: how many dimensions it fills, and how far it points one way. No JAX.

Intrinsic dimension is two-NN's (Facco et al. 2017, doi 10.1038/s41598-017-11873-y). scikit-dimension has it, too, and
is well kept, but brings scikit-learn and numba for what is one formula; tests compare the two.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import distance

FEWEST = 3
"""Points from which on there is a second neighbour."""


class Geometry(NamedTuple):
    """Of the states of an input's tokens after each layer."""

    dimension: Float[np.ndarray, "L"]
    """Intrinsic dimension by ``two_nn``; NaN of fewer than three points that differ."""
    anisotropy: Float[np.ndarray, "L"]
    """``anisotropy``; NaN of fewer than two points."""


def geometry(states: Float[np.ndarray, "L T D"]) -> Geometry:
    """Dimension and anisotropy of each layer's states of all tokens."""
    wide = np.asarray(states, np.float64)
    return Geometry(np.asarray([two_nn(layer) for layer in wide]), np.asarray([anisotropy(layer) for layer in wide]))


def two_nn(points: Float[np.ndarray, "N D"]) -> float:
    """Intrinsic dimension from the distances of each point to its two nearest neighbours.

    Where density is even so far, their ratio follows a Pareto law whose exponent is the dimension; this is the unbiased
    estimate of largest likelihood, (n - 1) / sum(log(r2 / r1)), over the n points that have no twin (r1 > 0).
    """
    if len(points) < FEWEST:
        return np.nan
    near = np.partition(distance.squareform(distance.pdist(points)), (0, 1, 2), axis=1)
    first, second = near[:, 1], near[:, 2]  # the point itself is before them
    total = np.sum(np.log(second[first > 0] / first[first > 0]))
    return float((np.sum(first > 0) - 1) / total) if total > 0 else np.nan


def anisotropy(points: Float[np.ndarray, "N D"]) -> float:
    """The mean cosine between all pairs of different points (Ethayarajh 2019), from -1 / (N - 1) to 1; 1: all alike."""
    norms = np.linalg.norm(points, axis=1)
    units = points[norms > 0] / norms[norms > 0, None]
    n = len(units)
    return float((np.sum(units.sum(axis=0) ** 2) - n) / (n * (n - 1))) if n > 1 else np.nan
