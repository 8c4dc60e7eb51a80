"""Quarters of a model's depth (section 5 of the method); no JAX."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped


def by_quarter(layers: Shaped[np.ndarray, "*A L"]) -> Shaped[np.ndarray, "*A 4"]:
    """Sums over the layers of each quarter of the depth; layer l is in quarter floor(4 l / L)."""
    n_layers = layers.shape[-1]
    return layers @ (np.arange(4)[:, None] == 4 * np.arange(n_layers) // n_layers).T
