"""Mamba-2 (arXiv 2405.21060): attention without a softmax, one signed factor for each head, target and source.

A head keeps a state S, which every token t lets decay, adds its value x_t to, and reads:

    S_t = exp(g_t) S_(t-1) + s_t B_t x_t^T,      o_t = S_t^T C_t + u x_t,      g_t = -s_t exp(r).

So o_i is the sum of A_ij x_j, with A_ij = (C_i . B_j) exp(g_(j+1) + ... + g_i) s_j for j <= i, and u more where j = i.
Queries C and keys B are those of a group of heads; u, r are numbers of a head. All of it is float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32

from jstrace.models.config import ModelConfig
from jstrace.models.delta import Attended, Projected, convolved, decayed
from jstrace.models.relevance import in_proportion


def attended(
    config: ModelConfig,
    w: Mapping[str, Array],
    rows: Projected,
    visible: Bool[Array, "T S"],
    *,
    relevance: bool = False,
) -> Attended:
    """Factors, values and gates of a layer from the projections of all its tokens, as ``delta.attended``."""
    q, k = (jax.nn.silu(_mixed(w, name, each)) for name, each in (("q", rows.q), ("k", rows.k)))
    v = _mixed(w, "v", rows.v)
    v = in_proportion(jax.nn.silu, v) if relevance else jax.nn.silu(v)
    step = jax.nn.softplus(rows.decay.astype(jnp.float32) + w["decay_bias"].astype(jnp.float32))
    step = jnp.maximum(step, config.step_floor) if config.step_floor else step
    g = -jnp.exp(w["decay_rate"].astype(jnp.float32)) * step
    own = jnp.sum(visible, axis=1) - 1
    if visible.shape[0] != visible.shape[1]:
        q = q[own]
    factors = decayed(q, k, g, visible) * step.T[:, None, :]
    skipped = w["skip"].astype(jnp.float32)[:, None, None] * (own[:, None] == jnp.arange(visible.shape[1]))
    return Attended(factors + skipped, v.astype(rows.v.dtype), jax.nn.silu(rows.gate.astype(jnp.float32)))


def _mixed(w: Mapping[str, Array], name: str, x: Float[Array, "T N M"]) -> Float32[Array, "T N M"]:
    return convolved(x, w[f"{name}_conv"]) + w[f"{name}_conv_bias"].astype(jnp.float32)
