"""What can be asked of an input, as types: sources of traces, conditions of masks, plans of runs; no JAX."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jstrace.errors import InputError
from jstrace.method.graph.sizes import NO_EDGE, SIZES, checked_sizes

GRADIENTS = ("gradient", "integrated", "l1*gradient", "rounds", "learned", "fitted")
"""Edge scores from gradients in the mask (section 8); learned: by the scorer that comes with jstrace."""

SCORE_NAMES = ("l1", "l2", "ifr", "cosine", "random", *GRADIENTS)
"""The kinds of edge scores (sections 2 and 8 of the method)."""

REPLACEMENTS = ("zero", "mean", "resample")
"""What ablated edges carry, by name (section 8): nothing, means over reference texts, or the states of another text."""

ORDERS = ("best-first", "score")
"""How scores become traces: by best-first search from the output, so that they stay connected, or by rank alone."""

ABLATIONS = ("all", "residual+mlp")
"""Which edges masks act on: all, or all but attention."""

BASELINES = ("random", "inverse", "pre-softmax")
"""What a run can evaluate beside the traces (section 6)."""

NO_GRADIENTS = "score_replace is for scores from gradients; the others do not look at what ablated edges carry"

NAMES = r"[\w*+-]+"
"""What edge scores can be called."""

FROZEN_KINDS = {"residual": ("residual_attn", "residual_mlp"), "attention": ("attn",), "mlp": ("mlp",)}
"""What ``frozen`` names stand for."""

_RANDOM_FROZEN = ("residual", "mlp")
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

    @property
    def name(self) -> str:
        """What the component table calls it."""
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of every input of a run.

    Baselines belong to the first score; random scores take residual and MLP edges first; masks before the softmax
    are those of attention, so they come with ``all`` alone.

    Raises:
      InputError: an unknown or repeated name, none at all, or sizes that make no sense.
    """

    scores: tuple[Any, ...] = ("l1",)
    """Names of edge scores, or ``models.Score`` of one's own: in files they go by their names."""
    ablations: tuple[str, ...] = ("all",)
    baselines: tuple[str, ...] = ()
    sizes: tuple[float, ...] = SIZES
    seed: int = 0
    replacements: tuple[str, ...] = ("zero",)
    """What ablated edges carry, in evaluations and while scores are made: names of ``REPLACEMENTS``."""
    orders: tuple[str, ...] = ("best-first",)
    """How scores become traces: names of ``ORDERS``."""
    selectivity: int = 0
    """Predictions of other inputs that scores from gradients are told, too: the control of section 8."""
    score_replace: str | None = None
    """What ablated edges carry while scores are made, if not what they carry in the evaluation."""

    def __post_init__(self) -> None:
        _check_scores(self.scores)
        _check_names("ablate", self.ablations, ABLATIONS)
        _check_names("baselines", self.baselines, BASELINES)
        _check_names("replace", self.replacements, REPLACEMENTS)
        _check_names("order", self.orders, ORDERS)
        if "pre-softmax" in self.baselines and ("all" not in self.ablations or "zero" not in self.replacements):
            raise InputError("pre-softmax masks attention and replaces nothing: ablate all, and replace by zero, too")
        for name in ("scores", "ablations", "baselines", "replacements", "orders"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # as lists equal no defaults
        self._check_score_replace()
        _check_columns([case.name for case in self.cases])
        checked_sizes(self.sizes)
        # Manifests hold Python's own numbers, an int among the sizes as it was given.
        sizes = tuple(size if isinstance(size, int | float) else float(size) for size in self.sizes)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "seed", checked_seed(self.seed))
        object.__setattr__(self, "selectivity", _checked_selectivity(self.selectivity, self.scores))

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every curve: each score in each order and each baseline, under each ablation and replacement."""
        found = []
        asked = [name for name in BASELINES if name in self.baselines]
        for ablate in self.ablations:
            for replace in self.replacements:
                found += [
                    self.case(ablate, kind, order=order, replace=replace)
                    for kind in self.scores
                    for order in self.orders
                ]
                found += [
                    self.replaced(self.baseline(name, ablate), replace)
                    for name in asked
                    if name != "pre-softmax" or (ablate, replace) == ("all", "zero")
                ]
        return tuple(found)

    @property
    def controlled(self) -> tuple[Case, ...]:
        """The curves that selectivity is measured of, in the order of ``cases``; none where it is not asked for."""
        return tuple(case for case in self.cases if case.knows_prediction) if self.selectivity else ()

    @property
    def takes_reference(self) -> bool:
        """Whether anything of it depends on reference texts."""
        return any(name != "zero" for name in (*self.replacements, *self.scored_under))

    @property
    def scored_under(self) -> tuple[str, ...]:
        """For each replacement what scores from gradients are taken under; none where there are no such scores."""
        gradients = any(takes_passes(one) for one in self.scores)
        return tuple(self.score_replace or name for name in self.replacements) if gradients else ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The different ways to make strata, in the order in which cases first ask for them."""
        return tuple(dict.fromkeys(case.source for case in self.cases))

    @property
    def built_in_names(self) -> tuple[str, ...]:
        """The scores of ``SCORE_NAMES`` that traces are made of, those of baselines among them."""
        return tuple(dict.fromkeys(one.score for one in self.sources if isinstance(one.score, str)))

    @property
    def score_names(self) -> tuple[str, ...]:
        """What tables and files call the scores."""
        return tuple(map(name_of, self.scores))

    def case(
        self, ablate: str = "all", score: Any = None, *, order: str | None = None, replace: str | None = None
    ) -> Case:
        """A curve: of a score, in an order and under a replacement, by default the first of each."""
        source = Source(score or self.scores[0], order=order or self.orders[0])
        return self.replaced(Case(source, Condition(ablate)), replace or self.replacements[0])

    def baseline(self, name: str, ablate: str = "all") -> Case:
        """The curve of one of ``BASELINES``, asked for or not."""
        traced, replace = Source(self.scores[0], order=self.orders[0]), self.replacements[0]
        return {
            "random": self.replaced(Case(Source("random", _RANDOM_FROZEN), Condition(ablate)), replace),
            "inverse": self.replaced(Case(traced, Condition(ablate, inverse=True)), replace),
            "pre-softmax": self.replaced(Case(traced, Condition(ablate, pre_softmax=True)), "zero"),
        }[name]

    def replaced(self, case: Case, replace: str) -> Case:
        """The same curve with ablated edges that carry something else, and so do they while its scores are made."""
        source, condition = case.source, dataclasses.replace(case.condition, replace=replace)
        scored = self.score_replace or replace if takes_passes(source.score) else Source.replace
        return Case(dataclasses.replace(source, replace=scored), condition)

    def label(self, source: Source) -> str:
        """What figures call traces: where panels say under which replacement these were scored, names do not."""
        told = self.score_replace is None and len(self.replacements) > 1
        return dataclasses.replace(source, replace="mean").name if told else source.name

    def _check_score_replace(self) -> None:
        """Refuse what is no name of a replacement, and any where no score would read it."""
        if self.score_replace is not None:
            checked_replace(self.score_replace, "score_replace")
            if not self.scored_under:
                raise InputError(NO_GRADIENTS)


