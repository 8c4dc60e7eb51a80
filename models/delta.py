"""Gated DeltaNet (arXiv 2412.06464): attention without a softmax, one signed factor for each head, target and source.

A head keeps a state S, which every token t lets decay, corrects towards its value v_t, and reads:

    S_t = a_t S_(t-1) + b_t k_t (v_t - a_t S_(t-1)^T k_t)^T,      o_t = S_t^T q_t,      a_t = exp(g_t), g_t <= 0.

So o_i is the sum of A_ij v_j, with d_ij = a_(j+1) ... a_i and

    A = P (I + N)^-1 diag(b),      P_ij = (q_i . k_j) d_ij for j <= i,      N_ij = b_i (k_i . k_j) d_ij for j < i.

A depends on queries, keys, decays and strengths of tokens j to i, and on no value. All of it is float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jstrace.models.config import ModelConfig
from jstrace.models.layers import contract, norm
from jstrace.models.relevance import in_proportion

_EPS = 1e-6
"""Under the root of a query's or key's length; no field of configs sets it."""


class Projected(NamedTuple):
    """What a layer's projections make of rows of the residual stream, each on its own."""

    q: Float[Array, "R K d"]
    k: Float[Array, "R K d"]
    v: Float[Array, "R H e"]
    gate: Float[Array, "R H e"]
    """Of the output."""
    decay: Float[Array, "R H"]
    strength: Float[Array, "R H"]


class Attended(NamedTuple):
    """What the tokens of an input make together."""

    factors: Float32[Array, "H T S"]
    """A, zero where a source is not seen."""
    values: Float[Array, "S H e"]
    """Each of a few tokens, the last of them its own."""
    gate: Float32[Array, "T H e"]
    """On the output of each head: under its norm, or within it (Mamba-2)."""


def project(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> Projected:
    """Everything that rows give on their own; with ``relevance`` the norm's scale and all but values are constants.

    Of Mamba-2, too, which has no strengths: decays stand in their place.
    """
    x = norm(config, w, "attn_norm", x, frozen=relevance) if config.pre_norm else x
    q, k, v, gate = (contract("rd,dhe->rhe", x, w[name]) for name in ("q", "k", "v", "o_gate"))
    decay = contract("rd,dh->rh", x, w["decay"])
    strength = contract("rd,dh->rh", x, w["strength"]) if "strength" in w else decay
    if relevance:
        q, k, gate, decay, strength = jax.lax.stop_gradient((q, k, gate, decay, strength))
    return Projected(q, k, v, gate, decay, strength)


def attended(
    config: ModelConfig,
    w: Mapping[str, Array],
    rows: Projected,
    visible: Bool[Array, "T S"],
    *,
    relevance: bool = False,
) -> Attended:
    """Factors, values and gates of a layer from the projections of all its tokens.

    Fewer targets than there are rows are the last tokens that are ``visible`` to each, and gates are theirs alone.
    """
    q, k = (_short(rows_of, w[f"{name}_conv"]) for name, rows_of in (("q", rows.q), ("k", rows.k)))
    v = convolved(rows.v, w["v_conv"])
    v = in_proportion(jax.nn.silu, v) if relevance else jax.nn.silu(v)
    decay = rows.decay.astype(jnp.float32) + w["decay_bias"].astype(jnp.float32)
    g = -jnp.exp(w["decay_rate"].astype(jnp.float32)) * jax.nn.softplus(decay)
    strength = config.delta_strength * jax.nn.sigmoid(rows.strength.astype(jnp.float32))
    gate = jax.nn.silu(rows.gate.astype(jnp.float32))
    if visible.shape[0] != visible.shape[1]:
        q = q[jnp.sum(visible, axis=1) - 1]
    return Attended(factors(q * config.scale, k, g, strength, visible), v.astype(rows.v.dtype), gate)


def factors(
    q: Float32[Array, "T K d"],
    k: Float32[Array, "S K d"],
    g: Float32[Array, "S H"],
    strength: Float32[Array, "S H"],
    visible: Bool[Array, "T S"],
) -> Float32[Array, "H T S"]:
    """A, of which heads share queries and keys by groups.

    Args:
      q: queries of some tokens.
      k: keys of all tokens.
      g: logarithms of what the state is multiplied by at each token, at most 0.
      strength: b, of each token.
      visible: for each query the tokens up to its own.
    """
    n_sources = visible.shape[1]
    own = visible if visible.shape[0] == n_sources else jnp.tril(jnp.ones((n_sources, n_sources), bool))
    corrections = strength.T[:, :, None] * decayed(k, k, g, own)
    read = jnp.swapaxes(decayed(q, k, g, visible), 1, 2)
    solved = jax.scipy.linalg.solve_triangular(corrections, read, trans=1, lower=True, unit_diagonal=True)
    return jnp.swapaxes(solved, 1, 2) * strength.T[:, None, :]


def decayed(
    x: Float32[Array, "T K d"], k: Float32[Array, "S K d"], g: Float32[Array, "S H"], seen: Bool[Array, "T S"]
) -> Float32[Array, "H T S"]:
    """Products of each pair that is seen, with what is left of the source at the target."""
    products = jnp.repeat(contract("tkd,skd->kts", x, k), g.shape[1] // k.shape[1], axis=0)
    # A sum for each pair: differences of sums from the first token on would lose what is small beside them.
    earlier = jnp.tril(jnp.ones((seen.shape[1], seen.shape[1]), jnp.float32), -1)
    logs = contract("hts,su->htu", jnp.where(seen, g.T[:, None, :], 0.0), earlier)
    return jnp.where(seen, products * jnp.exp(logs), 0.0)


def _short(x: Float[Array, "T K d"], weight: Float[Array, "K d W"]) -> Float32[Array, "T K d"]:
    """A query or key after the convolution, of length one."""
    x = jax.nn.silu(convolved(x, weight)).astype(x.dtype).astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + _EPS)


def convolved(x: Float[Array, "T N M"], weight: Float[Array, "N M W"]) -> Float32[Array, "T N M"]:
    """Each number's weighted sum over its last W tokens, of which those before the first are zero."""
    n_tokens, width = x.shape[0], weight.shape[-1]
    wide = jnp.pad(x.astype(jnp.float32), ((width - 1, 0), (0, 0), (0, 0)))
    return sum(
        (wide[back : back + n_tokens] * weight[..., back].astype(jnp.float32) for back in range(width)),
        start=jnp.zeros(x.shape, jnp.float32),
    )
