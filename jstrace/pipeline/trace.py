"""The nested traces of one input, and their file."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Int

from jstrace import archives
from jstrace.method.conditions import GRADIENTS, checked_frozen, checked_order, checked_replace, checked_seed
from jstrace.method.graph import full_graph
from jstrace.method.graph.composition import Composition, compose
from jstrace.method.graph.edges import Edges, edges_where
from jstrace.method.graph.sizes import SIZES, checked_sizes
from jstrace.method.graph.sizes import counts as edge_counts
from jstrace.models import EDGE_KINDS, EdgeTree, InputError, Model, ModelConfig, edge_shapes
from jstrace.models.edges import ByValue
from jstrace.pipeline.coherence import check
from jstrace.pipeline.inputs import Tokens, token_texts, tokenised, whole_text
from jstrace.pipeline.notebooks import trace_html
from jstrace.pipeline.searching import checked_scores, searched
from jstrace.scale import batching

FORMAT, VERSION = "jstrace-trace", 1
_MOST_LAYERS = 10_000
"""As of a model that is read."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trace(ByValue):
    """The nested traces of one input: all Z masks in one uint8 stratum per edge. Arrays are numpy's, of the true T.

    It is a record on the host, with texts and a config, and no pytree: ``scores``, ``strata`` and what ``mask`` and
    ``masks`` give are, for ``jax.jit`` and ``jax.vmap``. Two of them are equal where all that they hold is.
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
    """The tokens as one text, if the model has a tokenizer: a character may be several tokens, whose texts joined are
    not it."""
    score_replace: str = ""
    """What ablated edges carried while gradients were taken; empty where the score takes none, or a file of an older
    version does not say."""

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
        replace: str = "zero",
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
          replace: what ablated edges carry in evaluations of it: "zero", or "mean" or "resample" of the texts that
            come with jstrace. For others give ``evaluate`` a ``replace`` and a ``reference``.

        Raises:
          InputError: tokens, scores, a replacement or sizes that make no sense.
        """
        single, rows = tokenised(model, tokens)
        if not single:
            raise InputError("from_scores takes one input: a text or its token ids")
        (ids,), config = rows, model.config
        full_graph.check_slots(config, len(ids), batching.bucket)
        own, n_edges = checked_scores(scores, config, len(ids)), full_graph.n_edges(config, len(ids))
        sizes, first = checked_sizes(sizes), checked_frozen(frozen)
        cuts = edge_counts(sizes, n_edges)
        return Trace(
            tokens=ids,
            token_texts=token_texts(model, ids),
            text=whole_text(model, ids),
            config=config,
            n_edges=n_edges,
            sizes=sizes,
            counts=cuts,
            scores=own,
            strata=searched(own, cuts, config, first, checked_order(order)),
            score=str(score),
            frozen=first,
            model_fingerprint=model.fingerprint(),
            order=order,
            replace=checked_replace(replace),
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
        return edges_where(self.mask(k, size=size), self.scores, self.strata)

    def to_networkx(self, k: SupportsIndex | None = None, *, size: float | None = None) -> Any:
        """A trace, given as for ``mask``, as a ``networkx.MultiDiGraph`` from embeddings to the output.

        Nodes are ``(level, token)`` of all edges: level 2l enters layer l, 2l + 1 is past its attention and the last
        is the output's; with parallel blocks there are none in between, and level l enters layer l. They have
        ``token`` (its text, or id) and ``position``; edges ``kind``, ``layer``, ``head`` (None but for attn), ``score``
        and ``stratum`` (the index of the smallest trace that holds it). Several heads, or the MLP and the residual
        stream, may join the same two nodes. Needs networkx.

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
        found = searched(self.scores, cuts, self.config, self.frozen, self.order)
        first = jax.tree.map(lambda leaf: leaf == 0, found)
        return edges_where(first, self.scores, self.strata)

    def composition(self) -> Composition:
        """What each trace is made of (section 5 of the method)."""
        return compose(self.strata, len(self.sizes), parallel=self.config.parallel)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing."""
        archives.write(Path(path), _header(self), _arrays(self))

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, not a trace, of a newer version, or damaged.
        """
        path = Path(path)
        with archives.reading(path, "trace"):
            header, arrays = archives.read(path, kind=FORMAT, version=VERSION, check=_check_outlines)
            found = _assembled(header, arrays)
            check(found, f"{path}: ")
        return found

    def __repr__(self) -> str:
        """Short: the arrays of a trace hold hundreds of thousands of numbers."""
        sizes = f"{len(self.sizes)} sizes from {self.sizes[0]:g} to {self.sizes[-1]:g}"
        under = f", scored under {self.score_replace!r}" if self.score_replace else ""
        replace = "" if self.replace in ("zero", self.score_replace) else f", replace {self.replace!r}"
        told = f"score {self.score!r}{under}{replace}"
        return f"Trace({len(self.tokens)} tokens, {self.n_edges:,} edges, {sizes}, {told})"

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
                found = min(range(len(known)), key=lambda index: (abs(known[index] - float(size)), -index))
                close = math.isclose(known[found], float(size), rel_tol=1e-6)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"size = {size!r}, expected a number") from error
            if not close:
                raise InputError(f"size = {size}: not one of this trace's sizes {known}")
            return found
        try:
            if isinstance(k, bool | np.bool_):
                raise TypeError
            index = operator.index(k)
        except TypeError as error:
            raise InputError(f"k = {k!r}: an index is an integer; for a size use mask(size={k!r})") from error
        if not 0 <= index <= len(self.sizes):
            raise InputError(f"k = {index}, expected 0 to {len(self.sizes)} (the full graph)")
        return index


# --- on disk --------------------------------------------------------------------------------------------------------


def _header(trace: Trace) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(trace.config),
        "model_fingerprint": trace.model_fingerprint,
        "n_edges": trace.n_edges,
        "sizes": trace.sizes,
        "importance": trace.score,
        "frozen": trace.frozen,
        "seed": trace.seed,
        "order": trace.order,
        "replace": trace.replace,
        "score_replace": trace.score_replace,
        "token_texts": trace.token_texts,
        "text": trace.text,
        **({"reference": trace.reference} if trace.reference else {}),
    }


def _arrays(trace: Trace) -> dict[str, np.ndarray]:
    """The arrays under the names of ``EdgeTree``."""
    trees = {"scores": trace.scores, "strata": trace.strata}
    arrays = {f"{kind}.{name}": leaf for kind, tree in trees.items() for name, leaf in tree.items()}
    return {"tokens": trace.tokens, **arrays}


def _check_outlines(header: dict[str, Any], outlines: Mapping[str, archives.Outline]) -> None:
    """Refuse arrays of other shapes than the config and the number of tokens ask for, before they are read."""
    config, (n_tokens,) = ModelConfig.from_json(header["config"]), outlines["tokens"].shape
    if not 0 < config.n_layers <= _MOST_LAYERS or not config.n_heads > 0:
        raise ValueError(f"its config has {config.n_layers} layers and {config.n_heads} heads")
    full_graph.check_slots(config, n_tokens)
    if full_graph.n_edges(config, n_tokens) != header["n_edges"]:
        raise ValueError("its tokens and its number of edges do not belong together")
    shapes = edge_shapes(config.n_layers, config.n_heads, n_tokens)
    kinds = {"scores": np.float32, "strata": np.uint8}
    wanted = {f"{name}.{kind}": (shapes[kind], np.dtype(kinds[name])) for name in kinds for kind in EDGE_KINDS}
    wanted["tokens"] = ((n_tokens,), np.dtype(np.int32))
    for name, outline in outlines.items():
        if wanted.pop(name, None) != outline:
            raise ValueError(f"{name} is {outline.dtype}{outline.shape}, which a trace of {n_tokens} tokens has not")
    if wanted:
        raise ValueError(f"{', '.join(wanted)} missing")


def _assembled(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trace:
    trees = {kind: EdgeTree(**{f: arrays[f"{kind}.{f}"] for f in EDGE_KINDS}) for kind in ("scores", "strata")}
    if header["token_texts"] is not None and not isinstance(header["token_texts"], list):
        raise TypeError("its tokens are no list of texts")
    sizes, given = checked_sizes(header["sizes"]), header["token_texts"]
    texts = None if given is None else tuple(map(_text, given))
    whole = header.get("text", None if texts is None else "".join(texts))  # files of 0.2.0 and before have none
    return Trace(
        tokens=arrays["tokens"],
        token_texts=texts,
        text=None if whole is None else _text(whole),
        config=ModelConfig.from_json(header["config"]),
        n_edges=header["n_edges"],
        sizes=sizes,
        counts=edge_counts(sizes, header["n_edges"]),
        score=_text(header["importance"]),
        frozen=checked_frozen(header["frozen"]),
        seed=checked_seed(header["seed"]),
        model_fingerprint=_text(header["model_fingerprint"]),
        order=checked_order(header.get("order", "best-first")),
        replace=_text(header.get("replace", "zero")),
        reference=_text(header.get("reference", "")),
        score_replace=_text(header.get("score_replace", _scored_before(header))),
        **trees,
    )


def _scored_before(header: dict[str, Any]) -> str:
    """What scores were made under, of files that say one thing alone: zero, too, where scores took no gradients."""
    name = header.get("replace", "zero")
    return name if name != "zero" or header["importance"] in GRADIENTS else ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # half of a letter is none
    return value
