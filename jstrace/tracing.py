"""Traces: from a text to the strata of its edges, and their readable and saved forms."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from jstrace import batching, devices, graph, memory, scores
from jstrace.composition import Composition, compose
from jstrace.extraction import checked_frozen, extract_pooled, extract_whole
from jstrace.graph import SIZES, Edge
from jstrace.model import Model
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, ModelConfig

Tokens = str | Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
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

    def mask(self, k: int) -> EdgeTree:
        """The bool mask of trace ``k``; ``k = Z`` is the full graph."""
        return jax.tree.map(lambda stratum: stratum <= self._index(k), self.strata)

    def masks(self) -> EdgeTree:
        """The bool masks of all traces and of the full graph, on a leading axis of Z + 1, for ``jax.vmap``."""
        return jax.tree.map(lambda *masks: np.stack(masks), *(self.mask(k) for k in range(len(self.sizes) + 1)))

    def edges(self, k: int) -> list[Edge]:
        """The edges of trace ``k``, highest score first; ``k = Z`` is the full graph."""
        return graph.edges_where(self.mask(k), self.scores, self.strata)

    def first_edges(self, count: int) -> list[Edge]:
        """The first ``count`` edges that best-first search takes, highest score first: the trace of that size."""
        width = batching.bucket(len(self.tokens))
        score = jax.tree.map(lambda leaf: leaf[None], widened(self.scores, width, np.float32(-1)))
        cuts = np.full((1, len(self.sizes)), min(count, self.n_edges), np.int32)
        lengths = np.asarray([len(self.tokens)], np.int32)
        found = extract_batch(score, cuts, lengths, parallel=self.config.parallel, frozen=self.frozen)
        first = jax.tree.map(lambda leaf: leaf == 0, cropped(jax.device_get(found), 0, len(self.tokens)))
        return graph.edges_where(first, self.scores, self.strata)

    def composition(self) -> Composition:
        """What each trace is made of (section 5 of the method)."""
        return compose(self.strata, len(self.sizes), parallel=self.config.parallel)

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing."""
        from jstrace.store import save_trace

        save_trace(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Trace:
        """Read a file written by ``save``."""
        from jstrace.store import load_trace

        return load_trace(Path(path))

    def _index(self, k: int) -> int:
        if not 0 <= k <= len(self.sizes):
            raise InputError(f"k = {k}, expected 0 to {len(self.sizes)} (the full graph)")
        return k


@overload
def trace(  # type: ignore[overload-overlap]
    model: Model, inputs: Tokens, *, importance: str = ..., sizes: Sequence[float] = ..., frozen: Sequence[str] = ...,
    seed: int = ..., progress: Callable[[int, int], None] | None = ...,
) -> Trace: ...  # fmt: skip
@overload
def trace(
    model: Model, inputs: Sequence[Tokens], *, importance: str = ..., sizes: Sequence[float] = ...,
    frozen: Sequence[str] = ..., seed: int = ..., progress: Callable[[int, int], None] | None = ...,
) -> list[Trace]: ...  # fmt: skip
def trace(
    model: Model,
    inputs: Tokens | Sequence[Tokens],
    *,
    importance: str = "l1",
    sizes: Sequence[float] = SIZES,
    frozen: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Trace | list[Trace]:
    """Trace one input or a list of them: the nested sub-graphs that best-first search keeps at each size.

    Args:
      model: from ``jstrace.load``.
      inputs: a text, or token ids; a list of either gives a list of traces, computed in batches.
      importance: the edge score: "l1" (the paper's), "l2", "ifr", "cosine" or "random".
      sizes: fractions of all edges, strictly increasing, at most 254.
      frozen: components that rank before all others: any of "residual", "attention", "mlp".
      seed: of random scores.
      progress: called with the number of inputs done and in all.

    Raises:
      InputError: an input without tokens or with ids outside the vocabulary, or arguments that make no sense.
    """
    single, rows = tokenised(model, inputs)
    scores.checked_importance(importance)
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise InputError(f"seed = {seed!r}, expected an integer") from error
    if not 0 <= seed < 2**31:
        raise InputError(f"seed = {seed}, expected 0 to {2**31 - 1}")
    options = Options(importance, graph.checked_sizes(sizes), checked_frozen(frozen), seed)
    lengths = [len(row) for row in rows]
    edges = [graph.n_edges(model.config, length) for length in lengths]
    mark = model.fingerprint()
    results: dict[int, Trace] = {}

    def run(members: list[int], n_rows: int) -> list[tuple[EdgeTree, EdgeTree]]:
        return _run_batch(model, [rows[i] for i in members], [edges[i] for i in members], options, n_rows)

    most, n_devices = functools.partial(_most, model, options), devices.n_data(model.mesh)
    for members, batch in batching.in_batches(dict(enumerate(lengths)), most, run, n_devices=n_devices):
        for index, (score, strata) in zip(members, batch, strict=True):
            _refuse_nan(score, rows[index], index, single)
            results[index] = _assemble(model, rows[index], edges[index], score, strata, options, mark)
        if progress is not None:
            progress(len(results), len(rows))
    ordered = [results[index] for index in range(len(rows))]
    return ordered[0] if single else ordered


@dataclasses.dataclass(frozen=True)
class Options:
    """What a trace depends on besides its input."""

    importance: str
    sizes: tuple[float, ...]
    frozen: tuple[str, ...]
    seed: int


def tokenised(model: Model, inputs: Tokens | Sequence[Tokens]) -> tuple[bool, list[np.ndarray]]:
    """Whether ``inputs`` is a single one, and the token ids of each."""
    if not hasattr(inputs, "__len__"):
        raise InputError(f"expected a text, token ids or a list of them, got {type(inputs).__name__}")
    first = inputs[0] if len(inputs) else 0
    single = isinstance(inputs, str) or (np.ndim(first) == 0 and not isinstance(first, str))
    rows: Sequence[Tokens] = [inputs] if single else inputs  # type: ignore[list-item,assignment]
    return single, [_token_ids(model, row, "" if single else f"input {i}: ") for i, row in enumerate(rows)]


def _token_ids(model: Model, row: Tokens, where: str) -> np.ndarray:
    if isinstance(row, str):
        if model.tokenizer is None:
            raise InputError(f"{where}this model came without a tokenizer; pass token ids")
        if not row.strip():
            raise InputError(f"{where}the text is empty; a trace needs at least one token")
        try:
            row.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where}the text is not valid Unicode ({error.reason} at {error.start})") from error
        row = model.tokenizer.encode(row)
    try:
        ids = np.asarray(row)
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}token ids must be a flat list of integers") from error
    if ids.size == 0:
        raise InputError(f"{where}no tokens: a trace needs at least one")
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{where}token ids must be a flat list of integers, got {ids.dtype} of shape {ids.shape}")
    wrong = ids[(ids < 0) | (ids >= model.config.vocab_size)]
    if wrong.size:
        raise InputError(f"{where}token id {wrong[0]} is outside the vocabulary of {model.config.vocab_size}")
    if model.config.learned_positions and ids.size > model.config.max_positions:
        raise InputError(
            f"{where}{ids.size} tokens, more than the {model.config.max_positions} positions of this model"
        )
    return ids.astype(np.int32)


