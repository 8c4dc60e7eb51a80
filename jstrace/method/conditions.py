"""What can be asked of an input, as types: sources of traces, conditions of masks, plans of runs; no JAX."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jstrace.errors import InputError, did_you_mean
from jstrace.method.graph.sizes import NO_EDGE

GRADIENTS = ("gradient", "integrated", "l1*gradient", "relp", "l1*relp", "rounds", "steady-rounds", "learned", "fitted")
"""Edge scores from gradients in the mask (section 8); learned: by the scorer that comes with jstrace."""

RANDOM = ("random", "random-nodes")
"""Scores that look at nothing, so that what their traces have is chance: every edge drawn alike, or nodes that are
reached drawn alike, which give their residual edge first, then the MLP's, then attention's."""

SCORE_NAMES = ("l1", "l2", "ifr", "cosine", *RANDOM, *GRADIENTS)
"""The kinds of edge scores (sections 2 and 8 of the method)."""

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

NAMES = r"[\w*+-]+"
"""What edge scores can be called."""

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


@dataclasses.dataclass(frozen=True)
class Named:
    """A score of one's own by its name alone: what the files of a run say of it."""

    name: str
    passes: bool = False
    """Whether it is known to be a score from gradients."""


def takes_passes(score: Any) -> bool:
    """Whether a score runs passes of its own under a replacement, rather than measure the edges of a clean one."""
    if isinstance(score, Named):
        return score.passes
    return score in GRADIENTS if isinstance(score, str) else hasattr(score, "edge_scores")


def takes_seed(score: Any) -> bool:
    """Whether a built-in score draws anything; what one of the caller's own does is not known."""
    return score in (*RANDOM, "fitted") if isinstance(score, str) else bool(getattr(score, "draws", False))


def name_of(score: Any) -> str:
    """What tables call an edge score."""
    return score if isinstance(score, str) else str(getattr(score, "name", type(score).__name__))


def scored_name(score: Any, replace: str) -> str:
    """What tables call an edge score and what ablated edges carried meanwhile.

    Means are not named: all scores from gradients were made under means before they followed the evaluation.
    """
    named = takes_passes(score) and replace != "mean"
    return f"{name_of(score)} under {replace}" if named else name_of(score)


_IN_FILES = {
    "jstrace.method.scores.measured": "jstrace.method.scores",
    "jstrace.method.scores.gradients": "jstrace.method.gradients",
    "jstrace.method.scores.rounds": "jstrace.method.gradients",
    "jstrace.method.scores.linear": "jstrace.method.scorer",
    "jstrace.method.scores.fitted": "jstrace.method.learning",
    "jstrace.method.scores.learned": "jstrace.method.scorer",
}
"""Where files say that the classes of these modules are, so that a run goes on whatever they are called later."""


def identity_of(score: Any) -> str:
    """What tells a score of one's own from another of its name: its class and its attributes, in words.

    Code that changes under the same words is not seen; a ``version`` among the attributes would be.
    """
    kind = type(score)
    state = ", ".join(f"{key}={value!r}" for key, value in sorted(getattr(score, "__dict__", {}).items()))
    return f"{_IN_FILES.get(kind.__module__, kind.__module__)}.{kind.__qualname__}({state})"


def checked_score(score: Any) -> Any:
    """The name of an edge score, or one of one's own (``models.Score``).

    Raises:
      InputError: a name that is not known, with those there are; or what cannot score edges, or be hashed.
    """
    known = ", ".join(SCORE_NAMES)
    if isinstance(score, str):
        if score not in SCORE_NAMES:
            raise InputError(f"score {score!r} is not known; expected one of {known}{did_you_mean(score, SCORE_NAMES)}")
        return score
    methods = all(callable(getattr(score, name, None)) for name in ("vector", "attention"))
    methods = methods or callable(getattr(score, "edge_scores", None))
    if not methods or isinstance(score, type):
        raise InputError(
            f"score is {score!r:.80}; expected one of {known}, or an object with vector and attention"
            " (jstrace.Score) or with edge_scores (jstrace.GradientScore); for scores that are there already, use"
            " jstrace.Trace.from_scores"
        )
    try:
        hash(score)
    except TypeError as error:
        raise InputError(f"score {name_of(score)} cannot be hashed; make it a frozen dataclass") from error
    if type(score).__hash__ is object.__hash__ and getattr(score, "__dict__", None):
        raise InputError(
            f"score {name_of(score)} has attributes and compares by identity: a change of them would not be"
            " seen; make it a frozen dataclass"
        )
    if not re.fullmatch(NAMES, name_of(score)):
        raise InputError(f"score {name_of(score)!r:.60}: a name is of letters, digits and any of _*+-")
    if name_of(score) in SCORE_NAMES and not _is_built_in(score):
        raise InputError(f"score {name_of(score)!r} of your own needs another name: that one is taken")
    return score


def _is_built_in(score: Any) -> bool:
    """Whether its name is its class's own, and the class jstrace's."""
    kind = type(score)
    return kind.__module__.startswith("jstrace.") and getattr(kind, "name", None) == score.name


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
