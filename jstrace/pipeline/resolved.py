"""An ask resolved at the door: what its names stand for with one model, and what a call of it holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.graph import full_graph
from jstrace.method.naming import scored_name, takes_passes, traits_of
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.scoring import SCORES
from jstrace.models import Model, Replacement
from jstrace.pipeline import scorers
from jstrace.pipeline.footprint import call_bytes, replacement_bytes, wide_bytes
from jstrace.pipeline.records import Ask
from jstrace.pipeline.replacing import Replacing
from jstrace.scale import batching, memory

_DRAWN = "drawn"
"""What scores that draw the states of other texts themselves are under, rather than "resample"."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """One of ``Ask.scorings``, known to the model."""

    asked: tuple[Any, str]
    """As the ask has it."""
    score: Any
    """What its name stands for."""
    replace: str
    """What ablated edges carry meanwhile, by name."""
    number: str
    """The same in programs, which would be compiled for each name."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return scored_name(*self.asked)

    @property
    def passes(self) -> bool:
        """Whether it runs passes of its own."""
        return takes_passes(self.score)

    @property
    def fit(self) -> Fitted | None:
        """The fit whose steps it is, if it is one; others of that class may score otherwise."""
        made = SCORES["fitted"]() if self.score == "fitted" else self.score
        return made if type(made) is Fitted else None


@dataclasses.dataclass(frozen=True, eq=False)
class Resolved:
    """What all batches of a driver go through."""

    model: Model
    ask: Ask
    replacing: Replacing
    scorings: tuple[Scoring, ...]
    timed: bool
    """Whether it is to be known what scores took: each that takes passes is a program of its own then."""

    @staticmethod
    def of(model: Model, ask: Ask, replacing: Replacing, *, timed: bool) -> Resolved:
        """With what names stand for.

        Raises:
          InputError: a score of another model.
        """
        scores = [scorers.known_to(model, score) for score, _ in ask.scorings]
        names = [
            _DRAWN if _draws(score, replace, replacing) else replace
            for score, (_, replace) in zip(scores, ask.scorings, strict=True)
        ]
        fixed = ("zero", COUNTERFACTUAL)
        numbers = {name: name if name in fixed else str(index) for index, name in enumerate(dict.fromkeys(names))}
        scorings = tuple(
            Scoring(asked, score, name, numbers[name])
            for asked, score, name in zip(ask.scorings, scores, names, strict=True)
        )
        return Resolved(model, ask, replacing, scorings, timed and any(scoring.passes for scoring in scorings))

    @property
    def programs(self) -> list[tuple[Scoring, ...]]:
        """Which scorings are computed together: all but fits, each of which has programs of its own; or where they are
        timed those that measure the edges of one clean pass, and each other by itself."""
        apart = [scoring for scoring in self.scorings if scoring.fit or (self.timed and scoring.passes)]
        together = tuple(scoring for scoring in self.scorings if scoring not in apart)
        return [*([together] if together else []), *((scoring,) for scoring in apart)]

    def carried(self, width: int) -> tuple[dict[str, Replacement], dict[str, np.ndarray]]:
        """What ablated edges carry while scores are made, and tokens whose states scores draw instead, by number."""
        numbers = {scoring.replace: scoring.number for scoring in self.scorings}
        # One other text's states make a bad start: it is found under means.
        states = {
            number: self.replacing.first("mean" if name == _DRAWN else name, width) for name, number in numbers.items()
        }
        streams = {number: self.replacing.stream(width) for name, number in numbers.items() if name == _DRAWN}
        return {number: state for number, state in states.items() if state is not None}, streams

    def stacks(self, width: int) -> dict[str, Replacement]:
        """What ablated edges carry in the cases, by name; zero has none."""
        stacks = {name: self.replacing.stack(name, width) for name in self.ask.replacements}
        return {name: stack for name, stack in stacks.items() if stack is not None}

    def check(self, length: int, n_outputs: int = 1) -> None:
        """Refuse a length whose graph cannot be indexed, or that no replacement is long enough for."""
        full_graph.n_edges(self.model.config, length, n_outputs)
        full_graph.check_slots(self.model.config, length, batching.bucket)
        self.replacing.check(length, self.ask.carried)

    def most_inputs(self, width: int, n_outputs: int = 1) -> int:
        """Inputs of one call on each device."""
        each, shared = self._call_bytes(width, n_outputs)
        # Gradients are taken in one or two masks of an input at a time; extraction and evaluation have every size.
        few = bool(self.scorings) and all(scoring.passes for scoring in self.scorings) and not self.ask.cases
        alone = any(traits_of(scoring.score).alone for scoring in self.scorings)
        n_masks = 2 if few else memory.ALL_SIZES
        return memory.batch_inputs(self.model.decoder, width, each, shared=shared, n_masks=n_masks, alone=alone)

    def two_fit(self, width: int, n_outputs: int = 1) -> bool:
        """Whether memory holds two calls of a width: a CPU's is the machine's, which kills what takes too much."""
        each, shared = self._call_bytes(width, n_outputs)
        return memory.holds(self.model.decoder, 2 * (self.most_inputs(width, n_outputs) * each + shared))

    def _call_bytes(self, width: int, n_outputs: int) -> tuple[int, int]:
        """Of each input of a call, and of the replacements and wide weights that they share."""
        config, itemsize = self.model.config, self.model.dtype.itemsize
        shared = replacement_bytes(config, width, self.ask.carried, itemsize, self.replacing.own)
        return call_bytes(config, width, self.ask, itemsize, n_outputs), shared + wide_bytes(self.model)


def _draws(score: Any, replace: str, replacing: Replacing) -> bool:
    """Whether a score draws the states of other texts itself."""
    return takes_passes(score) and traits_of(score).draws and replace == "resample" and not replacing.is_own(replace)
