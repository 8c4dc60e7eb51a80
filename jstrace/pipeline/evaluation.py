"""How much of a prediction each trace keeps: what ``jstrace.evaluate`` returns (section 5 of the method)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from jstrace.method.conditions import Condition
from jstrace.method.frames import frame
from jstrace.method.graph.sizes import NUCLEUS_LEVELS, percent
from jstrace.method.measure import metrics
from jstrace.method.measure.measures import Measures, density
from jstrace.method.measure.metrics import recovered
from jstrace.method.questions import NOTHING, Question
from jstrace.models import InputError
from jstrace.models.edges import ByValue
from jstrace.pipeline.comparing import BatchResult
from jstrace.pipeline.notebooks import evaluation_html

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation(ByValue):
    """How much of the prediction each trace keeps; row k is trace k, the last row the full graph.

    So there is one row more than ``sizes``: ``row_sizes`` has a size for each of them. With a target (``targeted``)
    TV, KL, nuclei, ``agreement`` and ``back`` are measured against the target; what is called full is always the
    model's own prediction. With ``inverse`` row k is the
    full graph *without* the attention and MLP edges of trace k, and the last row is the residual edges alone (with
    attention, where that is not ablated). Of masks of one's own, sizes are their shares of all edges, in the order of
    the masks. Entropy, surprisal and KL are in nats. It is a record on the host and no pytree. Two are equal where all
    that they hold is.

    Examples:
      >>> frame = evaluation.to_pandas()
      >>> frame[["size", "tv", "top_token"]].shape
      (27, 3)
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
    """Area under TV over log10(size); None for inverse evaluations, with a target, and for masks of one's own."""
    full_tokens: Int[np.ndarray, "N"]
    """The most probable next tokens of the full graph, which is the model's own prediction,"""
    full_probs: Float32[np.ndarray, "N"]
    """and their probabilities."""
    ablate: str = "all"
    pre_softmax: bool = False
    inverse: bool = False
    replace: str = "zero"
    """What ablated edges carried: "zero", or the name of the replacement, of several their names."""
    score_replace: str = ""
    """What they carried while the scores of the trace were made: ``Trace.score_replace``."""
    target_tokens: Int[np.ndarray, "N"] | None = None
    """The most probable next tokens of the target that was measured against; None without a target,"""
    target_probs: Float32[np.ndarray, "N"] | None = None
    """and their probabilities."""
    metric: Float32[np.ndarray, "Z1"] | None = None
    """The metric's value of each row; None where none was asked for."""
    metric_ends: tuple[float, float] | None = None
    """Its values of the empty mask and of the full graph."""
    metric_name: str = ""
    """What tables call it."""
    n_outputs: int = 1
    """Outputs of the graph: tokens of the answer. With several, TV, KL and entropy are means over them, ``surprisal``
    is of the whole answer, ``rank`` its worst token's; nuclei and top tokens agree where they do at each, and
    ``top_token``, ``full_tokens`` are the first output's."""
    tv_repeats: Float32[np.ndarray, "R Z1"] | None = None
    """TV of the trace's repetitions (``jstrace.trace(repeats=)``)."""
    agreed: Bool[np.ndarray, "Z1"] | None = None
    """``agreement``, where there is an answer."""
    top_texts: tuple[str, ...] | None = None
    """Each top token as text, if the model has a tokenizer."""

    @property
    def condition(self) -> Condition:
        """How its masks were made, and what ablated edges carried."""
        return Condition(self.ablate, self.pre_softmax, self.inverse, self.replace)

    @property
    def targeted(self) -> bool:
        """Whether rows are measured against a target rather than the model's own prediction."""
        return self.target_tokens is not None

    @property
    def wanted_token(self) -> int:
        """The most probable token of what rows are measured against."""
        return int(self.full_tokens[0] if self.target_tokens is None else self.target_tokens[0])

    @property
    def row_sizes(self) -> Float[np.ndarray, "Z1"]:
        """The size of every row: ``sizes``, and 1 for the full graph."""
        return np.asarray([*self.sizes, 1.0])

    @property
    def agreement(self) -> np.ndarray:
        """Whether each row's top token is the full graph's, or the target's, at every output: bool ``[Z + 1]``."""
        return self.top_token == self.wanted_token if self.agreed is None else self.agreed

    @property
    def valid(self) -> bool:
        """Whether every prediction is finite; half precision can overflow."""
        return bool(np.isfinite(self.tv).all())

    @property
    def recovered(self) -> Float32[np.ndarray, "Z1"] | None:
        """How much of the metric's difference each row has: (m(trace) - m(empty)) / (m(full) - m(empty)) (section 9).

        NaN where full graph and empty mask have the same value; None without a metric.
        """
        return None if self.metric is None or self.metric_ends is None else recovered(self.metric, *self.metric_ends)

    @property
    def tv_std(self) -> Float32[np.ndarray, "Z1"] | None:
        """How far TV moves with what rounding does: the standard deviation over the trace's repetitions."""
        return None if self.tv_repeats is None else np.std(self.tv_repeats, axis=0, ddof=1)

    @property
    def nucleus_level(self) -> np.ndarray:
        """The largest nucleus level recovered in order, or 0: float ``[Z + 1]``."""
        return np.max(np.where(self.nucleus, NUCLEUS_LEVELS, 0.0), axis=-1)

    @property
    def back(self) -> int:
        """The first row from which on the top token agrees, in all larger ones too; Z where none does."""
        missed = np.flatnonzero(~self.agreement)
        return min(int(missed[-1]) + 1 if len(missed) else 0, len(self.sizes))

    def to_pandas(self) -> pd.DataFrame:
        """A row for every size and the full graph; needs pandas."""
        columns: dict[str, Any] = {"size": self.row_sizes}
        columns |= {
            name: getattr(self, name) for name in ("tv", "kl", "agreement", "nucleus_level", "top_token", "entropy")
        }
        if self.top_texts is not None:
            columns |= {"top_text": self.top_texts}
        if self.tv_std is not None:
            columns |= {"tv_std": self.tv_std}
        if self.metric is not None:
            columns |= {"metric": self.metric, "recovered": self.recovered}
        if self.surprisal is not None and self.rank is not None:
            columns |= {"surprisal": self.surprisal, "rank": self.rank}
        if self.targeted:
            columns |= {"against": ["target"] * len(self.row_sizes)}
        return frame(columns)

    def __repr__(self) -> str:
        """Short: the size at which the full graph's top token is back for good, and the density."""
        words = [f"{len(self.sizes)} sizes and the full graph", f"ablate {self.ablate!r}"]
        words += [f"{self.n_outputs} outputs"] if self.n_outputs > 1 else []
        scored = self.score_replace or self.replace
        words += [f"replace {self.replace!r}"] if (self.replace, scored) != ("zero", "zero") else []
        words += [f"scored under {scored!r}"] if scored != self.replace else []
        words += [name for name in ("pre_softmax", "inverse") if getattr(self, name)]
        words += ["measured against a target"] if self.targeted else []
        words += (
            []
            if self.density is None
            else [f"density {self.density:.3f}", f"top token back at {percent(self.row_sizes[self.back], 3)}"]
        )
        return f"Evaluation({', '.join(words)})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return evaluation_html(self)


