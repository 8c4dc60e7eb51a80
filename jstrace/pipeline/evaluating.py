"""``jstrace.evaluate``: traces through the masked forwards (sections 4 to 6 of the method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np

from jstrace.method.conditions import Case, Condition, Source, checked_ablation
from jstrace.models import AnyArray, InputError, Model, edge_shapes
from jstrace.pipeline.ask import Ask
from jstrace.pipeline.driver import Driver, Input, Invalid
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace


@overload
def evaluate(
    model: Model, traces: Trace, *, ablate: str = ..., pre_softmax: bool = ..., inverse: bool = ...,
    next_token: int | None = ..., progress: Callable[[int, int], None] | None = ...,
) -> Evaluation: ...  # fmt: skip
@overload
def evaluate(
    model: Model, traces: Sequence[Trace], *, ablate: str = ..., pre_softmax: bool = ..., inverse: bool = ...,
    next_token: Sequence[int | None] | None = ..., progress: Callable[[int, int], None] | None = ...,
) -> list[Evaluation]: ...  # fmt: skip
def evaluate(
    model: Model,
    traces: Trace | Sequence[Trace],
    *,
    ablate: str = "all",
    pre_softmax: bool = False,
    inverse: bool = False,
    next_token: int | Sequence[int | None] | AnyArray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | list[Evaluation]:
    """Run every trace as a masked forward and measure how much of the prediction it keeps.

    Args:
      model: the model that the traces came from.
      traces: one trace, or a list of traces of the same sizes, evaluated in batches.
      ablate: "all" masks every edge; "residual+mlp" leaves all attention edges in place.
      pre_softmax: attention masks enter the softmax instead of following it.
      inverse: remove the attention and MLP edges of each trace instead of keeping them ("necessity").
      next_token: the true next token (one for each trace, None where it is not known), for surprisal and rank.
      progress: called with the number of inputs done and in all.

    Raises:
      InputError: a trace of another model's shape, or arguments that make no sense.
    """
    rows = [traces] if isinstance(traces, Trace) else list(traces)
    condition = Condition(checked_ablation(ablate), pre_softmax, inverse)
    true_next = _checked_next(model, rows, next_token)
    for row in rows:
        _check_origin(model, row)
    given = {i: Input(row.tokens, true_next[i], (row.strata,), tuple(row.sizes)) for i, row in enumerate(rows)}
    results: dict[int, Evaluation] = {}
    for n_sizes in sorted({len(row.sizes) for row in rows}):  # programs depend on their number alone
        alike = {i: one for i, one in given.items() if len(rows[i].sizes) == n_sizes}
        ask = Ask((), (Case(Source("given"), condition),), tuple(rows[min(alike)].sizes))
        for batch in Driver(model, ask).batches(alike):
            for index, found in batch.items():
                if isinstance(found, Invalid):
                    raise found.as_error()
                (results[index],) = found.evaluations
            if progress is not None:
                progress(len(results), len(rows))
    ordered = [results[index] for index in range(len(rows))]
    return ordered[0] if isinstance(traces, Trace) else ordered


def _checked_next(model: Model, rows: list[Trace], next_token: Any) -> list[int | None]:
    if next_token is None:
        return [None] * len(rows)
    several = isinstance(next_token, Sequence) or np.ndim(next_token) > 0
    given: list[Any] = list(next_token) if several else [next_token]
    known = [token for token in given if token is not None]
    whole = all(np.ndim(token) == 0 and np.issubdtype(np.asarray(token).dtype, np.integer) for token in known)
    if len(given) != len(rows) or not whole or isinstance(next_token, bytes | bytearray):
        raise InputError(f"next_token: expected {len(rows)} token ids, one for each trace, got {next_token!r}")
    wrong = [token for token in known if not 0 <= token < model.config.vocab_size]
    if wrong:
        raise InputError(f"next_token {wrong[0]} is outside the vocabulary of {model.config.vocab_size}")
    return [None if token is None else int(token) for token in given]


def _check_origin(model: Model, row: Trace) -> None:
    """Refuse traces of other models. A trace with an empty fingerprint may come from any model of the same shape."""
    c = model.config
    shapes = edge_shapes(c.n_layers, c.n_heads, len(row.tokens))
    for name, leaf in row.strata.items():
        if leaf.shape != shapes[name]:
            raise InputError(
                f"strata {name} have shape {leaf.shape}, this model's {shapes[name]}: another model's trace"
            )
    if int(row.tokens.max()) >= c.vocab_size:
        raise InputError("the trace has tokens outside this model's vocabulary: another model's trace")
    if row.model_fingerprint and row.model_fingerprint not in model.fingerprints():
        raise InputError(
            f"the trace was made with model {row.model_fingerprint}, this is {model.fingerprint()}; to evaluate it"
            ' here all the same, use dataclasses.replace(trace, model_fingerprint="")'
        )
