"""What is asked of an input beside its own prediction (sections 8 and 9 of the method)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Int

from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.measure.metrics import Metric
from jstrace.models import AnyArray
from jstrace.models.edges import ByValue


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Question(ByValue):
    """Of one input, or of a batch on a leading axis. Which of them there are makes another program, as
    does the number of outputs."""

    target: Float32[AnyArray, "*B V"] | None = None
    """Log-probabilities of another prediction than the model's own, that is kept and measured against."""
    counterfactual: Int[AnyArray, "*B T"] | None = None
    """Tokens whose states ablated edges carry."""
    metric: Metric | None = None
    """What is asked of the prediction; resolved."""
    answer: Int[AnyArray, "*B A"] | None = None
    """Tokens that follow: the input goes on with all but the last, and each token before one of them is an output."""

    @property
    def n_outputs(self) -> int:
        """A, the outputs of each graph."""
        return 1 if self.answer is None else self.answer.shape[-1]

    def under(self, replace: str) -> Question:
        """The same where ablated edges carry what has this name: the counterfactual is read under its own alone."""
        return self if replace == COUNTERFACTUAL else dataclasses.replace(self, counterfactual=None)

    @property
    def kind(self) -> Any:
        """Equal of questions that one program answers."""
        return jax.tree.structure(self), self.n_outputs

    @staticmethod
    def stacked(questions: list[Question], width: int, n_rows: int) -> Question:
        """Of a batch: questions of one kind, padded to ``n_rows`` inputs of ``width`` tokens."""
        assert len({question.kind for question in questions}) == 1, "a question would be another input's"

        def wide(question: Question) -> Question:
            tokens = question.counterfactual
            if tokens is None:
                return question
            padded = np.zeros(width, np.int32)
            padded[: len(tokens)] = tokens
            return dataclasses.replace(question, counterfactual=padded)

        rows = [wide(question) for question in questions]
        rows += [rows[0]] * (n_rows - len(rows))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


NOTHING = Question()