def _most(model: Model, options: Options, width: int) -> int:
    """Inputs that each device traces in one call."""
    whole = options.importance == "random"  # whose groups at cuts are large
    each = memory.trace_bytes(model.config, width, len(options.sizes), model.dtype.itemsize, whole=whole)
    return memory.batch_inputs(model.decoder, width, each)


def _run_batch(
    model: Model, rows: list[np.ndarray], edges: list[int], options: Options, n_rows: int
) -> list[tuple[EdgeTree, EdgeTree]]:
    """Scores and strata of one batch, as numpy arrays of each input's true length."""
    width = batching.bucket(len(rows[0]))
    graph.check_slots(model.config, width)
    counts = batching.filled([graph.counts(options.sizes, count) for count in edges], n_rows)
    tokens, lengths, cuts = devices.placed((*batching.padded(rows, width, n_rows), counts), model.mesh)
    score = score_batch(model.decoder, tokens, lengths, options.seed, importance=options.importance, mesh=model.mesh)
    strata = extract_batch(score, cuts, lengths, parallel=model.config.parallel, frozen=options.frozen, mesh=model.mesh)
    host = devices.fetched((score, strata))
    return [tuple(cropped(tree, i, len(row)) for tree in host) for i, row in enumerate(rows)]  # type: ignore[misc]


