"""Masks of one's own through the masked forwards: the same measures as of traces (sections 4 and 5 of the method)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jstrace.method.conditions import Condition
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import SIZES
from jstrace.method.questions import NOTHING, Question
from jstrace.models import (
    AnyArray,
    Decoder,
    EdgeTree,
    InputError,
    Model,
    Replacement,
    hidden_states,
    live_rows,
    masked_forward,
)
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.comparing import BatchResult, averaged, compared
from jstrace.pipeline.evaluation import Evaluation, evaluation_of
from jstrace.pipeline.footprint import masks_bytes, replacement_bytes, wide_bytes
from jstrace.pipeline.replacing import Replacing
from jstrace.scale import batching, hosts, memory

_ROWS = len(SIZES)
"""Masks of one call: as many as a trace has, or fewer where memory is short."""
_SHARE = 0.8
"""Of the free memory that a call is planned for."""


def evaluate_masks(
    model: Model,
    tokens: Int[np.ndarray, "T"],
    masks: EdgeTree,
    condition: Condition,
    replacing: Replacing,
    next_token: int | None,
    question: Question = NOTHING,
) -> Evaluation:
    """Predictions under a stack of checked masks, compared with the full graph's.

    Args:
      model: the model.
      tokens: of the input.
      masks: bool or float, with a leading axis of N masks.
      condition: which edges they act on, and where.
      replacing: what its replacement stands for.
      next_token: the true next token, where known.
      question: its counterfactual and its metric.

    Returns:
      N rows and that of the full graph; sizes are shares of all edges.
    """
    n_tokens, n_masks = len(tokens), masks.mlp.shape[0]
    n_outputs = question.n_outputs
    slots = full_graph.edge_slots(model.config, n_tokens, n_tokens, np, n_outputs=n_outputs)
    counts = np.zeros(n_masks)
    for (_, leaf), (_, slot) in zip(masks.items(), slots.items(), strict=True):
        counts += [np.sum(_numbers(mask) * np.asarray(slot), dtype=np.float64) for mask in leaf]
    sizes = tuple((counts / full_graph.n_edges(model.config, n_tokens, n_outputs)).tolist())
    width = batching.bucket(n_tokens)
    full_graph.check_slots(model.config, n_tokens, batching.bucket)
    wide, length = batching.padded([tokens], width, 1)
    others = replacing.stack(condition.replace, width)
    asked = Question.stacked([question], width, 1)
    held = replacement_bytes(model.config, width, [condition.replace], model.dtype.itemsize, replacing.own)
    held += wide_bytes(model)
    step, results = _most_rows(model, width, held, n_outputs), []
    for start in range(0, n_masks, step):
        chunk = jax.tree.map(lambda leaf, start=start: leaf[start : start + step], masks)
        rows = batching.call_rows(chunk.mlp.shape[0], 1)
        batch = _widened(chunk, min(rows, step), width)
        result = predicted_and_compared(
            model.decoder, wide[0], length[0], batch, next_token or 0, others, asked, ablate=condition.ablate,
            pre_softmax=condition.pre_softmax,
        )  # fmt: skip
        results.append((jax.device_get(result), chunk.mlp.shape[0]))
    told: dict[str, Any] = {"with_next": next_token is not None, "with_density": False, "question": question}
    word = None if model.tokenizer is None else model.tokenizer.token
    return evaluation_of(_joined(results), 0, sizes, condition, word=word, **told)


def _most_rows(model: Model, width: int, held: int = 0, n_outputs: int = 1) -> int:
    """Masks of one call, the same on every host; ``held`` bytes are those of replacements and wide weights."""
    device = min(model.decoder.embed[...].sharding.addressable_devices, key=lambda device: device.id)
    free, rows = memory.free_bytes(device), _ROWS

    def needed() -> int:
        return masks_bytes(model.config, width, rows, model.dtype.itemsize, n_outputs) + held

    while free is not None and rows > 1 and needed() > _SHARE * free:
        rows //= 2
    return hosts.agreed(rows)


@functools.partial(jax.jit, static_argnames=("ablate", "pre_softmax"))
@usual_promotion()
def predicted_and_compared(
    decoder: Decoder,
    tokens: Int[AnyArray, "T"],
    length: Int[AnyArray, ""],
    masks: EdgeTree,
    next_token: Int[Array, ""] | int,
    others: Replacement | None = None,
    questions: Question = NOTHING,
    *,
    ablate: str,
    pre_softmax: bool,
) -> BatchResult:
    """Measures of every mask's prediction and of the full graph's, the last row, compiled once a shape.

    Of a metric there is one row more, of the empty mask.
    """
    none = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), masks)
    ends = [jax.tree.map(jnp.ones_like, none), *([] if questions.metric is None else [none])]
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), masks, *ends)
    if questions.counterfactual is not None:
        states = hidden_states(decoder, questions.counterfactual[0], length=length)
        others = jax.tree.map(lambda leaf: leaf[None], states)

    def logits_of(mask: EdgeTree, other: Replacement | None) -> Array:
        if ablate != "all":
            mask = EdgeTree(mask.residual_attn, jnp.ones_like(mask.attn), mask.residual_mlp, mask.mlp)
        return masked_forward(
            decoder, tokens, mask, replace=other, length=length, pre_softmax=pre_softmax, row_map=live_rows,
            n_outputs=None if questions.answer is None else questions.n_outputs,
        )  # fmt: skip

    def under(other: Replacement | None) -> BatchResult:
        logits = jax.vmap(logits_of, in_axes=(0, None))(rows, other)
        whole = logits[None, masks.mlp.shape[0]]
        result = compared(logits[None], whole, jnp.asarray(next_token)[None], questions=questions)
        measures = jax.tree.map(lambda leaf: leaf[:, : masks.mlp.shape[0] + 1], result.measures)
        return dataclasses.replace(result, measures=measures)

    return under(None) if others is None else averaged(jax.lax.map(under, others))


def _widened(masks: EdgeTree, n_rows: int, width: int) -> EdgeTree:
    """Masks padded to the shape of a call with zeros, which keep nothing."""

    def wide(kind: str, leaf: np.ndarray) -> np.ndarray:
        n_axes = 2 if kind == "attn" else 1
        out = np.zeros((n_rows, *leaf.shape[1:-n_axes], *[width] * n_axes), _numbers(leaf[:0]).dtype)
        filled: tuple[Any, ...] = (slice(len(leaf)), ..., *(slice(size) for size in leaf.shape[-n_axes:]))
        out[filled] = leaf
        return out

    return EdgeTree(**{kind: wide(kind, leaf) for kind, leaf in masks.items()})


def _numbers(leaf: np.ndarray) -> np.ndarray:
    """As masks are computed with: bool or float32."""
    return leaf if leaf.dtype == bool else leaf.astype(np.float32, copy=False)


def _joined(parts: Sequence[tuple[BatchResult, int]]) -> BatchResult:
    """The rows of all calls, and the full graph's once."""
    last, _ = parts[-1]

    def rows(*leaves: np.ndarray, n_ends: int = 1) -> np.ndarray:
        chunks = [leaf[:, :count] for leaf, (_, count) in zip(leaves, parts, strict=True)]
        return np.concatenate([*chunks, leaves[-1][:, -n_ends:]], axis=1)

    measures = jax.tree.map(rows, *(part.measures for part, _ in parts))
    metric = jax.tree.map(functools.partial(rows, n_ends=2), *(part.metric for part, _ in parts))
    return dataclasses.replace(last, measures=measures, metric=metric)


