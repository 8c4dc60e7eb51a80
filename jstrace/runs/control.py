"""What a run computes beside its results: scores told foreign predictions, and repetitions (sections 8 and 9)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from jstrace.method.plans import Plan
from jstrace.method.questions import Question
from jstrace.models import Model
from jstrace.models.edges import ByValue
from jstrace.pipeline.call import OnSteps
from jstrace.pipeline.driver import Driver
from jstrace.pipeline.foreign import Predictions
from jstrace.pipeline.records import Ask, Input, Invalid, Outcome
from jstrace.pipeline.repeats import perturbed
from jstrace.pipeline.replacing import Replacing
from jstrace.runs.row import Row


@dataclasses.dataclass(frozen=True, eq=False)
class Foreign(ByValue):
    """How far the scores of one input get towards the predictions of others."""

    inputs: tuple[int, ...]
    """The N rows of the data whose predictions the scores were told."""
    tv: Float32[np.ndarray, "C N Z1"]
    """TV from each of them, of every curve of ``Plan.controlled``."""


@dataclasses.dataclass
class Steps:
    """Tells how far a batch is whose inputs have several fits ``each``: their own, the control's, repetitions."""

    told: OnSteps | None
    each: int
    done: int = 0
    """Fits of the batch."""

    def __call__(self, more: float) -> None:
        """So many fits more are done; of those that are under way a part."""
        if self.told is not None:
            self.told((self.done + more) / self.each)


class Control:
    """Traces inputs of a run towards other inputs' predictions; one for a run.

    Which others depends on the data alone, not on batches, hosts, limits or where a run was stopped: the next rows,
    and after the last the first ones, that the model predicts another most probable token of (``Predictions.foreign``).
    """

    def __init__(self, model: Model, plan: Plan, rows: Sequence[Row], replacing: Replacing) -> None:
        """``rows`` of the data, all of them; ``replacing`` says what names of replacements stand for."""
        sources = tuple(dict.fromkeys(case.source for case in plan.controlled))
        ask = Ask(sources, plan.controlled, plan.sizes, plan.seed)
        self._driver, self._rows, self._count = Driver(model, ask, replacing=replacing), rows, plan.selectivity
        self._predictions = Predictions(self._driver, [row.text for row in rows])

    def of(self, inputs: Mapping[int, Input], steps: Steps | None = None) -> dict[int, Foreign]:
        """The control of valid inputs by their indices.

        An input is left out where too few others predict anything else, or where a prediction is not finite.

        Raises:
          JaxRuntimeError, MemoryError: memory ran out, which the inputs' own scores did fit into.
        """
        chosen = {index: self.others(index) for index in inputs}
        chosen = {index: others for index, others in chosen.items() if len(others) == self._count}
        asked = {
            index * self._count + place: dataclasses.replace(
                inputs[index], next_token=None, question=Question(target=self._predictions.of(other))
            )
            for index, others in chosen.items()
            for place, other in enumerate(others)
        }
        table: dict[int, list[Float32[np.ndarray, "C Z1"] | None]] = {index: [None] * self._count for index in chosen}
        steps = steps or Steps(None, 1)
        for batch in self._driver.batches(asked, steps):
            steps.done += len(batch)
            for number, outcome in batch.items():
                table[number // self._count][number % self._count] = _curves(outcome)
        whole = {index: [tv for tv in curves if tv is not None] for index, curves in table.items()}
        return {
            index: Foreign(chosen[index], np.stack(curves, axis=1))
            for index, curves in whole.items()
            if len(curves) == self._count
        }

    def others(self, index: int) -> tuple[int, ...]:
        """The rows whose predictions an input is told, fewer where the data has no more; none of its own pair."""
        n_rows, pair = len(self._rows), self._rows[index].pair
        following = ((index + step) % n_rows for step in range(1, n_rows))
        following = (row for row in following if pair is None or self._rows[row].pair != pair)
        return self._predictions.foreign(index, following, self._count)


def _curves(outcome: Outcome | Invalid) -> Float32[np.ndarray, "C Z1"] | None:
    """TV by curve and size, where all of it is finite."""
    if isinstance(outcome, Invalid):
        if outcome.error is not None:
            raise outcome.error
        return None
    return np.stack([row.tv for row in outcome.evaluations]) if all(row.valid for row in outcome.evaluations) else None


class Repeats:
    """Runs inputs through what a driver does, so many times, each with other weights; one for a run."""

    def __init__(self, driver: Driver, count: int) -> None:
        self._driver, self.count = driver, count

    def of(self, inputs: Mapping[int, Input], steps: Steps) -> dict[int, Float32[np.ndarray, "R C Z1"]]:
        """TV of every repetition and curve, of the inputs whose predictions are finite in all of them."""
        repeats: dict[int, list[Float32[np.ndarray, "C Z1"]]] = {index: [] for index in inputs}
        for number in range(self.count):
            driver = self._driver.on(perturbed(self._driver.model, number))
            for batch in driver.batches(inputs, steps):
                steps.done += len(batch)
                for index, outcome in batch.items():
                    if isinstance(outcome, Outcome) and all(evaluation.valid for evaluation in outcome.evaluations):
                        repeats[index].append(np.stack([evaluation.tv for evaluation in outcome.evaluations]))
        return {index: np.stack(curves) for index, curves in repeats.items() if 0 < len(curves) == self.count}
