"""Masked evaluation: every trace of a batch of inputs in one compiled, vmapped call (sections 4 to 6)."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float32, Int, UInt8

from jstrace import batching, devices, measures, memory
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

    def ranges(self, n_sizes: int) -> UInt8[np.ndarray, "N 3 2"]:
        """Of residual, attention and MLP edges the first stratum and the one after the last that each row keeps.

        Row k is trace k, and the last row the full graph. Inverse rows lack trace k, and after them all stands one row
        more, the full graph. Ranges end at 255 at most, which marks slots that are no edge.
        """
        k = np.arange(1, n_sizes + 2, dtype=np.uint8)
        every = np.stack([np.zeros_like(k), np.full_like(k, NO_EDGE)], axis=-1)
        traced = np.stack([k, every[:, 1]] if self.inverse else [every[:, 0], k], axis=-1)
        rows = np.stack([every if self.inverse else traced, traced if self.ablate == "all" else every, traced], axis=1)
        return np.concatenate([rows, np.stack([every[:1]] * 3, axis=1)]) if self.inverse else rows


def kept(strata: EdgeTree, ranges: UInt8[Array, "3 2"]) -> EdgeTree:
    """Mask of the edges whose strata lie in the ranges of their kind, as ``Condition.ranges`` gives them."""

    def within(stratum: Array, kind: int) -> Array:
        return (stratum >= ranges[kind, 0]) & (stratum < ranges[kind, 1])

    return EdgeTree(
        residual_attn=within(strata.residual_attn, 0),
        attn=within(strata.attn, 1),
        residual_mlp=within(strata.residual_mlp, 0),
        mlp=within(strata.mlp, 2),
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

    def run(members: list[int], n_rows: int) -> list[Evaluation]:
        chosen = None if true_next is None else [true_next[index] for index in members]
        return _run_batch(model, [rows[index] for index in members], condition, chosen, n_rows)

    for n_sizes in sorted({len(row.sizes) for row in rows}):
        most = functools.partial(_most, model, n_sizes)
        alike = {index: len(row.tokens) for index, row in enumerate(rows) if len(row.sizes) == n_sizes}
        for members, batch in batching.in_batches(alike, most, run, n_devices=devices.n_data(model.mesh)):
            results |= dict(zip(members, batch, strict=True))
            if progress is not None:
                progress(len(results), len(rows))
    ordered = [results[index] for index in range(len(rows))]
    return ordered[0] if isinstance(traces, Trace) else ordered


def _most(model: Model, n_sizes: int, width: int) -> int:
    """Inputs that each device evaluates in one call."""
    each = memory.evaluate_bytes(model.config, width, n_sizes, model.dtype.itemsize)
    return memory.batch_inputs(model.decoder, width, each)


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
    model: Model, rows: list[Trace], condition: Condition, next_tokens: list[int] | None, n_rows: int
) -> list[Evaluation]:
    width = batching.bucket(len(rows[0].tokens))
    wide = (widened(row.strata, width, np.uint8(NO_EDGE)) for row in rows)
    strata = jax.tree.map(lambda *leaves: batching.filled(leaves, n_rows, NO_EDGE), *wide)
    chosen = batching.filled([np.asarray(token, np.int32) for token in next_tokens or [0] * len(rows)], n_rows)
    batch = (*batching.padded([row.tokens for row in rows], width, n_rows), strata, chosen)
    n_sizes, mesh = len(rows[0].sizes), model.mesh
    result = devices.fetched(
        evaluate_batch(model.decoder, *devices.placed(batch, mesh), n_sizes=n_sizes, condition=condition, mesh=mesh)
    )
    with_next = next_tokens is not None
    return [one_of(result, i, row.sizes, condition, with_next=with_next) for i, row in enumerate(rows)]


def one_of(
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
        density=None if condition.inverse else measures.density(sizes, m.tv),
        full_tokens=result.full_tokens[index],
        full_probs=result.full_probs[index],
        **dataclasses.asdict(condition),
    )


@functools.partial(jax.jit, static_argnames=("n_sizes", "condition", "mesh"))
def evaluate_batch(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: EdgeTree,
    next_tokens: Int[Array, "B"],
    *,
    n_sizes: int,
    condition: Condition,
    mesh: Mesh | None = None,
) -> BatchResult:
    """All Z + 1 masked forwards of a batch, reduced to measures on the device; one compiled call.

    On a mesh inputs are divided over its ``data`` axis, and sizes where there are fewer inputs than devices.
    """
    (result,) = evaluate_cases(
        decoder, tokens, lengths, (strata,), next_tokens, n_sizes=n_sizes, cases=((0, condition),), mesh=mesh
    )
    return result


@functools.partial(jax.jit, static_argnames=("n_sizes", "cases", "mesh"))
def evaluate_cases(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: tuple[EdgeTree, ...],
    next_tokens: Int[Array, "B"],
    *,
    n_sizes: int,
    cases: tuple[tuple[int, Condition], ...],
    mesh: Mesh | None = None,
) -> tuple[BatchResult, ...]:
    """Many conditions on a batch in one compiled call, one after another through the same program.

    Args:
      decoder, tokens, lengths, next_tokens, n_sizes, mesh: as in ``evaluate_batch``.
      strata: the different strata of the batch.
      cases: for each result the index of its strata, and its condition.
    """
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *strata) if len(strata) > 1 else strata[0]
    results: dict[int, BatchResult] = {}
    for pre_softmax in (False, True):  # the one thing that needs a program of its own
        chosen = [index for index, (_, condition) in enumerate(cases) if condition.pre_softmax == pre_softmax]
        if chosen:
            alike = [cases[index] for index in chosen]
            found = _evaluate_alike(decoder, tokens, lengths, stacked, next_tokens, alike, n_sizes, mesh)
            results |= dict(zip(chosen, found, strict=True))
    return tuple(results[index] for index in range(len(cases)))


def _evaluate_alike(
    decoder: Decoder,
    tokens: Array,
    lengths: Array,
    strata: EdgeTree,
    next_tokens: Array,
    cases: Sequence[tuple[int, Condition]],
    n_sizes: int,
    mesh: Mesh | None,
) -> list[BatchResult]:
    """Cases that differ in numbers only: their strata, or those of all of them, and the ranges of their rows."""
    several, pre_softmax = strata.mlp.ndim > 3, cases[0][1].pre_softmax
    share = 1 if mesh is None else devices.divided(mesh, tokens.shape[0]).shape[devices.SIZES]
    ranges, full = _dealt([condition.ranges(n_sizes) for _, condition in cases], share)

    def local(
        decoder: Decoder,
        tokens: Array,
        lengths: Array,
        strata: EdgeTree,
        next_tokens: Array,
        ranges: Array,
        full: Array,
    ) -> tuple[Measures, Array, Array]:
        def one(case: tuple[Array, Array, Array]) -> tuple[Measures, Array, Array]:
            source, ranges, full = case
            own = jax.tree.map(lambda leaf: leaf[source], strata) if several else strata
            logits = _predict(decoder, tokens, lengths, own, ranges, pre_softmax)
            reference = jnp.sum(jnp.where(full[:, None], logits, 0.0), axis=1)
            if share > 1:
                reference = jax.lax.psum(reference, devices.SIZES)  # all but one device bring zeros
            return _compared(logits, reference, next_tokens)

        sources = jnp.asarray([source for source, _ in cases])
        if len(cases) > 1:
            return jax.lax.map(one, (sources, ranges, full))
        return jax.tree.map(lambda leaf: leaf[None], one((sources[0], ranges[0], full[0])))

    arguments = (decoder, tokens, lengths, strata, next_tokens, jnp.asarray(ranges), jnp.asarray(full))
    if mesh is None:
        found = local(*arguments)
    else:
        one, each, sized = PartitionSpec(), PartitionSpec(devices.INPUTS), PartitionSpec(None, devices.SIZES)
        whose, both = PartitionSpec(None, devices.INPUTS), PartitionSpec(None, devices.INPUTS, devices.SIZES)
        specs = (one, each, each, whose if several else each, each, sized, sized)
        divided = devices.divided(mesh, tokens.shape[0])
        found = devices.manual(local, divided, specs, (both, whose, whose))(*arguments)
    measured, top, probs = found
    measured = jax.tree.map(lambda leaf: _collected(leaf, share, n_sizes + 1), measured)
    whole = BatchResult(measured, top, probs)
    return [jax.tree.map(operator.itemgetter(index), whole) for index in range(len(cases))]


def _compared(
    logits: Float32[Array, "B N V"], reference: Float32[Array, "B V"], next_tokens: Array
) -> tuple[Measures, Array, Array]:
    """Measures of every row, and the reference's most probable tokens with their probabilities."""
    probs, top = jax.lax.top_k(jax.nn.softmax(reference), min(N_TOP, reference.shape[-1]))
    return jax.vmap(measure)(logits, reference, next_tokens), top, probs


