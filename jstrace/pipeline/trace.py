"""The nested traces of one input, and their file."""

from __future__ import annotations

import dataclasses
import math
import operator
from pathlib import Path
from typing import Any, SupportsIndex

import jax
import numpy as np
from jaxtyping import Int

from jstrace.method import graph
from jstrace.method.composition import Composition, compose
from jstrace.method.edges import Edge, edges_where
from jstrace.method.sizes import NO_EDGE, checked_sizes
from jstrace.method.sizes import counts as edge_counts
from jstrace.models import FAMILIES, EdgeTree, InputError, ModelConfig, edge_shapes
from jstrace.pipeline import stages, store
from jstrace.pipeline.padding import cropped, widened, with_marks
from jstrace.scale import batching

FORMAT, VERSION = "jstrace-trace", 1


@dataclasses.dataclass(frozen=True, repr=False)
class Trace:
    """The nested traces of one input: all Z masks in one uint8 stratum per edge. Arrays are numpy's, of the true T."""

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
    """float32; -1 in slots that are no edge."""
    strata: EdgeTree
    """uint8: the smallest trace that holds the edge; Z for none; 255 in slots that are no edge."""
    importance: str = "l1"
    frozen: tuple[str, ...] = ()
    seed: int = 0
    model_fingerprint: str = ""

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

    def edges(self, k: SupportsIndex | None = None, *, size: float | None = None) -> list[Edge]:
        """The edges of a trace, given as for ``mask``, highest score first."""
        return edges_where(self.mask(k, size=size), self.scores, self.strata)

    def first_edges(self, count: int) -> list[Edge]:
        """The first ``count`` edges that best-first search takes, highest score first: the trace of that size."""
        n_tokens = len(self.tokens)
        slots = graph.edge_slots(self.config, n_tokens, n_tokens)
        marked = widened(with_marks(self.scores, slots), batching.bucket(n_tokens), np.float32(np.nan))
        score = jax.tree.map(lambda leaf: leaf[None], marked)
        cuts = np.full((1, len(self.sizes)), min(count, self.n_edges), np.int32)
        found = stages.extract_batch(
            score,
            cuts,
            np.asarray([n_tokens], np.int32),
            parallel=self.config.parallel,
            frozen=self.frozen,
            signed=True,
        )
        first = jax.tree.map(lambda leaf: leaf == 0, cropped(jax.device_get(found), 0, len(self.tokens)))
        return edges_where(first, self.scores, self.strata)

    def composition(self) -> Composition:
        """What each trace is made of (section 5 of the method)."""
        return compose(self.strata, len(self.sizes), parallel=self.config.parallel)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing."""
        store.write(Path(path), _header(self), _arrays(self))

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, not a trace, of a newer version, or damaged.
        """
        path = Path(path)
        with store.reading(path, "trace"):
            header, arrays = store.read(path, kind=FORMAT, version=VERSION)
            found = _assembled(header, arrays)
            _check(found, path)
        return found

    def __repr__(self) -> str:
        """Short: the arrays of a trace hold hundreds of thousands of numbers."""
        sizes = f"{len(self.sizes)} sizes from {self.sizes[0]:g} to {self.sizes[-1]:g}"
        return f"Trace({len(self.tokens)} tokens, {self.n_edges:,} edges, {sizes}, importance {self.importance!r})"

    def _index(self, k: Any, size: float | None) -> int:
        if (k is None) == (size is None):
            raise InputError("expected an index k or a size, one of the two")
        if size is not None:
            known = [*self.sizes, 1.0]
            try:
                found = min(range(len(known)), key=lambda index: (abs(known[index] - float(size)), -index))
                close = math.isclose(known[found], float(size), rel_tol=1e-6)
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"size = {size!r}, expected a number") from error
            if not close:
                raise InputError(f"size = {size}: not one of this trace's sizes {known}")
            return found
        try:
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
        "importance": trace.importance,
        "frozen": trace.frozen,
        "seed": trace.seed,
        "token_texts": trace.token_texts,
    }


def _arrays(trace: Trace) -> dict[str, np.ndarray]:
    """The arrays under the names of ``EdgeTree``."""
    trees = {"scores": trace.scores, "strata": trace.strata}
    arrays = {f"{kind}.{name}": leaf for kind, tree in trees.items() for name, leaf in tree.items()}
    return {"tokens": trace.tokens, **arrays}


def _assembled(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trace:
    trees = {kind: EdgeTree(**{f: arrays[f"{kind}.{f}"] for f in FAMILIES}) for kind in ("scores", "strata")}
    sizes, texts = tuple(header["sizes"]), header["token_texts"]
    return Trace(
        tokens=arrays["tokens"],
        token_texts=None if texts is None else tuple(texts),
        config=ModelConfig.from_json(header["config"]),
        n_edges=header["n_edges"],
        sizes=sizes,
        counts=edge_counts(sizes, header["n_edges"]),
        importance=header["importance"],
        frozen=tuple(header["frozen"]),
        seed=header["seed"],
        model_fingerprint=header["model_fingerprint"],
        **trees,
    )


def _check(trace: Trace, path: Path) -> None:
    """Refuse arrays whose shapes and types are not those of the config."""
    c, t = trace.config, len(trace.tokens)
    if trace.tokens.ndim != 1 or trace.tokens.dtype != np.int32 or graph.n_edges(c, t) != trace.n_edges:
        raise InputError(f"{path}: its tokens and its number of edges do not belong together")
    if trace.tokens.min() < 0 or trace.tokens.max() >= c.vocab_size:
        raise InputError(f"{path}: its tokens are outside the vocabulary of {c.vocab_size}")
    if trace.token_texts is not None and len(trace.token_texts) != t:
        raise InputError(f"{path}: {len(trace.token_texts)} texts for {t} tokens")
    checked_sizes(trace.sizes)
    expected = edge_shapes(c.n_layers, c.n_heads, t)
    for kind, dtype in (("scores", np.float32), ("strata", np.uint8)):
        for name, leaf in getattr(trace, kind).items():
            if leaf.shape != expected[name] or leaf.dtype != dtype:
                raise InputError(f"{path}: {kind}.{name} is {leaf.dtype}{leaf.shape}, expected {dtype}{expected[name]}")
    held = np.bincount(np.concatenate([np.ravel(leaf) for _, leaf in trace.strata.items()]), minlength=256)
    if held[:NO_EDGE].sum() != trace.n_edges or (np.cumsum(held)[: len(trace.sizes)] != trace.counts).any():
        raise InputError(f"{path}: its strata do not hold the edges that its sizes ask for")
