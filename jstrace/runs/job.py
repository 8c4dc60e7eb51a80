"""What a run is asked: which model and data, by which plan, how far, and whom it tells."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.graph.sizes import NUCLEUS_LEVELS
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline.call import OnSteps
from jstrace.pipeline.driver import OnBatch
from jstrace.pipeline.reference import reference_mark
from jstrace.pipeline.scorers import built_in, settings_of
from jstrace.runs import manifest
from jstrace.runs.data import Data
from jstrace.runs.schema import NOTHING, Extras, checked_extras

Progress = Callable[[int, int, int], None]
"""Called with the inputs done, those of them done before this call, and all: once before the first, then after each."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One call of ``run``, checked.

    Raises:
      InputError: arguments that make no sense.
    """

    model: Model | Callable[[], Model]
    """From ``jstrace.load``, with a tokenizer; or what loads it, called when the folder is found to be free."""
    data: Data
    """From ``jstrace.runs.read_data``."""
    plan: Plan
    """What is asked of every input."""
    name: str = ""
    """What the model is called in the manifest and in reports."""
    limit: int | None = None
    """The number of inputs at most; a later call may ask for more."""
    save_strata: bool = False
    """Whether the strata of every input are kept, too."""
    part_inputs: int | None = None
    """Inputs of a part, which are computed together."""
    progress: Progress | None = None
    on_save: Callable[[int], None] | None = None
    """Called with the number of inputs whose results are in the folder: once before the first, then each time that
    there are more."""
    on_batch: OnBatch | None = None
    """Called before a batch is computed, with its inputs and the tokens that they are padded to: the first of a length
    compiles."""
    on_steps: OnSteps | None = None
    """Called while fits run, with the inputs of their batch that are done: 0.25 after a quarter of the steps of the one
    there is, those of its control and of its repetitions among them."""
    reference: Sequence[str] | None = None
    """Texts that "mean" and "resample" are made of, for the plan's replacements and for scores that take gradients; by
    default those that come with jstrace."""
    extras: Extras = NOTHING
    """Tokens to generate after each row, whose predictions are the inputs then, N of a row; and whether the geometry of
    hidden states is measured."""
    revision: str | None = None
    place: int = 0
    """What the manifest calls this checkpoint of the model, and where it stands among others, which reports show beside
    each other in that order."""

    def __post_init__(self) -> None:
        for what, kind, expected in (
            ("data", Data, "what jstrace.runs.read_data gives"),
            ("plan", Plan, "a jstrace.method.plans.Plan"),
            ("name", str, "a text"),
        ):
            if not isinstance(getattr(self, what), kind):
                raise InputError(f"{what} = {getattr(self, what)!r}, expected {expected}")
        _check_reference(self.reference)
        others, asked = max(0, len(self.data.rows) - 1), self.plan.selectivity
        if asked > others:
            raise InputError(f"selectivity = {asked}: beside an input the data has {others} others to be told")
        for what in ("limit", "part_inputs"):
            object.__setattr__(self, what, _count(what, getattr(self, what)))
        object.__setattr__(self, "extras", checked_extras(self.extras, selectivity=asked))
        self._check_questions()

    def _check_questions(self) -> None:
        """Refuse what cannot be asked of pairs of prompts, and counterfactuals that are nowhere."""
        paired = COUNTERFACTUAL in self.plan.replacements
        if paired and not self.data.has_counterfactuals:
            raise InputError(f"replace counterfactual: {self.data.name} has no column counterfactual")
        if self.extras.generate and self.data.asks:
            raise InputError(f"generate goes on with texts, and those of {self.data.name} have their own answers")
        if self.plan.selectivity and self.data.asks:
            told = f"{self.data.name} says itself what is asked"
            raise InputError(f"selectivity tells inputs what others predict, and {told}")

    @property
    def wanted(self) -> int:
        """The number of inputs, those done before among them."""
        n_inputs = len(self.data.rows) * max(1, self.extras.generate)
        return min(n_inputs, self.limit or n_inputs)

    @property
    def added(self) -> tuple[str, ...]:
        """The groups of columns (``schema.ADDED``) that the table of inputs has."""
        of_data = {"pairs": self.data.paired, "questions": self.data.asks}
        return (*self.extras.columns, *(name for name, there in of_data.items() if there))

    def config(self) -> dict[str, Any]:
        """What makes two runs the same, as far as it is known without the model."""
        return manifest.configuration(
            self.plan, self.data, save_strata=self.save_strata, extras=self.extras,
            reference=reference_mark(self.reference) if self.plan.takes_reference else None,
            learned=built_in().coefficients.digest if "learned" in self.plan.scores else None,
            scores={name: settings_of(name) for name in self.plan.built_in_names},
        )  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """What the manifest says beside it, as far as it is known without the model."""
        return {
            "data": {"name": self.data.name, "rows": len(self.data.rows)},
            "conditions": [case.name for case in self.plan.cases],
            "sources": [source.name for source in self.plan.sources],
            "nucleus_levels": list(NUCLEUS_LEVELS),
        }


def _check_reference(reference: Any) -> None:
    """Refuse other than a list of texts, before anything is loaded."""
    listed = isinstance(reference, Sequence) and not isinstance(reference, str)
    if reference is not None and not (listed and all(isinstance(text, str) for text in reference)):
        raise InputError(f"reference = {reference!r:.80}, expected a list of texts")
    if listed and not reference:
        raise InputError("reference is empty; means and resampled states need at least one text")


def _count(what: str, given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not hasattr(given, "__index__") or operator.index(given) < 1:
        raise InputError(f"{what} = {given!r}, expected an integer, at least one input")
    return operator.index(given)
