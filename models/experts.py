"""Mixtures of experts: a router chooses some MLPs for every row; only those are computed, many rows at a time.

The rows of an expert are taken in blocks, so that its weights are read once for each. Neither sorts nor scatters are
needed: counts say which row is the n-th of an expert, and where a row's results stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from jstrace.models.config import CORRECTED, ModelConfig
from jstrace.models.feed_forward import feed_forward
from jstrace.models.layers import contract, norm
from jstrace.models.platforms import entry, form
from jstrace.models.rows import cumulative

_BLOCK = (16, 256)
"""Rows in a block: few, as the last one of every expert is half empty; many, as each reads the expert's weights."""

OWN_NORMS = ("router_norm", "experts_norm", "experts_post_norm", "shared_post_norm")
_WEIGHTS = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")


class Routing(NamedTuple):
    """What a router says of rows."""

    factors: Float32[Array, "R X"]
    """That experts' outputs are multiplied by; zero for those not chosen."""
    places: Int[Array, "R C"]
    """The experts that are chosen for each row."""


def routing(config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"]) -> Routing:
    """The router, in float32; of experts with equal logits those with the lowest number are chosen."""
    x = norm(config, w, "router_norm", x) if config.own_norms else x
    logits = contract("rd,dx->rx", x, w["router"], out=jnp.float32)
    logits = logits * config.d_model**-0.5 if config.own_norms else logits
    bias = w["router_bias"].astype(jnp.float32) if "router_bias" in w else None
    if config.router == "mixer":
        return _mixer(config.mixer_noise, logits)
    if config.router in CORRECTED:
        scores = jax.nn.softmax(logits, axis=-1) if config.router == "corrected" else jax.nn.sigmoid(logits)
        # Of Llama 4 the logits choose: sigmoids of large ones are all 1.
        decisive = logits if config.scaled_inputs else scores
        places, chosen = _best(config, decisive if bias is None else decisive + bias)
        scores = jnp.where(chosen, scores, 0.0)
        if config.router != "sigmoids":
            scores = scores / jnp.sum(scores, axis=-1, keepdims=True)
        return Routing(_times(config.router_scale, scores), places)
    logits = logits if bias is None else logits + bias
    places, chosen = _best(config, logits)
    if config.router == "chosen":
        factors = jax.nn.softmax(jnp.where(chosen, logits, -jnp.inf), axis=-1)
    else:
        factors = jnp.where(chosen, jax.nn.softmax(logits, axis=-1), 0.0)
    factors = factors * w["router_factors"].astype(jnp.float32) if config.own_norms else factors
    return Routing(_times(config.router_scale, factors), places)


def _times(scale: float, factors: Float32[Array, "R X"]) -> Float32[Array, "R X"]:
    return factors if scale == 1 else scale * factors


def _best(config: ModelConfig, values: Float32[Array, "R X"]) -> tuple[Int[Array, "R C"], Bool[Array, "R X"]]:
    if config.router_groups:
        values = _limited(config.router_groups, values)
    places = jax.lax.top_k(values, config.n_chosen)[1]
    return places, jnp.any(places[:, :, None] == jnp.arange(values.shape[1]), axis=1)


def _limited(router_groups: tuple[int, ...], values: Float32[Array, "R X"]) -> Float32[Array, "R X"]:
    """Values of the experts in the groups that are kept: those with the largest sums of their best values."""
    n_groups, n_kept, n_best = router_groups
    groups = values.reshape(values.shape[0], n_groups, -1)
    best = jax.lax.top_k(jnp.sum(jax.lax.top_k(groups, n_best)[0], axis=-1), n_kept)[1]
    is_kept = jnp.any(best[:, :, None] == jnp.arange(n_groups), axis=1)
    return jnp.where(jnp.repeat(is_kept, groups.shape[2], axis=1), values, -jnp.inf)


def _mixer(noise: float, logits: Float32[Array, "R X"]) -> Routing:
    """SparseMixer (arXiv 2409.12136) outside training: the best expert, and the best of the others.

    Each one's factor is its share of a softmax over those whose logits are near its own.
    """
    left, factors, places = logits, jnp.zeros_like(logits), []
    for _ in range(2):
        best = jnp.max(left, axis=-1, keepdims=True)
        place = jnp.argmax(left, axis=-1)
        far = (best - logits) / jnp.maximum(jnp.abs(logits), best) > 2 * noise
        chosen = place[:, None] == jnp.arange(logits.shape[1])
        share = jax.nn.softmax(jnp.where(far, -jnp.inf, left), axis=-1)
        factors, left = factors + jnp.where(chosen, share, 0.0), jnp.where(chosen, -jnp.inf, left)
        places.append(place)
    return Routing(factors, jnp.stack(places, axis=-1))


class _Blocks(NamedTuple):
    """How rows are dealt to blocks, of which each belongs to one expert."""

    until: Int[Array, "X R"]
    """Rows of each expert, up to each row."""
    ends: Int[Array, "X"]
    """Blocks of the experts up to each."""
    first: Int[Array, "X"]
    """Blocks before those of each expert."""

    def rows(self, index: Array, size: int) -> tuple[Int[Array, ""], Int[Array, "N"]]:
        """The expert of a block, and its rows; R where there are no more."""
        expert = jnp.minimum(jnp.sum(self.ends <= index), len(self.ends) - 1)
        nth = (index - self.first[expert]) * size + jnp.arange(size)
        method = form(None, cpu="scan", gpu="scan", tpu="compare_all")
        return expert, jnp.searchsorted(self.until[expert], nth + 1, method=method)


def block_sizes(config: ModelConfig, n_rows: int) -> tuple[int, int]:
    """Rows in a block, and how many blocks there are at most."""
    n_pairs = n_rows * config.n_chosen
    mean = -(-n_pairs // config.n_experts)
    size = min(n_rows, max(_BLOCK[0], min(_BLOCK[1], 1 << (mean - 1).bit_length())))
    n_busy = min(config.n_experts, n_pairs)
    return size, (n_pairs - n_busy) // size + n_busy


def held_bytes(config: ModelConfig, n_rows: int, itemsize: int, n_products: int = 3) -> int:
    """Bytes that ``chosen_experts`` holds of rows at once, and of a layer's weights, which its loop has beside it.

    ``n_products`` is how often the numbers inside an expert are held. Compilers copy one of the matrices once more.
    """
    size, n_most = block_sizes(config, n_rows)
    weights = (4 if config.gated_mlp else 3) * config.n_experts * config.d_model * config.d_mlp
    inside = n_products * size * (config.d_mlp + config.d_model) + n_products * n_rows * config.d_shared
    return itemsize * (weights + 2 * n_most * size * config.d_model + inside) + 16 * n_rows * config.n_experts


def chosen_experts(
    config: ModelConfig,
    w: Mapping[str, Array],
    x: Float[Array, "R D"],
    live: Bool[Array, "R"] | None = None,
    *,
    relevance: bool = False,
) -> Float[Array, "R D"]:
    """The sum of the chosen experts' outputs, each with its factor.

    Args:
      config: of the model.
      w: the layer's weights.
      x: rows, under the norm before the MLP; where experts have ``own_norms``, under none.
      live: rows that are wanted, others may get anything; then it is not reverse-differentiable. All by default.
      relevance: whether gradients take the router's factors for constants.
    """
    route = routing(config, w, x)
    if relevance:
        route = route._replace(factors=jax.lax.stop_gradient(route.factors))
    x = norm(config, w, "experts_norm", x, frozen=relevance) if config.own_norms else x
    size, n_most = block_sizes(config, x.shape[0])
    blocks = _dealt(route.places, config.n_experts, live, size)
    stacks = {name: w[name] for name in _WEIGHTS if name in w}

    def block(index: Array) -> Array:
        expert, rows = blocks.rows(index, size)
        own = x.at[rows].get(mode="fill", fill_value=0)
        if config.scaled_inputs:
            factor = route.factors[:, expert].at[rows].get(mode="fill", fill_value=0)
            own = (own * factor[:, None]).astype(x.dtype)
        return feed_forward(config, entry(stacks, expert), own, relevance=relevance)

    over = _over_all if live is None else _over_used
    outputs = over(block, blocks.ends[-1], jnp.zeros((n_most, size, x.shape[1]), x.dtype))
    if config.scaled_inputs:
        route = route._replace(factors=jnp.ones_like(route.factors))
    out = _collected(route, blocks, outputs)
    return norm(config, w, "experts_post_norm", out, frozen=relevance) if config.own_norms else out


def _dealt(places: Int[Array, "R C"], n_experts: int, live: Array | None, size: int) -> _Blocks:
    chosen = jnp.any(places[:, :, None] == jnp.arange(n_experts), axis=1)
    chosen = chosen if live is None else chosen & live[:, None]
    until = jax.vmap(cumulative)(chosen.T.astype(jnp.int32))
    counts = -(-until[:, -1] // size)
    ends = cumulative(counts)
    return _Blocks(until, ends, ends - counts)


_Block = Callable[[Array], Array]


def _over_all(block: _Block, n_used: Array, blank: Float[Array, "N M D"]) -> Float[Array, "N M D"]:
    """Every block; those that are not used are skipped. For gradients each is computed again, not kept."""

    @jax.checkpoint  # around the choice: a branch would keep all weights for each block
    def used_block(index: Array) -> Array:
        return jax.lax.cond(index < n_used, block, lambda _: jnp.zeros(blank.shape[1:], blank.dtype), index)

    return jax.lax.map(used_block, jnp.arange(blank.shape[0]))


def _over_used(block: _Block, n_used: Array, blank: Float[Array, "N M D"]) -> Float[Array, "N M D"]:
    """The blocks that are used, as many turns of a loop."""
    return jax.lax.fori_loop(0, n_used, lambda index, out: out.at[index].set(block(index)), blank)


def _collected(route: Routing, blocks: _Blocks, outputs: Float[Array, "N M D"]) -> Float[Array, "R D"]:
    """Each row's results, summed in float32 in the order of its experts."""
    size, flat = outputs.shape[1], outputs.reshape(-1, outputs.shape[2])
    rows = jnp.arange(route.places.shape[0])
    out = jnp.zeros((len(rows), outputs.shape[2]), jnp.float32)
    for place in jnp.unstack(route.places, axis=1):
        at = blocks.first[place] * size + blocks.until[place, rows] - 1
        out = out + flat.at[at].get(mode="clip") * jnp.take_along_axis(route.factors, place[:, None], axis=1)
    return out.astype(outputs.dtype)


def shared_expert(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Float[Array, "R D"]:
    """The MLP that every row goes through; its gate is a factor like the router's."""
    own = {name: w[f"shared_{name}"] for name in ("gate", "up", "down") if f"shared_{name}" in w}
    out = feed_forward(config, own, x, relevance=relevance)
    out = norm(config, w, "shared_post_norm", out, frozen=relevance) if config.own_norms else out
    if not config.shared_gate:
        return out
    factor = jax.nn.sigmoid(contract("rd,d->r", x, w["shared_scale"], out=jnp.float32))
    factor = jax.lax.stop_gradient(factor) if relevance else factor
    return (out * factor[:, None]).astype(out.dtype)
