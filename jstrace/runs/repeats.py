"""How steady a run's figures are: its inputs again, with weights that differ by rounding (section 9 of the method)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from jstrace.pipeline.driver import Driver
from jstrace.pipeline.records import Input, Outcome
from jstrace.pipeline.repeats import check_repeats, perturbed


class Repeats:
    """Runs inputs through what a driver does, so many times, each with other weights; one for a run."""

    def __init__(self, driver: Driver, count: int) -> None:
        check_repeats(driver.model, count)
        self._driver, self._count = driver, count

    def of(self, inputs: Mapping[int, Input]) -> dict[int, Float32[np.ndarray, "R C Z1"]]:
        """TV of every repetition and curve, of the inputs whose predictions are finite in all of them."""
        repeats: dict[int, list[Float32[np.ndarray, "C Z1"]]] = {index: [] for index in inputs}
        for number in range(self._count):
            for batch in self._driver.on(perturbed(self._driver.model, number)).batches(inputs):
                for index, outcome in batch.items():
                    if isinstance(outcome, Outcome) and all(evaluation.valid for evaluation in outcome.evaluations):
                        repeats[index].append(np.stack([evaluation.tv for evaluation in outcome.evaluations]))
        return {index: np.stack(curves) for index, curves in repeats.items() if 0 < len(curves) == self._count}
