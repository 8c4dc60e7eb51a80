"""How much of a prediction each trace keeps: what ``jstrace.evaluate`` returns (section 5 of the method)."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from jaxtyping import Bool, Float32, Int

from jstrace.method.conditions import Condition
from jstrace.method.measures import Measures, density
from jstrace.method.sizes import NUCLEUS_LEVELS
from jstrace.pipeline.masked import BatchResult


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How much of the prediction each trace keeps; row k is trace k, the last row the full graph.

    With ``inverse`` row k is the full graph *without* the attention and MLP edges of trace k, and the last row is the
    residual edges alone (with attention, where that is not ablated). Entropy, surprisal and KL are in nats.
    """

    sizes: tuple[float, ...]
    tv: Float32[np.ndarray, "Z1"]
    kl: Float32[np.ndarray, "Z1"]
    nucleus: Bool[np.ndarray, "Z1 12"]
    nucleus_unordered: Bool[np.ndarray, "Z1 12"]
    top_token: Int[np.ndarray, "Z1"]
    entropy: Float32[np.ndarray, "Z1"]
    surprisal: Float32[np.ndarray, "Z1"] | None
    """Where ``next_token`` was given."""
    rank: Int[np.ndarray, "Z1"] | None
    """Rank of ``next_token``, from 1."""
    density: float | None
    """Area under TV over log10(size); None for inverse evaluations."""
    full_tokens: Int[np.ndarray, "N"]
    """The most probable next tokens of the full graph,"""
    full_probs: Float32[np.ndarray, "N"]
    """and their probabilities."""
    ablate: str = "all"
    pre_softmax: bool = False
    inverse: bool = False

    @property
    def agreement(self) -> np.ndarray:
        """Whether each row's top token is the full graph's: bool ``[Z + 1]``."""
        return self.top_token == self.full_tokens[0]

    @property
    def valid(self) -> bool:
        """Whether every prediction is finite; half precision can overflow."""
        return bool(np.isfinite(self.tv).all())

    @property
    def recovered(self) -> np.ndarray:
        """The largest nucleus level recovered in order, or 0: float ``[Z + 1]``."""
        return np.max(np.where(self.nucleus, NUCLEUS_LEVELS, 0.0), axis=-1)


def evaluation_of(
    result: BatchResult, index: int, sizes: tuple[float, ...], condition: Condition, *, with_next: bool
) -> Evaluation:
    """One input of a batch of results on the host."""
    m: Measures = jax.tree.map(lambda leaf: leaf[index], result.measures)
    return Evaluation(
        sizes=sizes,
        tv=m.tv,
        kl=m.kl,
        nucleus=m.nucleus,
        nucleus_unordered=m.nucleus_unordered,
        top_token=m.top_token,
        entropy=m.entropy,
        surprisal=m.surprisal if with_next else None,
        rank=m.rank if with_next else None,
        density=None if condition.inverse else density(sizes, m.tv),
        full_tokens=result.full_tokens[index],
        full_probs=result.full_probs[index],
        **dataclasses.asdict(condition),
    )
