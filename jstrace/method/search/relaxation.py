"""The recursion of best-first search: keys of edges from bounds of nodes, from the output down (section 3).

``key(e) = min(priority(e), b(target))`` and ``b(node) = max`` of the keys of the edges leaving it. The first pass runs
it over all edges and keeps the bounds alone; refinement runs it within groups, on trees or on lists of edges.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jstrace.models import EdgeTree, form
from jstrace.models.rows import argsort

TOP = np.uint32(0xFFFFFFFF)
"""A key above that of every edge."""

MostBySource = Callable[[UInt32[Array, "N"]], UInt32[Array, "M"]]
"""Of values of edges, the greatest at each node that they leave."""

Values = TypeVar("Values")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Relaxed(Generic[Values]):
    """The result of one pass over edges, as an ``EdgeTree`` or as flat arrays."""

    key: Values
    """uint32: the level of priority at which the search takes the edge; 0 is never."""
    seed: Values
    """bool: the edge was available before the search fell to its key."""
    opens: Values
    """bool: the edge's source is discovered at its key."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the recursion."""

    keys: EdgeTree
    targets: EdgeTree
    """The bound under which each edge stands: that of its target, or ``TOP`` where it needs none."""
    below: UInt32[Array, "T"]
    """Bounds of the nodes that the layer starts from."""
    middle: UInt32[Array, "T"]
    """Of the nodes that attention's edges enter: after attention, or with parallel blocks at the end of the layer."""
    start: UInt32[Array, "T"]
    """Of the nodes that the MLP's edges leave: after attention, or with parallel blocks where the layer starts."""


def output_bounds(n_tokens: int, length: Int[Array, ""] | int, n_outputs: int = 1) -> UInt32[Array, "T"]:
    """Bounds of the nodes above the last layer: only the last true tokens', the outputs, are discovered, before all
    edges."""
    bounds = jnp.zeros(n_tokens, jnp.uint32)
    for back in range(1, n_outputs + 1):
        bounds = bounds.at[length - back].set(TOP)
    return bounds


def relax_layer(
    priority: EdgeTree,
    above: UInt32[Array, "T"],
    *,
    parallel: bool,
    free: EdgeTree | None = None,
    counted: EdgeTree | None = None,
) -> Layer:
    """Keys of a layer's edges, and the bounds of the nodes that they leave, from the bounds above.

    Args:
      priority: uint32, 0 for edges that are none.
      above: bounds of the nodes that the layer ends in.
      parallel: all edges of the layer enter the same node, and the MLP's leave from where attention's do.
      free: bool, edges that need no discovered target; none without it.
      counted: bool, edges that discover their source; all without it.
    """

    def bound(name: str, target: Array) -> Array:
        return target if free is None else jnp.where(getattr(free, name), TOP, target)

    def key(name: str, target: Array) -> Array:
        return jnp.minimum(getattr(priority, name), target)

    def reach(name: str, keys: Array) -> Array:
        return keys if counted is None else jnp.where(getattr(counted, name), keys, 0)

    bound_rm, bound_m = bound("residual_mlp", above), bound("mlp", above)
    residual_mlp, mlp = key("residual_mlp", bound_rm), key("mlp", bound_m)
    after = jnp.maximum(reach("residual_mlp", residual_mlp), reach("mlp", mlp))
    node = above if parallel else after
    bound_ra, bound_a = bound("residual_attn", node), bound("attn", node[:, None])
    residual_attn, attn = key("residual_attn", bound_ra), key("attn", bound_a)
    below = jnp.maximum(reach("residual_attn", residual_attn), jnp.max(reach("attn", attn), axis=(0, 1)))
    if parallel:
        below = after = jnp.maximum(below, after)
    keys = EdgeTree(residual_attn, attn, residual_mlp, mlp)
    return Layer(keys, EdgeTree(bound_ra, bound_a, bound_rm, bound_m), below, node, after)


def relax_tree(
    priority: EdgeTree,
    above: UInt32[Array, "T"],
    *,
    parallel: bool,
    free: EdgeTree | None = None,
    counted: EdgeTree | None = None,
) -> Relaxed[EdgeTree]:
    """The recursion over all layers, from the last to the first; arguments as in ``relax_layer``."""

    def step(above: Array, inputs: tuple[EdgeTree, EdgeTree | None, EdgeTree | None]) -> tuple[Array, Relaxed]:
        priority, free, counted = inputs
        layer = relax_layer(priority, above, parallel=parallel, free=free, counted=counted)
        sources = EdgeTree(layer.below, layer.below, layer.start, layer.start)
        opens = jax.tree.map(jnp.equal, layer.keys, sources)
        if counted is not None:
            opens = jax.tree.map(jnp.logical_and, counted, opens)
        return layer.below, Relaxed(layer.keys, jax.tree.map(jnp.less, layer.keys, layer.targets), opens)

    return jax.lax.scan(step, above, (priority, free, counted), reverse=True)[1]


def relax_list(
    rank: UInt32[Array, "N"],
    free: Bool[Array, "N"],
    counted: Bool[Array, "N"],
    ends: tuple[Int[Array, "N"], Int[Array, "N"]],
    most: MostBySource,
) -> Relaxed[Array]:
    """``relax_tree`` for edges in a list, given by source and target node: repeated until nothing changes.

    That takes as many turns as there are levels at most. ``most`` is what ``most_by_source`` gives.
    """
    sources, targets = ends

    def keys(node: Array) -> tuple[Array, Array]:
        bound = jnp.where(free, TOP, node.at[targets].get(mode="fill", fill_value=0))
        return jnp.minimum(rank, bound), bound

    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
        node, _ = state
        fresh = most(jnp.where(counted, keys(node)[0], 0))
        return fresh, jnp.any(fresh != node)

    start = (jnp.zeros_like(most(rank)), jnp.ones((), bool))
    node, _ = jax.lax.while_loop(lambda state: state[1], body, start)
    key, bound = keys(node)
    return Relaxed(key, key < bound, counted & (key == node.at[sources].get(mode="fill", fill_value=0)))


def most_by_source(sources: Int[Array, "N"], n_nodes: int, platform: str | None = None) -> MostBySource:
    """A function from values of edges to the greatest at each node that they leave, 0 where none does."""
    way = form(platform, cpu=_most_scattered, gpu=_most_scattered, tpu=_most_scanned)
    return way(sources, n_nodes)


def _most_scattered(sources: Int[Array, "N"], n_nodes: int) -> MostBySource:
    return lambda values: jnp.zeros(n_nodes, jnp.uint32).at[sources].max(values, mode="drop")


def _most_scanned(sources: Int[Array, "N"], n_nodes: int) -> MostBySource:
    """The same without scatters: edges are sorted once, and the greatest so far runs along those of a node."""
    order = argsort(sources.astype(jnp.uint32))
    ordered, n = sources[order], sources.shape[0]
    nodes = jnp.arange(n_nodes, dtype=ordered.dtype)
    last = jnp.searchsorted(ordered, nodes, side="right") - 1
    some = (last >= 0) & (ordered.at[last].get(mode="clip") == nodes)
    place = jnp.arange(n)

    def turn(bit: Array, greatest: Array) -> Array:
        step = 1 << bit
        same = (place >= step) & (jnp.roll(ordered, step) == ordered)
        return jnp.maximum(greatest, jnp.where(same, jnp.roll(greatest, step), 0))

    def most(values: Array) -> Array:
        greatest = jax.lax.fori_loop(0, (n - 1).bit_length(), turn, values[order])
        return jnp.where(some, greatest.at[last].get(mode="clip"), 0)

    return most
