"""How shapes and dtypes of operands are brought together, and keys split, whatever the caller asks of other code."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def usual_promotion() -> Iterator[None]:
    """JAX's default rules, also where ``jax_numpy_rank_promotion`` or ``jax_numpy_dtype_promotion`` are stricter.

    Those flags are for finding faults in the code that sets them. Draws, too, are those of JAX's defaults, so that a
    seed means the same under ``jax_threefry_partitionable=False``. What is compiled or called from elsewhere is
    decorated with this, which covers all that runs inside it: derivatives, batches, and other libraries, too.
    """
    promotion = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")
    with promotion[0], promotion[1], jax.threefry_partitionable(True):
        yield
