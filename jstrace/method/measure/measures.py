"""How close a trace's prediction is to the full graph's (section 5 of the method)."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from jstrace.method.graph.sizes import NUCLEUS_LEVELS
from jstrace.method.search.ordering import descending
from jstrace.models import AnyArray
from jstrace.models.edges import ByValue


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Measures(ByValue):
    """Per masked forward; entropies and surprisals in nats."""

    tv: Float32[AnyArray, "*Z"]
    """Total variation distance from the reference, in [0, 1]."""
    kl: Float32[AnyArray, "*Z"]
    """KL(reference || prediction)."""
    nucleus: Bool[AnyArray, "*Z 12"]
    """Whether the nucleus is the same ordered list."""
    nucleus_unordered: Bool[AnyArray, "*Z 12"]
    """Whether the nucleus is the same set."""
    top_token: Int[AnyArray, "*Z"]
    entropy: Float32[AnyArray, "*Z"]
    surprisal: Float32[AnyArray, "*Z"]
    """-log p of the next token."""
    rank: Int[AnyArray, "*Z"]
    """1 + the number of tokens more probable than the next token."""
    agreement: Bool[AnyArray, "*Z"] | None = None
    """Of several outputs: whether the top token is the reference's at each."""


def measure_outputs(
    logits: Float32[Array, "Z A V"],
    reference: Float32[Array, "A V"],
    answer: Int[Array, "A"],
    *,
    platform: str | None = None,
) -> Measures:
    """Compare predictions at several outputs with the reference, each as ``measure`` (section 9).

    TV, KL and entropy are means over outputs, the surprisal is the whole answer's, the rank its worst token's; a
    nucleus is recovered where it is at every output; the top token is the first output's.
    """
    each = jax.vmap(functools.partial(measure, platform=platform), in_axes=(1, 0, 0), out_axes=1)
    measures = each(logits, reference, answer)
    return Measures(
        **{name: jnp.mean(getattr(measures, name), axis=1) for name in ("tv", "kl", "entropy")},
        **{name: jnp.all(getattr(measures, name), axis=1) for name in ("nucleus", "nucleus_unordered")},
        top_token=measures.top_token[:, 0],
        surprisal=jnp.sum(measures.surprisal, axis=1),
        rank=jnp.max(measures.rank, axis=1),
        agreement=jnp.all(measures.top_token == jnp.argmax(reference, axis=-1), axis=1),
    )


def measure(
    logits: Float32[Array, "Z V"],
    reference: Float32[Array, "V"],
    next_token: Int[Array, ""] | int,
    *,
    platform: str | None = None,
) -> Measures:
    """Compare predictions with the reference, all as softmax of float32 logits; ``platform`` as in ``models.form``."""
    log_p, log_r = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
    p, r = jnp.exp(log_p), jnp.exp(log_r)
    ordered, unordered = nucleus_recovery(p, r, platform=platform)
    finite = jnp.where(r > 0, r * (log_r - log_p), 0.0)
    chosen = log_p[:, next_token]
    return Measures(
        tv=jnp.clip(0.5 * jnp.sum(jnp.abs(p - r), axis=-1), 0.0, 1.0),
        kl=jnp.maximum(jnp.sum(finite, axis=-1), 0.0),
        nucleus=ordered,
        nucleus_unordered=unordered,
        top_token=jnp.argmax(p, axis=-1).astype(jnp.int32),
        entropy=-jnp.sum(jnp.where(p > 0, p * log_p, 0.0), axis=-1),
        surprisal=-chosen,
        rank=1 + jnp.sum(log_p > chosen[:, None], axis=-1, dtype=jnp.int32),
    )


def nucleus_recovery(
    p: Float32[Array, "Z V"], reference: Float32[Array, "V"], *, platform: str | None = None
) -> tuple[Bool[Array, "Z Q"], Bool[Array, "Z Q"]]:
    """Whether each nucleus of ``p`` is that of ``reference``: as an ordered list, and as a set.

    Equal probabilities keep the order that they have in ``reference``, and by token id there. So one sort, that of the
    reference, serves all sizes: a prefix of n tokens is the same list where no token of it is below a later one.
    """
    order = descending(reference, platform)
    levels = jnp.asarray(NUCLEUS_LEVELS, jnp.float32)
    own = jnp.cumsum(reference[order])
    size = jnp.minimum(jnp.searchsorted(own, levels) + 1, order.size)
    ranked = p[:, order]
    mass = jnp.cumsum(ranked, axis=-1)
    later = jnp.pad(jax.lax.cummax(ranked, axis=1, reverse=True)[:, 1:], ((0, 0), (0, 1)))
    in_order = jnp.argmin(jnp.pad(ranked >= later, ((0, 0), (0, 1))), axis=-1)
    at = size - 1
    reached = mass[:, at]
    before = jnp.where(at > 0, mass[:, jnp.maximum(at - 1, 0)], 0.0)
    ordered = (size <= in_order[:, None]) & (reached >= levels) & (before < levels)
    least = jax.lax.cummin(ranked, axis=1)[:, at]
    unordered = (least >= later[:, at]) & (reached >= levels) & (reached - least < levels)
    return ordered, ordered | unordered


def density(sizes: tuple[float, ...], tv: np.ndarray) -> float:
    """Area under TV over log10 of the size, trapezoidal, up to the full graph (section 5): 0 to 5 on default sizes.

    Args:
      sizes: the Z sizes.
      tv: ``[Z + 1]``, the last that of the full graph.
    """
    points = np.log10(np.asarray([*sizes, 1.0], np.float64))
    return float(np.trapezoid(np.asarray(tv, np.float64), points))
