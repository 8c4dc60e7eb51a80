"""Learned edge scores: what a few passes say of an edge, weighted by what other texts taught (section 8).

The score of an edge is the exponent of a logit: coefficients by kind of edge on logarithms of its share and of its
gradients, plus biases by layer, head and place. Only coefficients are learned; features take no step of training.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Array, Float, Float32, Int

from jstrace.files import check_regular, write_bytes
from jstrace.method.conditions import NAMES
from jstrace.method.scores.budgets import soft_mask, total
from jstrace.method.scores.gradients import Pass, first_order, log_shares
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import marked
from jstrace.method.search.ranking import log_ranks
from jstrace.models import EDGE_KINDS, AnyArray, EdgeTree, InputError, Model, ModelConfig
from jstrace.models.fingerprints import fingerprint
from jstrace.models.platforms import usual_promotion

FEATURES = ("activations", "gradient", "rounds")
"""What a scorer reads of an edge: its share, also its gradient at the full mask, also those at a few cuts."""

CUTS = Rounds(cuts=14, last_temperature=0.5, floor=0.0, nested=True)
"""The rounds of ``features="rounds"``: fewer and softer than ``Rounds``, which hold better under other replacements."""

KEPT = (1, 4, 7, 10, 12)
"""The cuts whose gradients it reads."""

_LONGEST_NAME = 80
_FORMAT, _VERSION = "jstrace-scorer", "1"
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
        found = hashlib.sha256()
        for name, array in self.arrays().items():
            found.update(f"{name}{array.shape}".encode() + np.asarray(array, "<f4").tobytes())
        return found.hexdigest()[:16]

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


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A learned edge score; ``jstrace.train_scorer`` makes one, and ``jstrace.trace(score=)`` takes it."""

    coefficients: Coefficients
    features: str = "rounds"
    """One of ``FEATURES``."""
    model_fingerprints: tuple[str, ...] = ()
    """Of the model that it was fitted to, in every dtype; none where it may serve any."""
    name: str = "scorer"
    """What tables call it."""

    def __post_init__(self) -> None:
        """Refuse what does not hold together.

        Raises:
          InputError: with the first fault.
        """
        if not isinstance(self.coefficients, Coefficients) or self.features not in FEATURES:
            raise InputError(f"scorer of features {self.features!r:.60}, expected one of {', '.join(FEATURES)}")
        if not isinstance(self.name, str) or not re.fullmatch(NAMES, self.name) or len(self.name) > _LONGEST_NAME:
            raise InputError(f"scorer called {self.name!r:.60}: a name is of letters, digits and any of _*+-")
        fault = _fault(self.coefficients.arrays(), self.features)
        if fault:
            raise InputError(f"scorer: {fault}")

    @usual_promotion()
    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        found, _ = features_of(one, self.features)
        return jax.tree.map(lambda x: jnp.exp(jnp.clip(x, -80, 80)), logits(self.coefficients, found, one))

    @property
    def shared(self) -> bool:
        """Whether no coefficient is a layer's or a head's own, so that it may serve any model."""
        return self.coefficients.head.shape == (1, 1)

    def check_fits(self, model: Model) -> None:
        """Refuse another model than the one that it was fitted to.

        Raises:
          InputError: with both.
        """
        shape, own = self.coefficients.head.shape, (model.config.n_layers, model.config.n_heads)
        if not self.shared and shape != own:
            raise InputError(f"the scorer is of layers and heads {shape}, the model of {own}: another model's")
        marks = set(self.model_fingerprints)
        if not marks or model.fingerprint() in marks:
            return
        # Fitted in half precision, it knows the full one of its weights alone as they were rounded.
        if not marks & {fingerprint(model.decoder, jnp.dtype(name)) for name in ("bfloat16", "float16")}:
            raise InputError(
                f"the scorer was fitted to model {self.model_fingerprints[0]:.20}, this is {model.fingerprint()};"
                " fit one to it with jstrace train-scorer"
            )

    def save(self, path: str | Path) -> None:
        """Write a ``.safetensors`` file, all or nothing.

        Raises:
          InputError: the path cannot be written.
        """
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in self.coefficients.arrays().items()}
        header = {
            "format": _FORMAT, "version": _VERSION, "features": self.features, "name": self.name,
            "model_fingerprints": ",".join(self.model_fingerprints), "reads": _reads(self.features),
        }  # fmt: skip
        write_bytes(_path(path), safetensors.numpy.save(arrays, header))

    @staticmethod
    def load(path: str | Path) -> Scorer:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, not a scorer, of a newer version, or damaged.
        """
        path = _path(path)
        try:
            check_regular(path)
            with safetensors.safe_open(path, "numpy") as file:
                header = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: no readable scorer ({error})") from error
        if header.get("format") != _FORMAT:
            raise InputError(f"{path}: not a scorer of jstrace train-scorer")
        if header.get("version") != _VERSION:
            raise InputError(
                f"{path}: a scorer of version {header.get('version')!r:.20}, this jstrace reads {_VERSION}"
            )
        return _checked(path, header, arrays)


def _checked(path: Path, header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Scorer:
    """A scorer whose arrays fit together.

    Raises:
      InputError: they do not, or it reads other features than those of this version.
    """
    features = header.get("features", "")
    if set(arrays) != {field.name for field in dataclasses.fields(Coefficients)} or features not in FEATURES:
        raise InputError(f"{path}: damaged: its arrays or features are others")
    if header.get("reads", "") != _reads(features):
        raise InputError(f"{path}: the scorer reads features as another version of jstrace made them; fit it again")
    fault = _fault(arrays, features)
    if fault:
        raise InputError(f"{path}: damaged: {fault}")
    marks = tuple(mark for mark in header.get("model_fingerprints", "").split(",") if mark)
    try:
        return Scorer(Coefficients(**arrays), features, marks, header.get("name", ""))
    except InputError as error:
        raise InputError(f"{path}: damaged: {error}") from error


def _fault(given: Mapping[str, Any], features: str) -> str | None:
    """Why these cannot be coefficients, if they cannot."""
    arrays = {name: np.asarray(array) for name, array in given.items()}
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
        return "numbers that are not finite float32"
    head, buckets = arrays["head"].shape, arrays["source"].shape
    wanted = {
        "features": (4, n_features(features)), "node": (3, *head[:1], *buckets), "head": head, "first": head,
        "lag": (*head, *buckets), "source": buckets, "target": buckets,
    }  # fmt: skip
    fit = all(array.shape == wanted[name] for name, array in arrays.items())
    if len(head) != 2 or len(buckets) != 1 or not all((*head, *buckets)) or not fit:
        return "its arrays do not fit together"
    return None


def _reads(features: str) -> str:
    """What features mean in this version: coefficients are good for the same alone."""
    # What the cuts are called has no part in it; files have them under the name of all rounds.
    # Rounds were always nested, without a floor, when the first were written.
    cuts = repr(CUTS).replace(repr(CUTS.name), repr("rounds")).replace("floor=0.0, nested=True, ", "")
    return f"{cuts}, cuts {KEPT}" if features == "rounds" else features


def _path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path = {path!r:.60}, expected a path")
    return Path(path)


def features_of(one: Pass, features: str) -> tuple[tuple[EdgeTree, ...], Float32[Array, "V"]]:
    """Features of every edge, each less its mean over all edges, and the log-probabilities to keep."""
    if features == "activations":
        shares, target = log_shares(one)
        found = [shares]
    else:
        start = first_order(one)
        found, target = [start.share, start.gradient], start.target
        if features == "rounds":
            x, gradients = CUTS.walk(one, start, keep=KEPT)
            found = [log_ranks(x, one.slots()), *found, *gradients]
    slots = one.slots()
    return tuple(_centred(each, slots) for each in found), target


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


def logits(coefficients: Coefficients, features: tuple[EdgeTree, ...], one: Pass) -> EdgeTree:
    """The logit of every edge."""
    c, n_tokens = coefficients, one.tokens.shape[0]
    place = jnp.arange(n_tokens)
    from_end = _one_hot(jnp.maximum(one.length - 1 - place, 0), c.target.shape[0])
    between = _one_hot(jnp.maximum(place[:, None] - place, 0), c.target.shape[0])
    nodes = jnp.einsum("kln,tn->klt", c.node, from_end)
    attention = jnp.einsum("lhn,tsn->lhts", c.lag, between) + c.head[:, :, None, None]
    attention = attention + c.first[:, :, None, None] * (place == 0)
    attention = attention + (from_end @ c.target)[:, None] + from_end @ c.source
    bias = dict(zip(_NODES, nodes, strict=True)) | {"attn": attention}
    found = {}
    for index, kind in enumerate(EDGE_KINDS):
        weighted = sum(c.features[index, i] * getattr(each, kind) for i, each in enumerate(features))
        found[kind] = jnp.asarray(weighted) + bias[kind]
    return EdgeTree(**found)


def _one_hot(distance: Int[Array, "*X"], buckets: int) -> Float32[Array, "*X N"]:
    at = jnp.floor(jnp.log2(distance + 1.0) + 1e-4)  # powers of two are exact to a few bits
    return jax.nn.one_hot(jnp.minimum(at, buckets - 1), buckets)


def mask(
    coefficients: Coefficients,
    one: Pass,
    features: tuple[EdgeTree, ...],
    *,
    size: Float32[Array, ""],
    temperature: Float32[Array, ""],
) -> EdgeTree:
    """The soft mask of a share of all edges that the logits ask for."""
    slots = one.slots()
    found = marked(logits(coefficients, features, one), slots)
    count = jnp.floor(size * total(jax.tree.map(lambda slot: slot.astype(jnp.float32), slots)))
    return soft_mask(found, count, temperature)
