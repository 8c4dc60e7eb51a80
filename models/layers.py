"""The arithmetic of a decoder layer: norms, rotary positions, attention and MLP as pure functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32

from jstrace.models.config import ModelConfig

_HIDDEN = -jnp.inf
_LARGEST_EXPONENT = 80.0  # exp stays finite in float32


def contract(spec: str, *operands: Array, out: DTypeLike | None = None) -> Array:
    """``einsum`` at the precision of its first operand: float32 means float32, on every device.

    ``out`` is the accumulation and result dtype, by default that of the first operand.
    """
    dtype = operands[0].dtype
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    return jnp.einsum(spec, *operands, precision=precision, preferred_element_type=out or dtype)


def rms_norm(x: Float[Array, "*R D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "*R D"]:
    """RMSNorm, computed in float32 and returned in the dtype of ``x``; the zero vector stays zero."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return weight * wide.astype(x.dtype)


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Angular frequency of each rotary pair, ``[d / 2]``, in radians per token."""
    exponent = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = 1.0 / np.float32(config.rope_theta) ** exponent
    return frequencies if config.rope_divisors is None else frequencies / np.asarray(config.rope_divisors, np.float32)


def rope_tables(config: ModelConfig, n_tokens: int) -> tuple[Float32[Array, "T d"], Float32[Array, "T d"]]:
    """Cosines and sines of every position, the two halves of a head rotated together."""
    angles = jnp.arange(n_tokens, dtype=jnp.float32)[:, None] * jnp.asarray(rope_frequencies(config))
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "T *N d"], cos: Float32[Array, "T d"], sin: Float32[Array, "T d"]) -> Float[Array, "T *N d"]:
    """Apply rotary positions in the dtype of ``x``."""
    shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (x.shape[-1],)
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x * cos.reshape(shape).astype(x.dtype) + turned * sin.reshape(shape).astype(x.dtype)


def causal(n_tokens: int) -> Bool[Array, "T S"]:
    """True where the source is not after the target."""
    position = jnp.arange(n_tokens)
    return position[:, None] >= position[None, :]


def attention_logits(q: Float[Array, "T K G d"], k: Float[Array, "S K d"]) -> Float32[Array, "H T S"]:
    """Scaled query-key products in float32; keys are shared by the G heads of their group, never copied."""
    n_tokens, n_kv, n_groups, head_dim = q.shape
    logits = contract("tkgd,skd->kgts", q, k, out=jnp.float32) * head_dim**-0.5
    return logits.reshape(n_kv * n_groups, n_tokens, -1)


def attention_probs(logits: Float32[Array, "H T S"], visible: Bool[Array, "T S"]) -> Float32[Array, "H T S"]:
    """Softmax over the visible sources, in float32."""
    return jax.nn.softmax(jnp.where(visible, logits, _HIDDEN), axis=-1)


def masked_attention_probs(
    logits: Float32[Array, "H T S"], visible: Bool[Array, "T S"], mask: Array, *, pre_softmax: bool
) -> Float32[Array, "H T S"]:
    """Attention under an edge mask: ``softmax * mask`` (Eq. 3), or ``mask * exp(logit)`` normalised.

    With ``pre_softmax`` a row with nothing left is zero.
    """
    mask = jnp.where(visible, mask, jnp.zeros((), mask.dtype)).astype(jnp.float32)
    if not pre_softmax:
        return attention_probs(logits, visible) * mask
    # The largest *kept* logit, so that a row whose kept sources are all far below the rest does not underflow; what is
    # not kept may lie above it, and its gradient stays right up to the bound that keeps exp finite.
    peak = jnp.max(jnp.where(mask > 0, logits, _HIDDEN), axis=-1, keepdims=True)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    weights = mask * jnp.exp(jnp.minimum(logits - peak, _LARGEST_EXPONENT))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def mix_values(probs: Float32[Array, "H T S"], v: Float[Array, "S K d"]) -> Float[Array, "T H d"]:
    """Weighted sum of the values, per query head."""
    n_heads, n_tokens, n_sources = probs.shape
    grouped = probs.reshape(v.shape[1], -1, n_tokens, n_sources).astype(v.dtype)
    mixed = contract("kgts,skd->tkgd", grouped, v)
    return mixed.reshape(n_tokens, n_heads, v.shape[2])


def swiglu(x: Float[Array, "R D"], gate: Array, up: Array, down: Array) -> Float[Array, "R D"]:
    """The gated MLP: ``down(silu(gate x) * up x)``."""
    hidden = jax.nn.silu(contract("rd,df->rf", x, gate)) * contract("rd,df->rf", x, up)
    return contract("rf,fd->rd", hidden, down)
