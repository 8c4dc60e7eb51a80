"""The arithmetic of a decoder layer: norms, rotary positions, attention and MLP as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from jstrace.models import platforms
from jstrace.models.config import ModelConfig
from jstrace.models.relevance import in_proportion

_HIDDEN = -jnp.inf
_LARGEST_EXPONENT = 80.0  # exp stays finite in float32
_LATENT_EPS = 1e-6  # of norms inside latent attention, whatever that of others is


def contract(spec: str, *operands: Array, out: DTypeLike | None = None) -> Array:
    """``einsum`` at the precision of its first operand: float32 means float32, on every device.

    ``out`` is the dtype of the result, by default that of the first operand; sums are no narrower.
    """
    dtype = operands[0].dtype
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    result = jnp.dtype(out or dtype)
    # XLA's CPU backend has products of bfloat16 into float32; those into bfloat16 it computes in float32 throughout.
    summed = platforms.form(None, cpu=jnp.promote_types(result, jnp.float32), gpu=result, tpu=result)
    return jnp.einsum(spec, *operands, precision=precision, preferred_element_type=summed).astype(result)


def rms(x: Float[Array, "*R N"], eps: float, *, axes: int = 1, frozen: bool = False) -> Float32[Array, "*R N"]:
    """Divided by the root mean square over the last ``axes`` axes, in float32; the zero vector stays zero.

    ``frozen`` makes that root a constant in gradients.
    """
    scale = inverse_rms(x, eps, axes=axes)
    return x.astype(jnp.float32) * (jax.lax.stop_gradient(scale) if frozen else scale)


def inverse_rms(x: Float[Array, "*R"], eps: float, *, axes: int = 1) -> Float32[Array, "*S"]:
    """One over the root mean square over the last ``axes`` axes, which stay with length 1."""
    mean = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=tuple(range(-axes, 0)), keepdims=True)
    return jax.lax.rsqrt(mean + eps)


def gain(config: ModelConfig, weight: Float[Array, "*N"]) -> Float32[Array, "*N"]:
    """The factor that a norm's weight stands for: 1 + w in Gemma, w elsewhere."""
    return weight.astype(jnp.float32) + config.norm_offset


def norm(
    config: ModelConfig, w: Mapping[str, Array], name: str, x: Float[Array, "*R D"], *, frozen: bool = False
) -> Float[Array, "*R D"]:
    """The norm called ``name``, RMSNorm or LayerNorm, computed in float32 and returned in the dtype of ``x``."""
    if config.norm == "none":
        return x
    wide = x.astype(jnp.float32)
    if config.norm == "layer":
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
    out = rms(wide, config.norm_eps, frozen=frozen) * gain(config, w[name])
    if config.norm == "layer":
        out = out + w[f"{name}_shift"].astype(jnp.float32)
    return out.astype(x.dtype)


def _normed_heads(config: ModelConfig, weight: Array, x: Float[Array, "R *N d"]) -> Float[Array, "R *N d"]:
    """RMSNorm of queries or keys: of each head, or of all heads together."""
    axes = 2 if config.qk_norm == "full" else 1
    return (rms(x, config.norm_eps, axes=axes) * gain(config, weight)).astype(x.dtype)


def project_qkv(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, relevance: bool = False
) -> tuple[Float[Array, "R K G d"], Float[Array, "R K d"], Float[Array, "R K e"]]:
    """Queries (by key/value head and group), keys and values of rows of the residual stream; no positions yet.

    With ``relevance`` gradients take the norm's scale, queries and keys for constants, and so attention probabilities.
    """
    x = norm(config, w, "attn_norm", x, frozen=relevance) if config.pre_norm else x
    if config.kv_rank:
        q, k, v = _latent_qkv(config, w, x, frozen=relevance)
    else:
        q, k, v = (contract("rd,dhe->rhe", x, w[name]) for name in ("q", "k", "v"))
    if config.qkv_bias:
        q, k, v = q + w["q_bias"], k + w["k_bias"], v + w["v_bias"]
    if config.value_norm:
        v = rms(v, config.norm_eps, frozen=relevance).astype(v.dtype)
    if config.qk_norm != "none" and not config.qk_norm_last:
        q, k = _normed_heads(config, w["q_norm"], q), _normed_heads(config, w["k_norm"], k)
    if config.clip_qkv is not None:
        q, k, v = (jnp.clip(each, -config.clip_qkv, config.clip_qkv) for each in (q, k, v))
    if relevance:
        q, k = jax.lax.stop_gradient((q, k))
    return q.reshape(-1, config.n_kv_heads, config.n_groups, config.head_dim), k, v


