"""What a batch is asked for, what goes into it, and what comes of it: results, or the reason why there are none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from jstrace.method.conditions import Case, Condition, Source
from jstrace.method.graph.composition import Composition
from jstrace.method.questions import Question
from jstrace.models import EdgeTree, InputError
from jstrace.models.edges import ByValue
from jstrace.pipeline.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class Ask:
    """What one batch of inputs goes through: traces from these sources, then these cases; static.

    Without sources every input comes with its strata.
    """

    sources: tuple[Source, ...]
    cases: tuple[Case, ...]
    sizes: tuple[float, ...]
    seed: int = 0
    keep_scores: bool = False
    """Whether the scores of the first source are fetched, too."""
    keep_strata: bool = True
    """Whether the strata of the sources are fetched."""
    compose: bool = False
    """Whether what the traces are made of is counted, on the device."""

    @property
    def scorings(self) -> tuple[tuple[Any, str], ...]:
        """The different edge scores that the sources read, each with what ablated edges carry meanwhile."""
        return tuple(dict.fromkeys(source.scoring for source in self.sources))

    @property
    def replacements(self) -> tuple[str, ...]:
        """What ablated edges carry in the cases, by name."""
        return tuple(dict.fromkeys(case.condition.replace for case in self.cases))

    @property
    def carried(self) -> tuple[str, ...]:
        """What ablated edges carry anywhere, by name: in the cases, and while edges are scored."""
        return tuple(dict.fromkeys((*self.replacements, *(name for _, name in self.scorings))))

    @property
    def numbered(self) -> tuple[tuple[int, Condition], ...]:
        """Of each case the index of its strata, and its condition."""
        return tuple((self.sources.index(case.source) if self.sources else 0, case.condition) for case in self.cases)


@dataclasses.dataclass(frozen=True, eq=False)
class Input(ByValue):
    """One input, checked (``inputs.tokenised``)."""

    tokens: Int[np.ndarray, "T"]
    next_token: int | None = None
    """The true next token, where known."""
    strata: tuple[EdgeTree, ...] = ()
    """Where the ask has no sources."""
    sizes: tuple[float, ...] | None = None
    """Of those strata, where they are not the ask's, but as many."""
    question: Question = dataclasses.field(default_factory=Question)
    """What is asked of it beside its own prediction."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome(ByValue):
    """What came of an input: strata of each source and an evaluation of each case."""

    tokens: Int[np.ndarray, "T"]
    n_edges: int
    strata: tuple[EdgeTree, ...]
    """Empty where the ask does not keep them."""
    evaluations: tuple[Evaluation, ...]
    scores: EdgeTree | None = None
    """Of the first source, where the ask keeps them: float32; -1 in slots that are no edge."""
    compositions: tuple[Composition, ...] = ()
    """Of each source, where the ask wants them."""


@dataclasses.dataclass(frozen=True)
class Invalid:
    """An input of which there are no results.

    Examples:
      >>> good, bad = jstrace.trace(model, [text, [1000]], on_invalid="keep")
      >>> bad.reason
      'token id 1000 is outside the vocabulary of 97'
    """

    reason: str
    detail: str = ""
    """More of the reason, for whom it can help."""
    error: Exception | None = dataclasses.field(default=None, repr=False)
    """What was raised."""

    def as_error(self, where: str = "") -> Exception:
        """What a call that promises a result for every input raises; ``where`` names the input."""
        if self.error is None or isinstance(self.error, InputError):
            return InputError(f"{where}{self.reason}{self.detail}")
        return self.error


@dataclasses.dataclass(frozen=True)
class Spent:
    """What scores took."""

    inputs: int
    seconds: float
    """Of all of them, without tracing and compiling programs; what else a first call takes is in it."""

    def __add__(self, other: Spent) -> Spent:
        """Of both."""
        return Spent(self.inputs + other.inputs, self.seconds + other.seconds)
