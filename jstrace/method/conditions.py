"""What can be asked of an input, as types: sources of traces, conditions of masks, plans of runs; no JAX."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jstrace.errors import InputError, did_you_mean
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.method.naming import SCORE_NAMES, scored_name, takes_passes

REPLACEMENTS = ("zero", "mean", "resample")
"""What ablated edges carry, by name (section 8): nothing, means over reference texts, or the states of another text."""
COUNTERFACTUAL = "counterfactual"
"""What ablated edges carry, by name, where they carry the states of each input's own counterfactual."""

ORDERS = ("best-first", "score")
"""How scores become traces: by best-first search from the output, so that they stay connected, or by rank alone."""

ABLATIONS = ("all", "residual+mlp")
"""Which edges masks act on: all, or all but attention."""

NO_GRADIENTS = "score_replace is for scores from gradients; the others do not look at what ablated edges carry"

NO_TEXTS = "reference has texts for replace mean or resample; ablated edges carry none of them here"

FROZEN_KINDS = {"residual": ("residual_attn", "residual_mlp"), "attention": ("attn",), "mlp": ("mlp",)}
"""What ``frozen`` names stand for."""

_MAX_SEED = 2**31 - 1
MOST_TOKENS = 1 << 20
"""Generated after one prompt; no model has so many positions."""
_COLDEST, _WARMEST = 1e-6, 1e6
"""Temperatures: logits divided by far less overflow float32, and more tells no token from another."""


@dataclasses.dataclass(frozen=True)
class Source:
    """How strata are made; static."""

    score: Any
    """One of ``SCORE_NAMES``, or a ``models.Score`` of one's own."""
    frozen: tuple[str, ...] = ()
    order: str = "best-first"
    """One of ``ORDERS``."""
    replace: str = "zero"
    """What ablated edges carry while gradients are taken: one of ``REPLACEMENTS``, or "own"; others do not read it."""
    beside: Source | None = None
    """Whose traces say how many edges of each kind these hold, of a baseline that is drawn in their proportion."""

    @property
    def name(self) -> str:
        """What the component table calls it."""
        if self.beside is not None:
            return f"random proportional to {self.beside.name}"
        name = "random baseline" if self.frozen else scored_name(*self.scoring)
        return name if self.order == "best-first" else f"{name} by {self.order}"

    @property
    def scoring(self) -> tuple[Any, str]:
        """What its scores depend on: two sources of one scoring have the same."""
        return self.score, self.replace if takes_passes(self.score) else "zero"

    @property
    def signed(self) -> bool:
        """Whether scores may be negative; those of ``SCORE_NAMES`` are not."""
        return self.score not in SCORE_NAMES


@dataclasses.dataclass(frozen=True)
class Condition:
    """How masks are made from strata; static."""

    ablate: str = "all"
    pre_softmax: bool = False
    inverse: bool = False
    replace: str = "zero"
    """What ablated edges carry: one of ``REPLACEMENTS``, or "own"."""

    def ranges(self, n_sizes: int) -> UInt8[np.ndarray, "N 3 2"]:
        """Of residual, attention and MLP edges the first stratum and the one after the last that each row keeps.

        Row k is trace k, and the last row the full graph. Inverse rows lack trace k, and after them all stands one row
        more, the full graph. Ranges end at 255 at most, which marks slots that are no edge.
        """
        k = np.arange(1, n_sizes + 2, dtype=np.uint8)
        every = np.stack([np.zeros_like(k), np.full_like(k, NO_EDGE)], axis=-1)
        traced = np.stack([k, every[:, 1]] if self.inverse else [every[:, 0], k], axis=-1)
        rows = np.stack([every if self.inverse else traced, traced if self.ablate == "all" else every, traced], axis=1)
        return np.concatenate([rows, np.stack([every[:1]] * 3, axis=1)]) if self.inverse else rows


@dataclasses.dataclass(frozen=True)
class Case:
    """One curve of an input: where its strata come from and how masks are made of them; static."""

    source: Source
    condition: Condition

    @property
    def name(self) -> str:
        """What the tables call it, such as ``l1/all`` or ``l1/residual+mlp/inverse``."""
        suffix = "/inverse" if self.condition.inverse else "/pre-softmax" if self.condition.pre_softmax else ""
        replaced = "" if self.condition.replace == "zero" else f"/{self.condition.replace}"
        return f"{self.source.name}/{self.condition.ablate}{replaced}{suffix}"

    @property
    def has_density(self) -> bool:
        """Whether it keeps traces rather than remove them."""
        return not self.condition.inverse

    @property
    def knows_prediction(self) -> bool:
        """Whether it keeps traces of a score that is told a prediction, so that it can be told another."""
        return self.has_density and takes_passes(self.source.score)

    def under(self, ablate: str) -> Case:
        """The same with other edges ablated."""
        return dataclasses.replace(self, condition=dataclasses.replace(self.condition, ablate=ablate))


def checked_ablation(ablate: str) -> str:
    """The name, or an ``InputError`` that lists those there are."""
    return _one_of("ablate", ablate, ABLATIONS)


def checked_order(order: str) -> str:
    """The name, or an ``InputError`` that lists those there are."""
    return _one_of("order", order, ORDERS)


def checked_replace(replace: Any, what: str = "replace") -> str:
    """The name, or an ``InputError`` that lists those there are."""
    return _one_of(what, replace, REPLACEMENTS)


def _one_of(what: str, name: Any, known: Sequence[str]) -> str:
    if name not in known:
        raise InputError(f"{what} = {name!r}, expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return str(name)


def checked_frozen(frozen: Sequence[str]) -> tuple[str, ...]:
    """The component names, or an ``InputError`` that lists those there are."""
    known = list(FROZEN_KINDS)
    if not isinstance(frozen, Sequence) or isinstance(frozen, str) or any(name not in known for name in frozen):
        raise InputError(f"frozen = {frozen!r}, expected a sequence of {', '.join(FROZEN_KINDS)}")
    return tuple(frozen)


def checked_seed(seed: int) -> int:
    """The seed as an int, or an ``InputError``."""
    try:
        if isinstance(seed, bool):
            raise TypeError("True would be 1")
        seed = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed = {seed!r}, expected an integer") from error
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"seed = {seed}, expected 0 to {_MAX_SEED}")
    return seed


def checked_repeats(given: Any) -> int:
    """A number of repetitions, 0 for none.

    Raises:
      InputError: another number, or one alone, which has no deviation.
    """
    if isinstance(given, bool) or not hasattr(given, "__index__") or not (given == 0 or operator.index(given) >= 2):
        raise InputError(f"repeats = {given!r}, expected how often, at least 2, or 0 for once alone")
    return operator.index(given)


def checked_temperature(temperature: Any) -> float:
    """A temperature of draws, 0 for none.

    Raises:
      InputError: it is none, or one that float32 logits cannot be divided by.
    """
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not (temperature == 0 or _COLDEST <= temperature <= _WARMEST):
        expected = f"a number from {_COLDEST:g} to {_WARMEST:g}, or 0 for the most probable tokens"
        raise InputError(f"temperature = {temperature!r}, expected {expected}")
    return float(temperature)