def evaluation_of(
    result: BatchResult,
    index: int,
    sizes: tuple[float, ...],
    condition: Condition,
    *,
    with_next: bool,
    with_density: bool = True,
    question: Question = NOTHING,
    word: Callable[[int], str] | None = None,
) -> Evaluation:
    """One input of a batch of results on the host, and what was asked of it; ``word`` names tokens."""
    target = question.target
    m: Measures = jax.tree.map(lambda leaf: leaf[index], result.measures)
    with_next = with_next or question.answer is not None
    told = None if target is None else np.argsort(-target, kind="stable")[: result.full_tokens.shape[-1]]
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
        density=density(sizes, m.tv) if with_density and target is None and not condition.inverse else None,
        full_tokens=result.full_tokens[index],
        full_probs=result.full_probs[index],
        target_tokens=None if told is None else told.astype(np.int32),
        target_probs=None if told is None or target is None else np.exp(target[told]),
        n_outputs=question.n_outputs,
        agreed=m.agreement,
        top_texts=None if word is None else _texts(m.top_token.tolist(), word),
        **_metric_of(result, index, len(m.tv), question, word),
        **dataclasses.asdict(condition),
    )


def _texts(tokens: list[int], word: Callable[[int], str]) -> tuple[str, ...]:
    """Each token as text; most rows have one of a few."""
    known = {token: word(token) for token in set(tokens)}
    return tuple(known[token] for token in tokens)


def _metric_of(result: BatchResult, index: int, n_rows: int, question: Question, word: Any) -> dict[str, Any]:
    """The metric of an input's rows; behind them stands the empty mask.

    Raises:
      InputError: a metric of one's own is no finite number of the full graph.
    """
    if result.metric is None or result.full_metric is None:
        return {}
    values, full = result.metric[index], float(result.full_metric[index])
    name, empty = metrics.described(question.metric, word), float(values[n_rows])
    if math.isfinite(float(result.full_probs[index].sum())):
        check_finite(name, full)
    return {"metric": values[:n_rows], "metric_ends": (empty, full), "metric_name": name}


def check_finite(name: str, full: float) -> None:
    """Refuse the value of a metric of the full graph.

    Raises:
      InputError: it is no finite number.
    """
    if not math.isfinite(full):
        told = "NaN" if math.isnan(full) else f"{full:g}"
        raise InputError(f"metric {name} is {told} of the full graph's logits, which are finite: expected a number")
