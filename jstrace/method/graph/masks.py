"""Masks from strata (sections 3 and 6 of the method)."""

from __future__ import annotations

from jaxtyping import Array, UInt8

from jstrace.models import EdgeTree


def kept(strata: EdgeTree, ranges: UInt8[Array, "3 2"]) -> EdgeTree:
    """Mask of the edges whose strata lie in the ranges of their kind, as ``Condition.ranges`` gives them."""

    def within(stratum: Array, kind: int) -> Array:
        return (stratum >= ranges[kind, 0]) & (stratum < ranges[kind, 1])

    return EdgeTree(
        residual_attn=within(strata.residual_attn, 0),
        attn=within(strata.attn, 1),
        residual_mlp=within(strata.residual_mlp, 0),
        mlp=within(strata.mlp, 2),
    )
