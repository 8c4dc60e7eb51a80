"""Scores from gradients whose backward pass takes the model for linear (RelP, arXiv 2508.21258).

The masked forward pass is the same; its gradients are those of layer-wise relevance propagation: the scales of norms,
attention probabilities and the ratios of activations are constants, and gates pass half to each factor.
"""

from __future__ import annotations

import dataclasses

from jstrace.method.scores.gradients import Gradient, GradientScore, Pass, name_variant
from jstrace.models import EdgeTree


@dataclasses.dataclass(frozen=True)
class RelP:
    """A score from gradients, of the same passes with the backward pass of RelP: by default ``Gradient``.

    Without biases, and under zero ablation, what the edges into a node are given sums to what those out of it are.

    Examples:
      >>> jstrace.trace(model, text, score=jstrace.RelP()).score
      'relp'
    """

    of: GradientScore = dataclasses.field(default=Gradient())
    name: str = "relp"

    def __post_init__(self) -> None:
        """Name those of other scores."""
        name_variant(self, "relp")

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        return self.of.edge_scores(forward._replace(relevance=True))