def checked_masks(model: Model, masks: Any, n_tokens: int, where: str = "") -> EdgeTree:
    """A stack of masks on the host, bool or float, with a leading axis; a single mask is a stack of one.

    They are as they were given, rather than copies: a stack may be much of what memory holds.

    Raises:
      InputError: no ``EdgeTree``, none at all, other shapes, integers, or floats outside [0, 1].
    """
    if not isinstance(masks, EdgeTree):
        raise InputError(f"{where}masks are {type(masks).__name__}, expected an EdgeTree with a leading axis of masks")
    arrays = {kind: np.asarray(leaf) for kind, leaf in masks.items()}
    stack = EdgeTree(
        **{kind: leaf if leaf.ndim > 2 + 2 * (kind == "attn") else leaf[None] for kind, leaf in arrays.items()}
    )
    stack.check(f"{where}masks", model.config, n_tokens, "bool or float", lead=1, hint=" behind an axis of masks")
    counts = {len(leaf) for _, leaf in stack.items()}
    if len(counts) > 1 or 0 in counts:
        raise InputError(f"{where}masks of {sorted(counts)} rows: every kind of edge needs as many, of a mask or more")
    for kind, leaf in stack.items():
        if leaf.dtype != bool and not (leaf.min() >= 0 and leaf.max() <= 1):  # NaN is neither
            raise InputError(f"{where}masks {kind} hold numbers outside [0, 1]")
    return stack