@functools.partial(jax.jit, static_argnames=("importance", "mesh"))
def score_batch(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    seed: Int[Array, ""] | int,
    *,
    importance: str,
    mesh: Mesh | None = None,
) -> EdgeTree:
    """Edge scores of a padded batch, compiled once a shape; on a mesh every device scores its own inputs."""

    def score(decoder: Decoder, tokens: Array, lengths: Array) -> EdgeTree:
        one = functools.partial(scores.edge_scores, importance=importance, seed=seed)
        return jax.vmap(one, in_axes=(None, 0, 0))(decoder, tokens, lengths)

    return devices.over_inputs(score, mesh, tokens.shape[0])(decoder, tokens, lengths)


def extract_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> EdgeTree:
    """Strata of a padded batch.

    Nearly always the lean program does. Where groups at cuts are too large for its pool (many equal or random scores),
    a second one runs, which is compiled, and whose memory is taken, only then.
    """
    strata, complete = extract_pooled_batch(score, cuts, lengths, parallel=parallel, frozen=frozen, mesh=mesh)
    if complete:
        return strata
    return extract_whole_batch(score, cuts, lengths, parallel=parallel, frozen=frozen, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("parallel", "frozen", "mesh"))
def extract_pooled_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """Strata of a padded batch and whether all of them are right, compiled once a shape."""
    extract = jax.vmap(functools.partial(extract_pooled, parallel=parallel, frozen=frozen))
    strata, complete = devices.over_inputs(extract, mesh, lengths.shape[0], whole=True)(score, cuts, lengths)
    return strata, jnp.all(complete)


@functools.partial(jax.jit, static_argnames=("parallel", "frozen", "mesh"))
def extract_whole_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    mesh: Mesh | None = None,
) -> EdgeTree:
    """Strata of a padded batch whatever its groups, compiled once a shape."""
    extract = jax.vmap(functools.partial(extract_whole, parallel=parallel, frozen=frozen))
    return devices.over_inputs(extract, mesh, lengths.shape[0], whole=True)(score, cuts, lengths)


def cropped(tree: EdgeTree, index: int, length: int) -> EdgeTree:
    """One input of a padded batch at its true length."""
    return EdgeTree(
        **{
            name: leaf[index][..., :length, :length] if name == "attn" else leaf[index][..., :length]
            for name, leaf in tree.items()
        }
    )


def widened(tree: EdgeTree, width: int, no_edge: np.generic) -> EdgeTree:
    """The inverse of ``cropped``: one input padded to ``width`` tokens with slots that are no edge."""

    def pad(leaf: np.ndarray, token_axes: int) -> np.ndarray:
        extra = [(0, 0)] * (leaf.ndim - token_axes) + [(0, width - leaf.shape[-1])] * token_axes
        return np.pad(leaf, extra, constant_values=no_edge)

    return EdgeTree(**{name: pad(np.asarray(leaf), 2 if name == "attn" else 1) for name, leaf in tree.items()})


def _refuse_nan(score: EdgeTree, tokens: np.ndarray, index: int, single: bool) -> None:
    for layer in range(score.mlp.shape[0]):
        for name, leaf in score.items():
            if not np.isfinite(leaf[layer]).all():
                where = "" if single else f"input {index}: "
                raise InputError(
                    f"{where}the forward pass over {len(tokens)} tokens is not finite at {name} of layer {layer};"
                    " try dtype float32"
                )


def _assemble(
    model: Model, tokens: np.ndarray, edges: int, score: EdgeTree, strata: EdgeTree, options: Options, mark: str
) -> Trace:
    tokenizer = model.tokenizer
    return Trace(
        tokens=tokens,
        token_texts=None if tokenizer is None else tuple(tokenizer.token(int(token)) for token in tokens),
        config=model.config,
        n_edges=edges,
        sizes=options.sizes,
        counts=graph.counts(options.sizes, edges),
        scores=score,
        strata=strata,
        importance=options.importance,
        frozen=options.frozen,
        seed=options.seed,
        model_fingerprint=mark,
    )
