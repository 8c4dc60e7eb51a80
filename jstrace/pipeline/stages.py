"""The stages of a batch up to its strata, compiled once a shape: scores from one clean pass, and extraction.

Here and in ``masked`` alone stages are jitted, beside ``extract``, which users call; on a mesh every device works on
its own inputs.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from jstrace.method import scores
from jstrace.method.extraction import extract_pooled, extract_whole
from jstrace.models import AnyArray, Decoder, EdgeTree
from jstrace.scale import meshes


@functools.partial(jax.jit, static_argnames=("importances", "mesh"))
def score_batch(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    seed: Int[Array, ""] | int,
    *,
    importances: tuple[str, ...],
    mesh: Mesh | None = None,
) -> tuple[tuple[EdgeTree, ...], Bool[Array, "B 4 L"]]:
    """Scores of several kinds from one clean pass of a padded batch.

    Returns:
      The scores of each kind, and where those of an input are all finite: by family of edges and layer.
    """

    def score(decoder: Decoder, tokens: Array, lengths: Array) -> tuple[tuple[EdgeTree, ...], Array]:
        one = functools.partial(scores.several_scores, importances=importances, seed=seed)
        found = jax.vmap(one, in_axes=(None, 0, 0))(decoder, tokens, lengths)
        return found, functools.reduce(jnp.logical_and, map(_finite, found))

    return meshes.over_inputs(score, mesh, tokens.shape[0])(decoder, tokens, lengths)


def _finite(tree: EdgeTree) -> Bool[Array, "B 4 L"]:
    leaves = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(2, leaf.ndim))) for _, leaf in tree.items()]
    return jnp.stack(leaves, axis=1)


def extract_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> EdgeTree:
    """Strata of a padded batch.

    Nearly always the lean program does. Where groups at cuts are too large for its pool (many equal or random scores),
    a second one runs, which is compiled, and whose memory is taken, only then.
    """
    strata, complete = extract_pooled_batch(score, cuts, lengths, parallel=parallel, frozen=frozen, mesh=mesh)
    if complete:
        return strata
    return extract_whole_batch(score, cuts, lengths, parallel=parallel, frozen=frozen, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("parallel", "frozen", "mesh"))
def extract_pooled_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """Strata of a padded batch and whether all of them are right, compiled once a shape."""
    extract = jax.vmap(functools.partial(extract_pooled, parallel=parallel, frozen=frozen))
    strata, complete = meshes.over_inputs(extract, mesh, lengths.shape[0], whole=True)(score, cuts, lengths)
    return strata, jnp.all(complete)


@functools.partial(jax.jit, static_argnames=("parallel", "frozen", "mesh"))
def extract_whole_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> EdgeTree:
    """Strata of a padded batch whatever its groups, compiled once a shape."""
    extract = jax.vmap(functools.partial(extract_whole, parallel=parallel, frozen=frozen))
    return meshes.over_inputs(extract, mesh, lengths.shape[0], whole=True)(score, cuts, lengths)
