"""The nested traces of one input, and their file."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Float, Int

from jstrace import archives
from jstrace.method import conditions
from jstrace.method.conditions import COUNTERFACTUAL, checked_replace
from jstrace.method.graph import full_graph
from jstrace.method.graph.composition import Composition, compose
from jstrace.method.graph.edges import Edges, edges_where
from jstrace.method.graph.sizes import SIZES, checked_sizes, percent
from jstrace.method.graph.sizes import counts as edge_counts
from jstrace.method.measure.metrics import Metric
from jstrace.models import EdgeTree, InputError, Model, ModelConfig
from jstrace.models.edges import ByValue
from jstrace.pipeline import trace_file
from jstrace.pipeline.coherence import check
from jstrace.pipeline.inputs import Tokens, token_texts, tokenised, whole_text
from jstrace.pipeline.notebooks import trace_html
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.searching import checked_scores, searched
from jstrace.scale import batching


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trace(ByValue):
    """The nested traces of one input: all Z masks in one uint8 stratum per edge. Arrays are numpy's, of the true T.

    It is no pytree, but ``scores``, ``strata`` and what ``mask`` and ``masks`` give are. Two traces are equal where all
    that they hold is.

    Examples:
      >>> trace.save("mary.npz")
      >>> jstrace.Trace.load("mary.npz").mask(size=0.1).attn.shape
      (3, 4, 7, 7)
    """

    tokens: Int[np.ndarray, "T"]
    token_texts: tuple[str, ...] | None
    """Each token as text, if the model has a tokenizer."""
    config: ModelConfig
    n_edges: int
    """Edges of the full graph, E."""
    sizes: tuple[float, ...]
    counts: Int[np.ndarray, "Z"]
    """Edges of each trace, ``floor(size * E)``."""
    scores: EdgeTree
    """float32; -1 in slots that are no edge, whose stratum is 255."""
    strata: EdgeTree
    """uint8: the smallest trace that holds the edge; Z for none; 255 in slots that are no edge."""
    score: str = "l1"
    frozen: tuple[str, ...] = ()
    seed: int = 0
    model_fingerprint: str = ""
    order: str = "best-first"
    """How the scores became traces: by best-first search, or "score", by rank alone."""
    replace: str = "zero"
    """What ablated edges carry, in evaluations of the trace, and in its scores unless ``score_replace`` differs."""
    reference: str = ""
    """A hash of the texts or arrays that it is made of, where those were the caller's own; else empty."""
    text: str | None = None
    """The tokens as one text, if the model has a tokenizer: a character may be several tokens."""
    score_replace: str = ""
    """What ablated edges carried while gradients were taken; empty if none were, or if an older file does not say."""
    counterfactual: Int[np.ndarray, "T"] | None = None
    """Tokens whose states ablated edges carry, where ``replace`` is "counterfactual","""
    counterfactual_texts: tuple[str, ...] | None = None
    """each as text, if the model has a tokenizer."""
    metric: Metric | None = None
    """What scores from gradients asked, and evaluations do; None is how close the prediction is."""
    answer: Int[np.ndarray, "A"] | None = None
    """Tokens that the prompt goes on with, if it was traced with an answer; ``tokens`` has all of it but the last."""
    weights: str = ""
    """"int8" where the model's matrices were stored so, else empty."""
    repeated: tuple[EdgeTree, ...] = ()
    """Strata of the same with weights that differ by rounding (``jstrace.trace(repeats=)``)."""

    @property
    def n_outputs(self) -> int:
        """Outputs of the graph: the last tokens, each before one of the answer."""
        return 1 if self.answer is None else len(self.answer)

    @property
    def first_difference(self) -> int:
        """The first token that differs from the counterfactual's; 0 without one. Earlier edges change nothing."""
        if self.counterfactual is None:
            return 0
        return int(np.flatnonzero(self.tokens != self.counterfactual)[0])

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens as text, or their ids where there was no tokenizer."""
        return self.token_texts or tuple(map(str, self.tokens.tolist()))

    @staticmethod
    def from_scores(
        model: Model,
        tokens: Tokens,
        scores: EdgeTree,
        *,
        sizes: Sequence[float] = SIZES,
        frozen: Sequence[str] = (),
        score: str = "own",
        order: str = "best-first",
        replace: str | None = None,
        counterfactual: Tokens | None = None,
        metric: Any = None,
    ) -> Trace:
        """The traces that best-first search, or their order alone, finds over scores of one's own.

        Args:
          model: that the scores belong to.
          tokens: the text, or its token ids ``[T]``.
          scores: any finite number for every edge, the larger the earlier: ``[L,T]``, ``[L,H,T,T]``, ``[L,T]``,
            ``[L,T]``; what stands in slots that are no edge is not read.
          sizes: fractions of all edges, strictly increasing, at most 254.
          frozen: components that rank before all others: any of "residual", "attention", "mlp".
          score: what to call the scores.
          order: "best-first", or "score".
          replace: what ablated edges carry in evaluations of it: "zero" (the default), or "mean" or "resample" of the
            texts that come with jstrace. For others give ``evaluate`` a ``replace`` and a ``reference``.
          counterfactual: a prompt of as many tokens, whose states ablated edges carry instead.
          metric: what evaluations of it measure, as in ``jstrace.trace``.

        Raises:
          InputError: tokens, scores, a replacement, a counterfactual or sizes that make no sense.
        """
        single, rows = tokenised(model, tokens)
        if not single:
            raise InputError("from_scores takes one input: a text or its token ids")
        (ids,), config = rows, model.config
        full_graph.check_slots(config, len(ids), batching.bucket)
        own, n_edges = checked_scores(scores, config, len(ids)), full_graph.n_edges(config, len(ids))
        sizes, first = checked_sizes(sizes), conditions.checked_frozen(frozen)
        cuts = edge_counts(sizes, n_edges)
        question = Questions.of(model, 1, single=True, counterfactual=counterfactual, metric=metric).about(0, ids, "")
        pair = question.counterfactual
        if pair is not None and replace is not None:
            raise InputError("a counterfactual is what ablated edges carry: give it, or replace")
        return Trace(
            tokens=ids,
            token_texts=token_texts(model, ids),
            text=whole_text(model, ids),
            config=config,
            n_edges=n_edges,
            sizes=sizes,
            counts=cuts,
            scores=own,
            strata=searched(own, cuts, config, first, conditions.checked_order(order)),
            score=str(score),
            frozen=first,
            model_fingerprint=model.fingerprint(),
            weights=model.weights,
            order=order,
            replace=COUNTERFACTUAL if pair is not None else checked_replace("zero" if replace is None else replace),
            counterfactual=pair,
            counterfactual_texts=None if pair is None else token_texts(model, pair),
            metric=question.metric,
        )

    def index(self, k: SupportsIndex | None = None, *, size: float | None = None) -> int:
        """The index of a trace, given as for ``mask``: 0 to Z, the full graph.

        Raises:
          InputError: as ``mask``.
        """
        return self._index(k, size)

    def mask(self, k: SupportsIndex | None = None, *, size: float | None = None) -> EdgeTree:
        """The bool mask of a trace, given by its index or by its size.

        Args:
          k: index into ``sizes``; ``k = Z`` is the full graph.
          size: one of ``sizes``, or 1 for the full graph.

        Raises:
          InputError: no such trace, a fraction in the place of an index, or neither or both of the two.
        """
        index = self._index(k, size)
        return jax.tree.map(lambda stratum: stratum <= index, self.strata)

    def masks(self) -> EdgeTree:
        """The bool masks of all traces and of the full graph, on a leading axis of Z + 1, for ``jax.vmap``."""
        return jax.tree.map(lambda *masks: np.stack(masks), *(self.mask(k) for k in range(len(self.sizes) + 1)))

    def edges(self, k: SupportsIndex | None = None, *, size: float | None = None) -> Edges:
        """The edges of a trace, given as for ``mask``, highest score first."""
        return edges_where(self.mask(k, size=size), self.scores, self.strata, self.words)

    def to_networkx(self, k: SupportsIndex | None = None, *, size: float | None = None) -> Any:
        """A trace, given as for ``mask``, as a ``networkx.MultiDiGraph`` from embeddings to the output.

        Nodes are ``(level, token)``: level 2l enters layer l, 2l + 1 is past its attention and the last is the
        output's; with parallel blocks level l enters layer l. They have ``token`` (its text, or id) and ``position``;
        edges what ``jstrace.Edge`` has. Several edges may join the same two nodes. Needs networkx.

        Raises:
          InputError: as ``mask``, or networkx is missing.
        """
        try:
            import networkx
        except ImportError as error:
            raise InputError("to_networkx needs networkx: pip install 'jstrace[analysis]'") from error
        graph, words, edges = networkx.MultiDiGraph(), self.words, self.edges(k, size=size)
        for edge, level in zip(edges, edges.levels(parallel=self.config.parallel).tolist(), strict=True):
            ends = (level, edge.source), (level + 1, edge.target)
            for end in ends:
                graph.add_node(end, token=words[end[1]], position=end[1])
            named = {name: getattr(edge, name) for name in ("kind", "layer", "head", "score", "stratum")}
            graph.add_edge(*ends, **named)
        return graph

    def first_edges(self, count: SupportsIndex) -> Edges:
        """The first ``count`` edges that the trace's order takes, highest score first: the trace of that size.

        Raises:
          InputError: a count that is no whole number of edges.
        """
        if isinstance(count, bool) or not hasattr(count, "__index__") or operator.index(count) < 0:
            raise InputError(f"count = {count!r}, expected a number of edges")
        cuts = np.full(len(self.sizes), min(operator.index(count), self.n_edges), np.int32)
        strata = searched(self.scores, cuts, self.config, self.frozen, self.order, self.n_outputs)
        return edges_where(jax.tree.map(lambda leaf: leaf == 0, strata), self.scores, self.strata, self.words)

    def composition(self) -> Composition:
        """What each trace is made of (section 5 of the method)."""
        return compose(self.strata, len(self.sizes), self.config, self.n_outputs)

    def flops(self, ablate: str = "all") -> Float[np.ndarray, "Z1"]:
        """Floating-point operations of a pass that computes only what each trace keeps, the full graph's last.

        Attention is whole under "residual+mlp", and under a replacement where the state after it is read (section 5).
        """
        condition = conditions.Condition(conditions.checked_ablation(ablate), replace=self.replace)
        return self.composition().flops.total(condition)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing."""
        trace_file.write(Path(path), self)

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, not a trace, of a newer version, or damaged.
        """
        with archives.reading(Path(path), "trace"):
            trace = Trace(**trace_file.read(Path(path)))
            check(trace, f"{path}: ")
        return trace

    def __repr__(self) -> str:
        """Short: the arrays of a trace hold hundreds of thousands of numbers."""
        sizes = f"{len(self.sizes)} sizes from {percent(self.sizes[0], 3)} to {percent(self.sizes[-1], 3)}"
        under = f", scored under {self.score_replace!r}" if self.score_replace else ""
        replace = "" if self.replace in ("zero", self.score_replace) else f", replace {self.replace!r}"
        told = f"score {self.score!r}{under}{replace}"
        outputs = "" if self.answer is None else f"{self.n_outputs} output{'s' * (self.n_outputs > 1)}, "
        return f"Trace({len(self.tokens)} tokens, {outputs}{self.n_edges:,} edges, {sizes}, {told})"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return trace_html(self)

    def _index(self, k: Any, size: float | None) -> int:
        if (k is None) == (size is None):
            raise InputError("expected an index k or a size, one of the two")
        if size is not None:
            known = [*self.sizes, 1.0]
            try:
                if isinstance(size, bool | str):
                    raise TypeError
                place = min(range(len(known)), key=lambda index: (abs(known[index] - float(size)), -index))
                close = math.isclose(known[place], float(size), rel_tol=1e-6)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"size = {size!r}, expected a number") from error
            if not close:
                raise InputError(f"size = {size}: not one of this trace's sizes {known}")
            return place
        try:
            if isinstance(k, bool | np.bool_):
                raise TypeError
            index = operator.index(k)
        except TypeError as error:
            raise InputError(f"k = {k!r}: an index is an integer; for a size use mask(size={k!r})") from error
        if not 0 <= index <= len(self.sizes):
            raise InputError(f"k = {index}, expected 0 to {len(self.sizes)} (the full graph)")
        return index