@functools.partial(jax.jit, static_argnames=("pre_softmax", "mesh"))
def predict_batch(
    decoder: Decoder,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, "B"],
    strata: EdgeTree,
    ranges: UInt8[Array, "N 3 2"],
    *,
    pre_softmax: bool = False,
    mesh: Mesh | None = None,
) -> Float32[Array, "B N V"]:
    """Next-token logits with the strata of each row's ranges kept, as ``Condition.ranges`` gives them.

    On a mesh the rows must divide over the devices along ``data`` that share an input.
    """
    if mesh is None:
        return _predict(decoder, tokens, lengths, strata, ranges, pre_softmax)
    each, both = PartitionSpec(devices.INPUTS), PartitionSpec(devices.INPUTS, devices.SIZES)
    specs = (PartitionSpec(), each, each, each, PartitionSpec(devices.SIZES))
    run = devices.manual(
        functools.partial(_predict, pre_softmax=pre_softmax), devices.divided(mesh, tokens.shape[0]), specs, both
    )
    return run(decoder, tokens, lengths, strata, ranges)


def _predict(
    decoder: Decoder, tokens: Array, lengths: Array, strata: EdgeTree, ranges: Array, pre_softmax: bool
) -> Float32[Array, "B N V"]:
    """On one device: every input under every row's ranges, their tokens' rows together."""

    def one(tokens: Array, length: Array, strata: EdgeTree, ranges: Array) -> Array:
        return masked_forward(
            decoder,
            tokens,
            strata,
            keep=functools.partial(kept, ranges=ranges),
            length=length,
            pre_softmax=pre_softmax,
            row_map=live_rows,
        )

    return jax.vmap(jax.vmap(one, in_axes=(None, None, None, 0)), in_axes=(0, 0, 0, None))(
        tokens, lengths, strata, ranges
    )


def _dealt(cases: Sequence[np.ndarray], n_devices: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each case dealt out to devices like cards, as large traces cost more than small ones: ``[C, N, 3, 2]``;
    and which of them is the full graph, the last one of its case: ``[C, N]``.

    Where they do not come out even, rows that keep nothing follow.
    """
    n = -(-max(map(len, cases)) // n_devices) * n_devices
    ranges, full = np.zeros((len(cases), n, 3, 2), np.uint8), np.zeros((len(cases), n), bool)
    for index, rows in enumerate(cases):
        ranges[index, : len(rows)], full[index, len(rows) - 1] = rows, True
    order = np.arange(n).reshape(-1, n_devices).T.ravel()
    return ranges[:, order], full[:, order]


def _collected(leaf: Array, n_devices: int, n_rows: int) -> Array:
    """Rows (``[C, B, N, ...]``) in the order of sizes again, without padding."""
    if n_devices > 1:
        dealt = leaf.reshape(*leaf.shape[:2], n_devices, -1, *leaf.shape[3:])
        leaf = jnp.swapaxes(dealt, 2, 3).reshape(leaf.shape)
    return leaf[:, :, :n_rows]
