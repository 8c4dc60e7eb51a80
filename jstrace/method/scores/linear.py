"""Edge scores linear in features: what a few passes say of an edge, weighted by coefficients (section 8).

The logit of an edge: coefficients by kind of edge on logarithms of its share and its gradients, plus biases by layer,
head and place. Only coefficients are learned; features take no step of training.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jstrace.method.scores.budgets import soft_mask, total
from jstrace.method.scores.gradients import Pass, first_order, log_shares
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import log_ranks, marked
from jstrace.models import EDGE_KINDS, AnyArray, EdgeTree, ModelConfig

FEATURES = ("activations", "gradient", "rounds")
"""What a scorer reads of an edge: its share, also its gradient at the full mask, also those at a few cuts."""

CUTS = Rounds(cuts=14, last_temperature=0.5)
"""The rounds of ``features="rounds"``: fewer and softer than ``Rounds``, which hold better under other replacements."""

KEPT = (1, 4, 7, 10, 12)
"""The cuts whose gradients it reads."""

_NODES = tuple(kind for kind in EDGE_KINDS if kind != "attn")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Coefficients:
    """What a scorer has learned. Where layers or heads share a number, their axes are of length one.

    N are bucketed distances: 0, 1 to 2, 3 to 6 and so on in powers of two; what is farther shares the last.
    """

    features: Float[AnyArray, "4 F"]
    """By kind of edge, in the order of ``EDGE_KINDS``."""
    node: Float[AnyArray, "3 L N"]
    """Residual and MLP edges by layer and distance of the token from the end."""
    head: Float[AnyArray, "L H"]
    lag: Float[AnyArray, "L H N"]
    """Attention edges by distance between target and source."""
    first: Float[AnyArray, "L H"]
    """Attention edges from the first token."""
    source: Float[AnyArray, "N"]
    """Attention edges by distance of the source from the end."""
    target: Float[AnyArray, "N"]
    """Attention edges by distance of the target from the end."""

    def arrays(self) -> dict[str, Any]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def digest(self) -> str:
        """Of all numbers."""
        checksum = hashlib.sha256()
        for name, array in self.arrays().items():
            checksum.update(f"{name}{array.shape}".encode() + np.asarray(array, "<f4").tobytes())
        return checksum.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Coefficients) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Coefficients({self.digest})"

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(int(np.size(array)) for array in self.arrays().values())


def features_of(forward: Pass, features: str) -> tuple[tuple[EdgeTree, ...], Float32[Array, "V"]]:
    """Features of every edge, each less its mean over all edges, and the log-probabilities to keep."""
    if features == "activations":
        shares, target = log_shares(forward)
        trees = [shares]
    else:
        start = first_order(forward)
        trees, target = [start.share, start.gradient], start.target
        if features == "rounds":
            x, gradients = CUTS.walk(forward, start, keep=KEPT)
            trees = [log_ranks(x, forward.slots()), *trees, *gradients]
    slots = forward.slots()
    return tuple(_centred(each, slots) for each in trees), target


def _centred(x: EdgeTree, slots: EdgeTree) -> EdgeTree:
    """Less the mean over edges: a gradient's scale is its input's own and says nothing. Zero elsewhere."""
    inside = jax.tree.map(lambda value, slot: jnp.where(slot, value, 0), x, slots)
    mean = total(inside) / total(jax.tree.map(lambda slot: slot.astype(jnp.float32), slots))
    return jax.tree.map(lambda value, slot: jnp.where(slot, value - mean, 0), inside, slots)


def n_features(features: str) -> int:
    """How many numbers an edge has."""
    return {"activations": 1, "gradient": 2, "rounds": 3 + len(KEPT)}[features]


def initial(config: ModelConfig, features: str, n_tokens: int, *, shared: bool = False) -> Coefficients:
    """Where fitting starts: what is known to work without it, and no biases."""
    start = np.asarray([1.0, 0.5], np.float32)[: n_features(features)]
    if features == "rounds":
        start = np.asarray([1.0] + [0.0] * (n_features(features) - 1), np.float32)
    layers, heads = (1, 1) if shared else (config.n_layers, config.n_heads)
    buckets = bucket(n_tokens - 1) + 1

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    return Coefficients(
        features=np.tile(start, (4, 1)),
        node=zeros(3, layers, buckets),
        head=zeros(layers, heads),
        lag=zeros(layers, heads, buckets),
        first=zeros(layers, heads),
        source=zeros(buckets),
        target=zeros(buckets),
    )


def bucket(distance: int) -> int:
    """0, 1 to 2, 3 to 6 and so on."""
    return (distance + 1).bit_length() - 1


def logits(coefficients: Coefficients, features: tuple[EdgeTree, ...], forward: Pass) -> EdgeTree:
    """The logit of every edge."""
    c, n_tokens = coefficients, forward.tokens.shape[0]
    place = jnp.arange(n_tokens)
    from_end = _one_hot(jnp.maximum(forward.length - 1 - place, 0), c.target.shape[0])
    between = _one_hot(jnp.maximum(place[:, None] - place, 0), c.target.shape[0])
    nodes = jnp.einsum("kln,tn->klt", c.node, from_end)
    attention = jnp.einsum("lhn,tsn->lhts", c.lag, between) + c.head[:, :, None, None]
    attention = attention + c.first[:, :, None, None] * (place == 0)
    attention = attention + (from_end @ c.target)[:, None] + from_end @ c.source
    bias = dict(zip(_NODES, nodes, strict=True)) | {"attn": attention}
    leaves = {}
    for index, kind in enumerate(EDGE_KINDS):
        weighted = sum(c.features[index, i] * getattr(each, kind) for i, each in enumerate(features))
        leaves[kind] = jnp.asarray(weighted) + bias[kind]
    return EdgeTree(**leaves)


def _one_hot(distance: Int[Array, "*X"], buckets: int) -> Float32[Array, "*X N"]:
    at = jnp.floor(jnp.log2(distance + 1.0) + 1e-4)  # powers of two are exact to a few bits
    return jax.nn.one_hot(jnp.minimum(at, buckets - 1), buckets)


def mask(
    coefficients: Coefficients,
    forward: Pass,
    features: tuple[EdgeTree, ...],
    *,
    size: Float32[Array, ""],
    temperature: Float32[Array, ""],
) -> EdgeTree:
    """The soft mask of a share of all edges that the logits ask for."""
    slots = forward.slots()
    edge_logits = marked(logits(coefficients, features, forward), slots)
    count = jnp.floor(size * total(jax.tree.map(lambda slot: slot.astype(jnp.float32), slots)))
    return soft_mask(edge_logits, count, temperature)