def _latent_qkv(
    config: ModelConfig, w: Mapping[str, Array], x: Float[Array, "R D"], *, frozen: bool
) -> tuple[Float[Array, "R H d"], Float[Array, "R K d"], Float[Array, "R K e"]]:
    """Queries, keys and values through their ranks; the rotated dimensions come first, and are one for all keys."""

    def latent(name: str) -> Float[Array, "R a"]:
        down = contract("rd,da->ra", x, w[name])
        return (rms(down, _LATENT_EPS, frozen=frozen) * w[f"{name}_norm"].astype(jnp.float32)).astype(x.dtype)

    q = contract("ra,ahe->rhe", latent("q_down") if config.q_rank else x, w["q"])
    kv = latent("kv_down")
    k, v = (contract("rc,che->rhe", kv, w[name]) for name in ("k", "v"))
    turned = contract("rd,de->re", x, w["k_turned"])[:, None]
    return q, jnp.concatenate([jnp.broadcast_to(turned, (*k.shape[:2], turned.shape[2])), k], axis=-1), v


def weighted(x: Array, weight: Array) -> Array:
    """``x * weight``, and zero where the weight is zero although ``x`` is not finite.

    So what has no weight cannot spoil the rest; where ``x`` is finite the gradient in the weight is ``x``, at zero too.
    """
    return jnp.where((weight != 0) | jnp.isfinite(x), x, 0) * weight


class Sight(NamedTuple):
    """What a layer knows of positions: rotary tables and which sources each target sees.

    On a leading axis of kinds of layers: plain, with a window, not rotated (see ``ModelConfig.kinds``).
    """

    cos: Float32[Array, "*N T r"]
    sin: Float32[Array, "*N T r"]
    visible: Bool[Array, "*N T S"]


def rope_frequencies(
    config: ModelConfig, *, local: bool = False, divisors: tuple[float, ...] | None = None
) -> np.ndarray:
    """Angular frequency of each rotary pair, ``[n_rotary / 2]``, in radians per token.

    ``local`` asks for those of windowed layers; ``divisors`` take the place of the config's.
    """
    exponent = np.arange(0, config.n_rotary, 2, dtype=np.float32) / np.float32(max(config.n_rotary, 1))
    if local and config.local_rope_theta is not None:
        return 1.0 / np.float32(config.local_rope_theta) ** exponent
    frequencies = 1.0 / np.float32(config.rope_theta) ** exponent
    divisors = config.rope_divisors if divisors is None else divisors
    return frequencies if divisors is None else frequencies / np.asarray(divisors, np.float32)


def sights(config: ModelConfig, n_tokens: int, length: Int[Array, ""] | int | None) -> Sight:
    """The tables of every kind of layer, on a leading axis; ``length`` true tokens decide between longrope's two."""
    kinds = [_sight(config, n_tokens, n_tokens if length is None else length, local=False)]
    if config.window is not None:
        kinds.append(_sight(config, n_tokens, n_tokens if length is None else length, local=True))
    if config.unrotated_layers:
        kinds.append(kinds[0]._replace(cos=jnp.ones_like(kinds[0].cos), sin=jnp.zeros_like(kinds[0].sin)))
    return jax.tree.map(lambda *each: jnp.stack(each), *kinds)


