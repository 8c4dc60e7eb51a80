"""One circuit of a task: the scores of the images of edges, and what it keeps of held-out pairs."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32

from jstrace import archives
from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.frames import frame
from jstrace.method.graph.sizes import counts, percent
from jstrace.models import EdgeTree, InputError, Model, ModelConfig
from jstrace.models.edges import ByValue
from jstrace.pipeline.inputs import checked_model, with_weights
from jstrace.pipeline.tasks import archive, mib
from jstrace.pipeline.tasks.alignment import Alignment, components_of, kept_components, placed
from jstrace.pipeline.tasks.judging import Judged
from jstrace.pipeline.tasks.prompts import Pair, Prompt, prompt_of
from jstrace.pipeline.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TaskCircuit(ByValue):
    """One order over the images of edges that the prompts of a task share, and what it keeps of held-out pairs.

    The circuit is sufficient for what it recovers, under the replacement that it names. It is no proof that the model
    uses these edges and no others.

    Examples:
      >>> circuit = jstrace.task(model, pairs, score="gradient", beside=())
      >>> circuit.save("task.npz")
      >>> jstrace.TaskCircuit.load("task.npz") == circuit
      True
    """

    images: EdgeTree
    """Score of each image, float32 ``[L,C]``, ``[L,H,C,C]`` (class of target, of source), ``[L,C]``, ``[L,C]``; 0 where
    no edge has it."""
    components: Float32[np.ndarray, "L C"]
    """Score of each head of a layer, and last of its MLP, that of its best edge: ``[L, H + 1]``."""
    classes: tuple[str, ...]
    """The C classes of tokens."""
    align: str
    """How tokens were divided into them: "position", "roles" or "components"."""
    level: str
    """What the sizes are shares of, and what is kept: "edges", or "components" at all positions."""
    sizes: tuple[float, ...]
    score: str
    score_replace: str
    """What ablated edges carried while gradients were taken; empty of scores without."""
    replace: str
    """What ablated edges carry: "counterfactual", or the name of another replacement."""
    reference: str
    """As ``Trace.reference``."""
    seed: int
    config: ModelConfig
    model_fingerprint: str
    n_pairs: int
    """Pairs that it was found in."""
    weights: str = ""
    """As ``Trace.weights``."""
    judged: Mapping[str, Judged] = dataclasses.field(default_factory=dict)
    """What is kept of held-out pairs: by the circuit ("task"), by each pair's own trace ("single"), in a "random" order
    of images, by "components" at all positions, and by the "control": the circuit of the same training pairs with clean
    and counterfactual prompt, answer and rival exchanged."""
    overlap: Float32[np.ndarray, "P Z"] | None = None
    """At each size, the edges (or components) that a held-out pair's own trace shares with the circuit's in that
    prompt, over those of either."""

    @property
    def alignment(self) -> Alignment:
        """The classes, and how tokens get theirs."""
        return Alignment(self.align, self.classes)

    @property
    def row_sizes(self) -> np.ndarray:
        """The size of every column of ``judged``: ``sizes``, and 1 for the full graph."""
        return np.asarray([*self.sizes, 1.0])

    def trace(self, model: Model, pair: Pair) -> Trace:
        """The traces of a pair's clean prompt, by best-first search over the scores of its edges' images.

        Args:
          model: that the circuit was found in.
          pair: any pair of the task.

        Example:
          ``jstrace.evaluate(model, circuit.trace(model, pair)).recovered``

        Raises:
          InputError: another model, or a pair that makes no sense, or of another length where tokens are aligned by
            position.
        """
        self.check(model)
        return self.traced(model, prompt_of(model, pair))

    def traced(self, model: Model, prompt: Prompt) -> Trace:
        """The same of a checked prompt."""
        paired = self.replace == COUNTERFACTUAL
        scores = placed(self.images, self.alignment.numbers(prompt.roles), self.config)
        trace = Trace.from_scores(
            model, prompt.tokens, scores, sizes=self.sizes, score=f"task-{self.score}", metric=prompt.metric,
            counterfactual=prompt.counterfactual if paired else None,
        )  # fmt: skip
        names: dict[str, Any] = {
            "replace": self.replace,
            "reference": self.reference,
            "score_replace": self.score_replace,
        }
        return dataclasses.replace(trace, seed=self.seed, **names)

    def kept_components(self) -> Bool[np.ndarray, "Z L C"]:
        """The components of each size, a share of all of them: bool ``[Z, L, H + 1]``."""
        cuts = counts(self.sizes, int(components_of(self.config).sum())).tolist()
        return np.stack([kept_components(self.components, count, self.config) for count in cuts])

    def check(self, model: Model) -> None:
        """Refuse another model.

        Raises:
          InputError: one of another shape, or with other weights.
        """
        checked_model(model)
        mark = self.model_fingerprint
        if model.config != self.config or (mark and mark != model.fingerprint()):
            raise InputError(
                f"the circuit was found in model {with_weights(mark, self.weights)}, this is"
                f" {with_weights(model.fingerprint(), model.weights)}; to use it in another of its shape, use"
                ' dataclasses.replace(circuit, model_fingerprint="")'
            )

    def to_mib(self, k: int | None = None, *, size: float | None = None, edges: bool = False) -> dict[str, Any]:
        """The circuit of a size as the JSON that MIB's circuit track reads, at the level of nodes.

        Its graph has a node for each head and MLP at all positions, as ``components``. Written are "cfg" (n_layers,
        n_heads, d_model, parallel_attn_mlp), "nodes" (``input``, ``a{l}.h{h}``, ``m{l}``, ``logits``, each with
        "in_graph", heads and MLPs with the score of their best edge as "score") and "edges", which the reader asks for:
        empty, unless ``edges`` wants every edge such as ``a0.h0->m0`` or ``m0->a1.h2<q>`` (millions in large models).
        An edge has its source's score, and is in the graph where both of its ends are: edges between components have
        no scores of their own here. The node ``input`` has no score, so that it is always kept.

        Args:
          k: index into ``sizes``, or
          size: one of them: the share of heads and MLPs that are in the graph.
          edges: whether to write edges.

        Example:
          ``json.dump(circuit.to_mib(size=0.1), file)``

        Raises:
          InputError: no such size.
        """
        index = self._index(k, size)
        return mib.graph(self.config, self.components, self.kept_components()[index], edges=edges)

    def _index(self, k: int | None, size: float | None) -> int:
        try:
            if (k is None) == (size is None) or isinstance(k, bool):
                raise TypeError
            if k is not None:
                return range(len(self.sizes)).index(operator.index(k))
            return next(at for at, own in enumerate(self.sizes) if math.isclose(own, size or 0.0, rel_tol=1e-6))
        except (TypeError, ValueError, StopIteration) as error:
            raise InputError(
                f"k = {k!r:.60}, size = {size!r:.60}: expected an index below {len(self.sizes)}, or one of {self.sizes}"
            ) from error

    def columns(self) -> dict[str, list[Any]]:
        """The columns of ``to_pandas``."""
        names = ("order", "size", "edges", "recovered", "recovered_std", "faithfulness", "tv", "accuracy", "overlap")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for order, judged in self.judged.items():
            shared = [math.nan] * len(self.row_sizes)
            if order == "single" and self.overlap is not None:
                shared = [*self.overlap.mean(axis=0).tolist(), 1.0]
            rows = (
                [order] * len(shared), self.row_sizes, judged.kept.mean(axis=0), judged.mean(), judged.std(),
                judged.faithfulness, judged.tv.mean(axis=0), judged.accuracy, shared,
            )  # fmt: skip
            for name, values in zip(names, rows, strict=True):
                columns[name] += values if isinstance(values, list) else values.tolist()
        return columns

    def to_pandas(self) -> pd.DataFrame:
        """A row for every order and size, means over held-out pairs; needs pandas.

        ``edges`` is the share of all edges that is kept, ``faithfulness`` what is recovered of the mean metric, and
        ``overlap`` that of single traces with the circuit's.
        """
        return frame(self.columns())

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing."""
        archive.write(Path(path), self)

    @staticmethod
    def load(path: str | Path) -> TaskCircuit:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, no circuit of a task, of a newer version, or damaged.
        """
        with archives.reading(Path(path), "circuit of a task"):
            fields = archive.read(Path(path))
            fields["judged"] = {name: Judged(**arrays) for name, arrays in fields["judged"].items()}
            return TaskCircuit(**fields)

    def __repr__(self) -> str:
        """Short."""
        words = [f"{self.n_pairs} pairs", f"score {self.score!r}", f"{len(self.classes)} classes by {self.align}"]
        if "task" in self.judged:
            judged = self.judged["task"]
            missed = np.flatnonzero(~(np.abs(judged.mean() - 1) <= 1 - _ENOUGH))
            first = int(missed[-1]) + 1 if len(missed) else 0
            size = percent(self.row_sizes[first]) if first < len(self.row_sizes) else "no size"
            words.append(f"{len(judged.tv)} held out: {100 * _ENOUGH:.0f}% recovered from {size} of {self.level} on")
        return f"TaskCircuit({', '.join(words)})"


_ENOUGH = 0.9
"""Recovered, of what is told in a line: and no further beyond all of it than this is below."""


def random_order(circuit: TaskCircuit, seed: int) -> TaskCircuit:
    """The same with uniform random scores of images and of components."""
    rng = np.random.default_rng(seed)
    images = {kind: rng.random(leaf.shape, np.float32) for kind, leaf in circuit.images.items()}
    components = rng.random(circuit.components.shape, np.float32)
    return dataclasses.replace(circuit, images=EdgeTree(**images), components=components)


def traces_of(circuit: TaskCircuit, model: Model, prompts: Sequence[Prompt]) -> list[Trace]:
    """The traces of each prompt by a circuit."""
    return [circuit.traced(model, prompt) for prompt in prompts]
