"""Plans of runs: which curves are made of every input; no JAX."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Sequence
from typing import Any

from jstrace.errors import InputError, did_you_mean
from jstrace.method.conditions import (
    ABLATIONS,
    COUNTERFACTUAL,
    NO_GRADIENTS,
    ORDERS,
    REPLACEMENTS,
    Case,
    Condition,
    Source,
    checked_replace,
    checked_seed,
)
from jstrace.method.graph.sizes import SIZES, checked_sizes
from jstrace.method.naming import SCORE_NAMES, Named, checked_score, name_of, takes_passes

BASELINES = ("random", "random-proportional", "inverse", "pre-softmax", "random-inverse")
"""What a run can evaluate beside the traces (section 6)."""


_RANDOM_FROZEN = ("residual", "mlp")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of every input of a run.

    Baselines belong to the first score. Random scores take residual and MLP edges first ("random-inverse" takes their
    traces away), or as many edges of each kind as the first score's traces hold ("random-proportional"). Masks before
    the softmax are those of attention, so they come with ``all`` alone.

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
    """What ablated edges carry, in evaluations and while scores are made: names of ``REPLACEMENTS``,
    and "counterfactual", the states of each row's own."""
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
        _check_names("replace", self.replacements, (*REPLACEMENTS, COUNTERFACTUAL))
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
        cases = []
        asked = [name for name in BASELINES if name in self.baselines]
        for ablate in self.ablations:
            for replace in self.replacements:
                cases += [
                    self.case(ablate, kind, order=order, replace=replace)
                    for kind in self.scores
                    for order in self.orders
                ]
                cases += [
                    self.replaced(self.baseline(name, ablate), replace)
                    for name in asked
                    if name != "pre-softmax" or (ablate, replace) == ("all", "zero")
                ]
        return tuple(cases)

    @property
    def controlled(self) -> tuple[Case, ...]:
        """The curves that selectivity is measured of, in the order of ``cases``; none where it is not asked for."""
        return tuple(case for case in self.cases if case.knows_prediction) if self.selectivity else ()

    @property
    def takes_reference(self) -> bool:
        """Whether anything of it depends on reference texts."""
        return any(name in REPLACEMENTS[1:] for name in (*self.replacements, *self.scored_under))

    @property
    def scored_under(self) -> tuple[str, ...]:
        """For each replacement what scores from gradients are taken under; none where there are no such scores."""
        gradients = any(takes_passes(score) for score in self.scores)
        return tuple(self.score_replace or name for name in self.replacements) if gradients else ()

    @property
    def sources(self) -> tuple[Source, ...]:
        """The different ways to make strata, in the order in which cases first ask for them."""
        return tuple(dict.fromkeys(case.source for case in self.cases))

    @property
    def built_in_names(self) -> tuple[str, ...]:
        """The scores of ``SCORE_NAMES`` that traces are made of, those of baselines among them."""
        return tuple(dict.fromkeys(source.score for source in self.sources if isinstance(source.score, str)))

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
        random = Source("random", _RANDOM_FROZEN)
        return {
            "random": self.replaced(Case(random, Condition(ablate)), replace),
            "random-proportional": self.replaced(Case(Source("random", beside=traced), Condition(ablate)), replace),
            "inverse": self.replaced(Case(traced, Condition(ablate, inverse=True)), replace),
            "pre-softmax": self.replaced(Case(traced, Condition(ablate, pre_softmax=True)), "zero"),
            "random-inverse": self.replaced(Case(random, Condition(ablate, inverse=True)), replace),
        }[name]

    def replaced(self, case: Case, replace: str) -> Case:
        """The same curve with ablated edges that carry something else, and so do they while its scores are made."""
        return Case(self._scored(case.source, replace), dataclasses.replace(case.condition, replace=replace))

    def _scored(self, source: Source, replace: str) -> Source:
        """The same source in evaluations under a replacement."""
        scored = self.score_replace or replace if takes_passes(source.score) else Source.replace
        beside = None if source.beside is None else self._scored(source.beside, replace)
        return dataclasses.replace(source, replace=scored, beside=beside)

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
        near = did_you_mean(unknown[0], known) if unknown else ""
        raise InputError(f"{what} {','.join(given)!r}: expected some of {', '.join(known)}, each once{near}")


def _check_scores(given: Any) -> None:
    """Refuse what ``_check_names`` refuses, but for scores of one's own, whose names must be new."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        _check_names("score", given, SCORE_NAMES)
    own = [checked_score(score) for score in given if not isinstance(score, str | Named)]
    taken = [name_of(score) for score in own if name_of(score) in SCORE_NAMES]
    if taken:
        raise InputError(f"score {taken[0]!r} of your own needs another name: that one is taken")
    names = [name_of(score) for score in given]
    _check_names("score", names, (*SCORE_NAMES, *(name_of(score) for score in given if not isinstance(score, str))))


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
    if given and not any(isinstance(score, Named) or takes_passes(score) for score in scores):
        raise InputError("selectivity is for scores from gradients; the others do not look at the prediction")
    return operator.index(given)