def of_kind(sights: Sight, kind: Int[Array, ""]) -> Sight:
    """The tables of one kind of layer."""
    return jax.tree.map(lambda table: table[kind], sights)


def _sight(config: ModelConfig, n_tokens: int, length: Int[Array, ""] | int, *, local: bool) -> Sight:
    frequencies = jnp.asarray(rope_frequencies(config, local=local))
    if config.rope_long_divisors is not None and not (local and config.local_rope_theta is not None):
        slow = jnp.asarray(rope_frequencies(config, divisors=config.rope_long_divisors))
        frequencies = jnp.where(jnp.asarray(length) > config.rope_switch, slow, frequencies)
    position = jnp.arange(n_tokens)
    angles = position.astype(jnp.float32)[:, None] * frequencies
    angles = jnp.concatenate([angles, angles], axis=-1)
    visible = position[:, None] >= position[None, :]
    if local and config.window is not None:
        visible &= position[:, None] - position[None, :] < config.window
    magnitude = 1.0 if local and config.local_rope_theta is not None else config.rope_magnitude
    return Sight(magnitude * jnp.cos(angles), magnitude * jnp.sin(angles), visible)


def rotate(x: Float[Array, "T *N d"], cos: Float32[Array, "T r"], sin: Float32[Array, "T r"]) -> Float[Array, "T *N d"]:
    """Apply rotary positions to the leading dimensions of each head, its two halves together, in the dtype of ``x``."""
    rotated = cos.shape[-1]
    if rotated == 0:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (rotated,)
    turning, rest = x[..., :rotated], x[..., rotated:]
    first, second = jnp.split(turning, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    turning = turning * cos.reshape(shape).astype(x.dtype) + turned * sin.reshape(shape).astype(x.dtype)
    return jnp.concatenate([turning, rest], axis=-1)


def positioned(
    config: ModelConfig, w: Mapping[str, Array], name: str, x: Float[Array, "T *N d"], sight: Sight
) -> Float[Array, "T *N d"]:
    """Queries (``name`` is ``q``) or keys (``k``) turned by their positions, and normalised then if the family does."""
    turned = rotate(x, sight.cos, sight.sin)
    return _normed_heads(config, w[f"{name}_norm"], turned) if config.qk_norm_last else turned


def softcap(logits: Float32[Array, "*N"], cap: float | None, *, relevance: bool = False) -> Float32[Array, "*N"]:
    """``cap * tanh(logits / cap)``; nothing without a cap. With ``relevance`` gradients are ``in_proportion``."""
    if cap is None:
        return logits
    capped = functools.partial(_capped, cap)
    return in_proportion(capped, logits) if relevance else capped(logits)


def _capped(cap: float, logits: Array) -> Array:
    return cap * jnp.tanh(logits / cap)


def attention_logits(
    config: ModelConfig, q: Float[Array, "T K G d"], k: Float[Array, "S K d"]
) -> Float32[Array, "H T S"]:
    """Scaled query-key products in float32; keys are shared by the G heads of their group, never copied."""
    n_tokens, n_kv, n_groups, width = q.shape
    # Heads first by hand: left to einsum, XLA's CPU backend transposes both operands and the result.
    rows = jnp.transpose(q, (1, 2, 0, 3)).reshape(n_kv, n_groups * n_tokens, width)
    logits = contract("krd,ksd->krs", rows, jnp.transpose(k, (1, 0, 2)), out=jnp.float32) * config.scale
    logits = logits.reshape(config.n_heads, n_tokens, -1)
    if config.alibi_slopes is not None:  # what is the same for all sources of a target changes no softmax
        position = jnp.arange(logits.shape[2], dtype=jnp.float32)
        logits = logits + jnp.asarray(config.alibi_slopes, jnp.float32)[:, None, None] * position
    return softcap(logits, config.attn_softcap)


def attention_probs(
    logits: Float32[Array, "H T S"], visible: Bool[Array, "T S"], sink: Float[Array, "H"] | None = None
) -> Float32[Array, "H T S"]:
    """Softmax over the visible sources, in float32; ``sink`` is the logit of one more, which has no value."""
    seen = jnp.where(visible, logits, _HIDDEN)
    if sink is None:
        return jax.nn.softmax(seen, axis=-1)
    beside = jnp.broadcast_to(sink.astype(jnp.float32)[:, None, None], (*seen.shape[:-1], 1))
    return jax.nn.softmax(jnp.concatenate([seen, beside], axis=-1), axis=-1)[..., :-1]


def masked_attention_probs(
    logits: Float32[Array, "H T S"],
    visible: Bool[Array, "T S"],
    mask: Array,
    *,
    pre_softmax: bool,
    sink: Float[Array, "H"] | None = None,
) -> Float32[Array, "H T S"]:
    """Attention under an edge mask: ``softmax * mask`` (Eq. 3), or ``mask * exp(logit)`` normalised.

    With ``pre_softmax`` a row with nothing left is zero. A ``sink`` has no mask.
    """
    mask = jnp.where(visible, mask, jnp.zeros((), mask.dtype)).astype(jnp.float32)
    if not pre_softmax:
        return attention_probs(logits, visible, sink) * mask
    # The largest *kept* logit, so that a row whose kept sources are all far below the rest does not underflow; what is
    # not kept may lie above it, and its gradient stays right up to the bound that keeps exp finite.
    peak = jnp.max(jnp.where(mask > 0, logits, _HIDDEN), axis=-1, keepdims=True)
    if sink is not None:
        peak = jnp.maximum(peak, sink.astype(jnp.float32)[:, None, None])
    peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
    weights = weighted(jnp.exp(jnp.minimum(logits - peak, _LARGEST_EXPONENT)), mask)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if sink is not None:
        total = total + jnp.exp(sink.astype(jnp.float32)[:, None, None] - peak)
    return weights / jnp.where(total > 0, total, 1.0)


def mix_values(probs: Float32[Array, "H T S"], v: Float[Array, "S K e"]) -> Float[Array, "T H e"]:
    """Weighted sum of the values, per query head."""
    n_heads, n_tokens, n_sources = probs.shape
    rows = probs.reshape(v.shape[1], -1, n_sources).astype(v.dtype)
    mixed = contract("krs,ksd->krd", rows, jnp.transpose(v, (1, 0, 2)))
    return jnp.transpose(mixed.reshape(n_heads, n_tokens, v.shape[2]), (1, 0, 2))


def attention_output(
    config: ModelConfig, w: Mapping[str, Array], mixed: Float[Array, "R H e"], *, relevance: bool = False
) -> Float[Array, "R D"]:
    """What attention adds to the residual stream, without the constants of the node; ``w`` as ``turned`` gives it."""
    if config.mixer == "none":
        return jnp.zeros((mixed.shape[0], config.d_model), mixed.dtype)
    out = contract("rhe,ehd->rd", mixed, w["o"])
    return norm(config, w, "attn_post_norm", out, frozen=relevance) if config.post_norm else out


def turned(w: Mapping[str, Array]) -> dict[str, Array]:
    """Weights with W_O as ``[d, H, D]``: as XLA on CPUs multiplies by it: blocks of rows share the copy."""
    return {**w, "o": jnp.transpose(w["o"], (1, 0, 2))} if "o" in w else {**w}


def with_constants(w: Mapping[str, Array], x: Float[Array, "R D"]) -> Float[Array, "R D"]:
    """Plus what a node gets beside its edges: the bias of attention's output."""
    return x + w["o_bias"] if "o_bias" in w else x


def leaving(w: Mapping[str, Array], x: Float[Array, "*R D"]) -> Float[Array, "*R D"]:
    """A vector into the last node of a layer, times the layer's number where it has one."""
    return x * w["layer_scale"] if "layer_scale" in w else x
