"""How steady results are: the same again with weights that differ by what rounding does (section 9 of the method)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jstrace.models import InputError, Model
from jstrace.models.narrow import is_narrow
from jstrace.models.platforms import seeded, usual_promotion
from jstrace.models.streamed import Streamed

NOISE = 1e-6
"""Standard deviation of the factors on float32 weights, around 1."""
_ULPS = 1 / 8
"""Of weights of fewer digits: of the distance between two of their numbers, or nearly none would change."""


def check_repeats(model: Model, repeats: int) -> None:
    """Refuse repetitions of a model whose weights are not here to be moved.

    Raises:
      InputError: weights that are streamed.
    """
    leaves = jax.tree.leaves(model.decoder.params(), is_leaf=is_narrow)
    if repeats and any(isinstance(leaf, Streamed) for leaf in leaves):
        raise InputError("repeats move weights in memory, and those of this model are streamed; load it without")


@usual_promotion()
def perturbed(model: Model, number: int) -> Model:
    """The model with every weight times (1 + 1e-6 N(0, 1)), as a machine that rounds otherwise might have it.

    ``number`` names the draw: the same for every input, batch and call. Weights of fewer digits than float32 move by an
    eighth of the distance between their numbers, so that some are rounded otherwise. Of narrow weights the
    scales move.
    """
    leaves, tree = jax.tree.flatten(model.decoder)
    keys = jax.random.split(jax.random.fold_in(seeded(0), number), len(leaves))
    moved = [_moved(leaf, key, model.dtype) for leaf, key in zip(leaves, keys, strict=True)]
    return Model(jax.tree.unflatten(tree, moved), model.tokenizer)


@functools.partial(jax.jit, static_argnums=2)
@usual_promotion()
def _moved(leaf: Array, key: Array, dtype: jnp.dtype) -> Array:
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    scale = max(NOISE, _ULPS * float(jnp.finfo(dtype).eps))
    noise = jax.random.normal(key, leaf.shape, jnp.float32)
    return (leaf.astype(jnp.float32) * (1 + scale * noise)).astype(leaf.dtype)