def _check_names(what: str, given: Any, known: Sequence[str]) -> None:
    """Refuse other than a sequence of different known names; only baselines may be none."""
    if not isinstance(given, Sequence) or isinstance(given, str) or any(not isinstance(name, str) for name in given):
        raise InputError(f"{what} = {given!r}, expected a tuple of some of {', '.join(known)}")
    twice = [name for name in dict.fromkeys(given) if list(given).count(name) > 1]
    if twice:
        raise InputError(f"{what} {twice[0]!r} is there twice, expected each once; scorers have names of their own")
    unknown = [name for name in given if name not in known]
    if unknown or len(set(given)) != len(given) or (not given and what != "baselines"):
        raise InputError(f"{what} {','.join(given)!r}: expected some of {', '.join(known)}, each once")


def _check_scores(given: Any) -> None:
    """Refuse what ``_check_names`` refuses, but for scores of one's own, whose names must be new."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        _check_names("score", given, SCORE_NAMES)
    own = [checked_score(one) for one in given if not isinstance(one, str | Named)]
    taken = [name_of(one) for one in own if name_of(one) in SCORE_NAMES]
    if taken:
        raise InputError(f"score {taken[0]!r} of your own needs another name: that one is taken")
    names = [name_of(one) for one in given]
    _check_names("score", names, (*SCORE_NAMES, *(name_of(one) for one in given if not isinstance(one, str))))


def in_column(name: str) -> str:
    """A name as columns of tables have it: words and underscores."""
    return re.sub(r"\W+", "_", name)


def _check_columns(names: Sequence[str]) -> None:
    """Refuse curves that could not be told apart in the names of columns."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(in_column(name), name)
        if other != name:
            raise InputError(f"{other} and {name} would have the same columns; call the score by another name")


def _checked_selectivity(given: Any, scores: Sequence[Any]) -> int:
    """The number of foreign predictions as an int, or an ``InputError``."""
    if isinstance(given, bool) or not hasattr(given, "__index__") or operator.index(given) < 0:
        raise InputError(f"selectivity = {given!r}, expected a number of foreign predictions, 0 for none")
    # What a manifest names alone was checked when it was written.
    if given and not any(isinstance(one, Named) or takes_passes(one) for one in scores):
        raise InputError("selectivity is for scores from gradients; the others do not look at the prediction")
    return operator.index(given)


def takes_passes(score: Any) -> bool:
    """Whether a score runs passes of its own under a replacement, rather than measure the edges of a clean one."""
    if isinstance(score, Named):
        return score.passes
    return score in GRADIENTS if isinstance(score, str) else hasattr(score, "edge_scores")


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
    if isinstance(score, str):
        if score not in SCORE_NAMES:
            raise InputError(f"score {score!r} is not known; expected one of {', '.join(SCORE_NAMES)}")
        return score
    methods = all(callable(getattr(score, name, None)) for name in ("vector", "attention"))
    methods = methods or callable(getattr(score, "edge_scores", None))
    if not methods or isinstance(score, type):
        known = ", ".join(SCORE_NAMES)
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
    if ablate not in ABLATIONS:
        raise InputError(f"ablate = {ablate!r}, expected one of {', '.join(ABLATIONS)}")
    return ablate


def checked_order(order: str) -> str:
    """The name, or an ``InputError`` that lists those there are."""
    if order not in ORDERS:
        raise InputError(f"order = {order!r}, expected one of {', '.join(ORDERS)}")
    return order


def checked_replace(replace: Any, what: str = "replace") -> str:
    """The name, or an ``InputError`` that lists those there are."""
    if replace not in REPLACEMENTS:
        raise InputError(f"{what} = {replace!r}, expected one of {', '.join(REPLACEMENTS)}")
    return str(replace)


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
