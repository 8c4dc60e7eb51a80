"""Rows of several cases dealt out to devices like cards, and collected again."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def dealt(cases: Sequence[np.ndarray], n_devices: int, marked: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each case in the order in which devices take them, as large traces cost more than small ones.

    Args:
      cases: ``[N_c, ...]`` each, of one dtype; cases may differ in their number of rows.
      n_devices: that share the rows.
      marked: a row of each case, by its index.

    Returns:
      Rows ``[C, N, ...]``, device by device, and which of them is the marked one of its case: bool ``[C, N]``. Where
      they do not come out even, rows of zeros follow.
    """
    n = -(-max(map(len, cases)) // n_devices) * n_devices
    rows, chosen = np.zeros((len(cases), n, *cases[0].shape[1:]), cases[0].dtype), np.zeros((len(cases), n), bool)
    for index, (given, row) in enumerate(zip(cases, marked, strict=True)):
        rows[index, : len(given)], chosen[index, row] = given, True
    order = np.arange(n).reshape(-1, n_devices).T.ravel()
    return rows[:, order], chosen[:, order]


def collected(leaf: Array, n_devices: int, n_rows: int) -> Array:
    """Results (``[C, B, N, ...]``) of dealt rows in the order of rows again, without padding."""
    if n_devices > 1:
        apart = leaf.reshape(*leaf.shape[:2], n_devices, -1, *leaf.shape[3:])
        leaf = jnp.swapaxes(apart, 2, 3).reshape(leaf.shape)
    return leaf[:, :, :n_rows]
