"""How much of a prediction each trace keeps: what ``jstrace.evaluate`` returns (section 5 of the method)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from jstrace.method.conditions import Condition
from jstrace.method.frames import frame
from jstrace.method.measures import Measures, density
from jstrace.method.sizes import NUCLEUS_LEVELS
from jstrace.pipeline.comparing import same
from jstrace.pipeline.masked import BatchResult
from jstrace.pipeline.notebooks import evaluation_html

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """How much of the prediction each trace keeps; row k is trace k, the last row the full graph.

    So there is one row more than ``sizes``: ``row_sizes`` has a size for each of them. With ``inverse`` row k is the
    full graph *without* the attention and MLP edges of trace k, and the last row is the residual edges alone (with
    attention, where that is not ablated). Of masks of one's own, sizes are their shares of all edges, in the order of
    the masks. Entropy, surprisal and KL are in nats. It is a record on the host and no pytree.
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
    """Area under TV over log10(size); None for inverse evaluations and for masks of one's own."""
    full_tokens: Int[np.ndarray, "N"]
    """The most probable next tokens of the full graph,"""
    full_probs: Float32[np.ndarray, "N"]
    """and their probabilities."""
    ablate: str = "all"
    pre_softmax: bool = False
    inverse: bool = False
    replace: str = "zero"
    """What ablated edges carried: "zero", or the name of the replacement, of several their names."""

    @property
    def row_sizes(self) -> Float[np.ndarray, "Z1"]:
        """The size of every row: ``sizes``, and 1 for the full graph."""
        return np.asarray([*self.sizes, 1.0])

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

    @property
    def back(self) -> int:
        """The first row from which on the top token is the full graph's, in all larger ones too; Z where none is."""
        missed = np.flatnonzero(~self.agreement)
        return min(int(missed[-1]) + 1 if len(missed) else 0, len(self.sizes))

    def to_pandas(self) -> pd.DataFrame:
        """A row for every size and the full graph; needs pandas."""
        columns = {"size": self.row_sizes}
        columns |= {
            name: getattr(self, name) for name in ("tv", "kl", "agreement", "recovered", "top_token", "entropy")
        }
        if self.surprisal is not None and self.rank is not None:
            columns |= {"surprisal": self.surprisal, "rank": self.rank}
        return frame(columns)

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Evaluation) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Short: the size at which the full graph's top token is back for good, and the density."""
        words = [f"{len(self.sizes)} sizes and the full graph", f"ablate {self.ablate!r}"]
        words += [f"replace {self.replace!r}"] if self.replace != "zero" else []
        words += [name for name in ("pre_softmax", "inverse") if getattr(self, name)]
        words += (
            []
            if self.density is None
            else [f"density {self.density:.3f}", f"top token back at {self.row_sizes[self.back]:g}"]
        )
        return f"Evaluation({', '.join(words)})"

    def _repr_html_(self) -> str:
        """What notebooks show; top tokens are ids, as an evaluation has no tokenizer."""
        return evaluation_html(self)


def evaluation_of(
    result: BatchResult,
    index: int,
    sizes: tuple[float, ...],
    condition: Condition,
    *,
    with_next: bool,
    with_density: bool = True,
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
        density=density(sizes, m.tv) if with_density and not condition.inverse else None,
        full_tokens=result.full_tokens[index],
        full_probs=result.full_probs[index],
        **dataclasses.asdict(condition),
    )
