"""Learned edge scores: what a few passes say of an edge, weighted by what other texts taught (section 8).

The score of an edge is the exponent of a logit: coefficients by kind of edge on logarithms of its share and of its
gradients, plus biases by layer, head and place. Only coefficients are learned; features take no step of training.
"""

from __future__ import annotations

import dataclasses
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

from jstrace.files import check_regular, write_bytes
from jstrace.method.naming import NAMES
from jstrace.method.scores.gradients import Pass
from jstrace.method.scores.linear import CUTS, FEATURES, KEPT, Coefficients, features_of, logits, n_features
from jstrace.models import EdgeTree, InputError, Model
from jstrace.models.fingerprints import fingerprint
from jstrace.models.platforms import usual_promotion

_LONGEST_NAME = 80
_FORMAT, _VERSION = "jstrace-scorer", "1"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A learned edge score; ``jstrace.train_scorer`` makes one, and ``jstrace.trace(score=)`` takes it.

    Examples:
      >>> scorer = jstrace.train_scorer(model, texts, features="activations", steps=2)
      >>> scorer.save("own.safetensors")
      >>> jstrace.Scorer.load("own.safetensors") == scorer
      True
    """

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
    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        features, _ = features_of(forward, self.features)
        return jax.tree.map(lambda x: jnp.exp(jnp.clip(x, -80, 80)), logits(self.coefficients, features, forward))

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
    cuts = repr(CUTS).replace(repr(CUTS.name), repr("rounds"))
    return f"{cuts}, cuts {KEPT}" if features == "rounds" else features


def _path(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path = {path!r:.60}, expected a path")
    return Path(path)
