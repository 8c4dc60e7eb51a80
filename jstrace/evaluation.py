"""Masked evaluation: every trace of a batch of inputs in one compiled, vmapped call (sections 4 to 6)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, UInt8

from jstrace import batching, measures
from jstrace.graph import NO_EDGE
from jstrace.measures import Measures, measure
from jstrace.model import Model
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, live_rows, masked_forward
from jstrace.tracing import Trace, widened

ABLATIONS = ("all", "residual+mlp")
"""Which edges masks act on: all, or all but attention."""

N_TOP = 10
"""Tokens of the full graph's prediction that are kept."""


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
        return np.max(np.where(self.nucleus, measures.NUCLEUS_LEVELS, 0.0), axis=-1)


@dataclasses.dataclass(frozen=True)
class Condition:
    """How masks are made from strata; static."""

    ablate: str = "all"
    pre_softmax: bool = False
    inverse: bool = False

    def keep(self, strata: EdgeTree, bound: UInt8[Array, ""]) -> EdgeTree:
        """Mask of the edges whose stratum is below ``bound``; of the others, if inverse."""

        def traced(stratum: Array) -> Array:
            return (stratum >= bound) & (stratum != NO_EDGE) if self.inverse else stratum < bound

        def every(stratum: Array) -> Array:
            return stratum != NO_EDGE

        residual = every if self.inverse else traced
        return EdgeTree(
            residual_attn=residual(strata.residual_attn),
            attn=(traced if self.ablate == "all" else every)(strata.attn),
            residual_mlp=residual(strata.residual_mlp),
            mlp=traced(strata.mlp),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchResult:
    """Measures ``[B, Z + 1]`` and the full graph's most probable tokens ``[B, N]``."""

    measures: Measures
    full_tokens: Int[AnyArray, "*B N"]
    full_probs: Float32[AnyArray, "*B N"]


@overload
def evaluate(
    model: Model, traces: Trace, *, ablate: str = ..., pre_softmax: bool = ..., inverse: bool = ...,
    next_token: int | None = ..., progress: Callable[[int, int], None] | None = ...,
) -> Evaluation: ...  # fmt: skip
@overload
def evaluate(
    model: Model, traces: Sequence[Trace], *, ablate: str = ..., pre_softmax: bool = ..., inverse: bool = ...,
    next_token: Sequence[int] | None = ..., progress: Callable[[int, int], None] | None = ...,
) -> list[Evaluation]: ...  # fmt: skip
def evaluate(
    model: Model,
    traces: Trace | Sequence[Trace],
    *,
    ablate: str = "all",
    pre_softmax: bool = False,
    inverse: bool = False,
    next_token: int | Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | list[Evaluation]:
    """Run every trace as a masked forward and measure how much of the prediction it keeps.

    Args:
      model: the model that the traces came from.
      traces: one trace, or a list of traces of the same sizes, evaluated in batches.
      ablate: "all" masks every edge; "residual+mlp" leaves all attention edges in place.
      pre_softmax: attention masks enter the softmax instead of following it.
      inverse: remove the attention and MLP edges of each trace instead of keeping them ("necessity").
      next_token: the true next token (one for each trace), for surprisal and rank.
      progress: called with the number of inputs done and in all.

    Raises:
      InputError: a trace of another model's shape, or arguments that make no sense.
    """
    rows = [traces] if isinstance(traces, Trace) else list(traces)
    if ablate not in ABLATIONS:
        raise InputError(f"ablate = {ablate!r}, expected one of {', '.join(ABLATIONS)}")
    condition = Condition(ablate, pre_softmax, inverse)
    true_next = _checked_next(model, rows, next_token)
    for row in rows:
        _check_origin(model, row)
    results: dict[int, Evaluation] = {}
    for members in _batches(rows):
        batch = [rows[index] for index in members]
        chosen = None if true_next is None else [true_next[index] for index in members]
        for index, result in zip(members, _run_batch(model, batch, condition, chosen), strict=True):
            results[index] = result
        if progress is not None:
            progress(len(results), len(rows))
    ordered = [results[index] for index in range(len(rows))]
    return ordered[0] if isinstance(traces, Trace) else ordered


def _batches(rows: list[Trace]) -> list[list[int]]:
    """Indices to run together: equal numbers of sizes and equal buckets."""
    found: list[list[int]] = []
    for n_sizes in sorted({len(row.sizes) for row in rows}):
        alike = [index for index, row in enumerate(rows) if len(row.sizes) == n_sizes]
        found += [[alike[i] for i in members] for members in batching.batches([len(rows[j].tokens) for j in alike])]
    return found


def _checked_next(model: Model, rows: list[Trace], next_token: int | Sequence[int] | None) -> list[int] | None:
    if next_token is None:
        return None
    given = np.atleast_1d(np.asarray(next_token))
    if len(given) != len(rows) or not np.issubdtype(given.dtype, np.integer):
        raise InputError(f"next_token: expected {len(rows)} token ids, one for each trace, got {next_token!r}")
    wrong = given[(given < 0) | (given >= model.config.vocab_size)]
    if wrong.size:
        raise InputError(f"next_token {wrong[0]} is outside the vocabulary of {model.config.vocab_size}")
    return [int(token) for token in given]


def _check_origin(model: Model, row: Trace) -> None:
    """Refuse traces of other models. A trace with an empty fingerprint may come from any model of the same shape."""
    c, t = model.config, len(row.tokens)
    rows, maps = (c.n_layers, t), (c.n_layers, c.n_heads, t, t)
    for (name, leaf), expected in zip(row.strata.items(), (rows, maps, rows, rows), strict=True):
        if leaf.shape != expected:
            raise InputError(f"strata {name} have shape {leaf.shape}, this model's {expected}: another model's trace")
    if int(row.tokens.max()) >= c.vocab_size:
        raise InputError("the trace has tokens outside this model's vocabulary: another model's trace")
    if row.model_fingerprint and row.model_fingerprint != model.fingerprint():
        raise InputError(
            f"the trace was made with model {row.model_fingerprint}, this is {model.fingerprint()}; to evaluate it"
            ' here all the same, use dataclasses.replace(trace, model_fingerprint="")'
        )


def _run_batch(
    model: Model, rows: list[Trace], condition: Condition, next_tokens: list[int] | None
) -> list[Evaluation]:
    width = batching.bucket(len(rows[0].tokens))
    tokens, lengths = batching.padded([row.tokens for row in rows], width)
    wide = (widened(row.strata, width, np.uint8(NO_EDGE)) for row in rows)
    strata = jax.tree.map(lambda *leaves: batching.filled(leaves, NO_EDGE), *wide)
    chosen = batching.filled([np.asarray(token, np.int32) for token in next_tokens or [0] * len(rows)])
    n_sizes = len(rows[0].sizes)
    result = jax.device_get(
        evaluate_batch(model.decoder, tokens, lengths, strata, chosen, n_sizes=n_sizes, condition=condition)
    )
    return [_one(result, i, row, condition, next_tokens is not None) for i, row in enumerate(rows)]


def _one(result: BatchResult, index: int, row: Trace, condition: Condition, with_next: bool) -> Evaluation:
    m: Measures = jax.tree.map(lambda leaf: leaf[index], result.measures)
    return Evaluation(
        sizes=row.sizes,
        tv=m.tv,
        kl=m.kl,
        nucleus=m.nucleus,
        nucleus_unordered=m.nucleus_unordered,
        top_token=m.top_token,
        entropy=m.entropy,
        surprisal=m.surprisal if with_next else None,
        rank=m.rank if with_next else None,
        density=None if condition.inverse else measures.density(row.sizes, m.tv),
        full_tokens=result.full_tokens[index],
        full_probs=result.full_probs[index],
        **dataclasses.asdict(condition),
    )


@functools.partial(jax.jit, static_argnames=("n_sizes", "condition"))
def evaluate_batch(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: EdgeTree,
    next_tokens: Int[Array, "B"],
    *,
    n_sizes: int,
    condition: Condition,
) -> BatchResult:
    """All Z + 1 masked forwards of a batch, reduced to measures on the device; one compiled call."""
    # Row k keeps the strata below k + 1. Inverse rows lack them, so there the full graph is one row more, at 0.
    bounds = jnp.asarray([*range(1, n_sizes + 2), *([0] if condition.inverse else [])], jnp.uint8)

    def predict(tokens: Array, length: Array, strata: EdgeTree, bound: Array) -> Array:
        return masked_forward(
            decoder,
            tokens,
            strata,
            keep=functools.partial(condition.keep, bound=bound),
            length=length,
            pre_softmax=condition.pre_softmax,
            row_map=live_rows,
        )

    def one(tokens: Array, length: Array, strata: EdgeTree, next_token: Array) -> BatchResult:
        logits = jax.vmap(predict, in_axes=(None, None, None, 0))(tokens, length, strata, bounds)
        probs, top = jax.lax.top_k(jax.nn.softmax(logits[-1]), min(N_TOP, logits.shape[-1]))
        return BatchResult(measure(logits[: n_sizes + 1], logits[-1], next_token), top, probs)

    return jax.vmap(one)(tokens, lengths, strata, next_tokens)
