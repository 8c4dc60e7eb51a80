"""Edge scores: how much of a node each of its edges brings (section 2 of the method, Eq. 1 and 2 of the paper)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jstrace.method.naming import name_of
from jstrace.models import EdgeTree, InputError, Score
from jstrace.models.layers import contract


@dataclasses.dataclass(frozen=True)
class Norm:
    """The L1 or L2 norm of the edge: ``|A u| = A |u|``, so no array of T*T*H*D numbers is needed."""

    order: int
    shares: ClassVar[bool] = True

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Norm of residual and MLP edges."""
        del node
        return self._norm(edge)

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Norm of attention edges."""
        del node
        return probs * self._norm(values)[:, None, :]

    def _norm(self, x: Array) -> Array:
        return jnp.sum(jnp.abs(x), axis=-1) if self.order == 1 else jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))


@dataclasses.dataclass(frozen=True)
class Proximity:
    """Proximity of the edge to its node, ``relu(|x|_1 - |x - e|_1)`` (IFR); one target's edges at a time."""

    shares: ClassVar[bool] = True

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Proximity of residual and MLP edges."""
        return jax.nn.relu(_l1(node) - _l1(node - edge))

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Proximity of attention edges."""

        def target(inputs: tuple[Array, Array]) -> Array:
            weights, x = inputs
            return jax.nn.relu(_l1(x) - _l1(x - weights[..., None] * values))

        return jnp.moveaxis(jax.lax.map(target, (jnp.moveaxis(probs, 1, 0), node)), 0, 1)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """``(1 + cos(e, x)) / 2``; the cosine with a zero vector is zero."""

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> Float32[Array, "T"]:
        """Cosine score of residual and MLP edges."""
        return _cosine_score(jnp.sum(edge * node, axis=-1), _l2(edge) * _l2(node))

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> Float32[Array, "H T S"]:
        """Cosine score of attention edges; the probability scales the vector and not its direction."""
        inner = contract("hsd,td->hts", values, node)
        return _cosine_score(jnp.where(probs > 0, inner, 0.0), _l2(values)[:, None, :] * _l2(node)[:, None])


def _l1(x: Array) -> Array:
    return jnp.sum(jnp.abs(x), axis=-1)


def _l2(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=-1))


def _cosine_score(inner: Array, norms: Array) -> Array:
    cosine = jnp.where(norms > 0, inner / jnp.where(norms > 0, norms, 1.0), 0.0)
    return jnp.clip((1 + cosine) / 2, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Together:
    """Several scores of one clean pass: every value is a tuple, of one number for each."""

    several: tuple[Score, ...]

    def vector(self, edge: Float32[Array, "T D"], node: Float32[Array, "T D"]) -> tuple[Array, ...]:
        """Magnitudes of residual and MLP edges, of each measure."""
        return tuple(_checked(score, "vector", score.vector(edge, node), edge.shape[:1]) for score in self.several)

    def attention(
        self, probs: Float32[Array, "H T S"], values: Float32[Array, "H S D"], node: Float32[Array, "T D"]
    ) -> tuple[Array, ...]:
        """Magnitudes of attention edges, of each measure."""
        return tuple(
            _checked(score, "attention", score.attention(probs, values, node), probs.shape) for score in self.several
        )


def _checked(score: Score, method: str, magnitudes: Any, shape: tuple[int, ...]) -> Array:
    """What a score gave, as float32; a shape that would be broadcast, or other numbers, are refused."""
    there, kind = getattr(magnitudes, "shape", None), getattr(magnitudes, "dtype", None)
    if there != shape or kind is None or not (jnp.issubdtype(kind, jnp.floating) or jnp.issubdtype(kind, jnp.integer)):
        raise InputError(
            f"score {name_of(score)}: {method} gave {kind} of shape {there}, expected floats of shape {shape}"
        )
    return jnp.asarray(magnitudes, jnp.float32)


MEASURES: Mapping[str, Score] = {"l1": Norm(1), "l2": Norm(2), "ifr": Proximity(), "cosine": Cosine()}
"""What is measured of an edge, by name."""


def normalised(magnitudes: EdgeTree, *, parallel: bool) -> EdgeTree:
    """Each magnitude as a share of those into the same node (Eq. 1); nodes that sum to zero give zeros.

    With ``parallel`` blocks attention's and the MLP's edges enter the same node, otherwise two.
    """

    def share(value: Array, total: Array) -> Array:
        return jnp.where(total == 0, 0.0, value / jnp.where(total == 0, 1.0, total))  # NaN stays NaN

    middle = magnitudes.residual_attn + jnp.sum(magnitudes.attn, axis=(1, 3))
    end = magnitudes.residual_mlp + magnitudes.mlp
    if parallel:
        middle = end = middle + magnitudes.mlp
    return EdgeTree(
        residual_attn=share(magnitudes.residual_attn, middle),
        attn=share(magnitudes.attn, middle[:, None, :, None]),
        residual_mlp=share(magnitudes.residual_mlp, end),
        mlp=share(magnitudes.mlp, end),
    )
