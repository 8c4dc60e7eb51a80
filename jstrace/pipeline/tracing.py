"""``jstrace.trace``: from texts or token ids to traces (sections 2 and 3 of the method)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from jstrace.method.conditions import Source, checked_frozen, checked_importance, checked_seed
from jstrace.method.sizes import SIZES, checked_sizes, counts
from jstrace.models import Model
from jstrace.pipeline.ask import Ask
from jstrace.pipeline.driver import Driver, Input, Invalid, Outcome
from jstrace.pipeline.inputs import Tokens, tokenised
from jstrace.pipeline.trace import Trace


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
    source = Source(checked_importance(importance), checked_frozen(frozen))
    ask = Ask((source,), (), checked_sizes(sizes), checked_seed(seed), keep_scores=True)
    mark, results = model.fingerprint(), dict[int, Trace]()
    for batch in Driver(model, ask).batches({index: Input(row) for index, row in enumerate(rows)}):
        for index, found in batch.items():
            if isinstance(found, Invalid):
                raise found.as_error("" if single else f"input {index}: ")
            results[index] = _assembled(model, found, ask, mark)
        if progress is not None:
            progress(len(results), len(rows))
    ordered = [results[index] for index in range(len(rows))]
    return ordered[0] if single else ordered


def _assembled(model: Model, found: Outcome, ask: Ask, mark: str) -> Trace:
    (source,), (strata,) = ask.sources, found.strata
    assert found.scores is not None
    tokenizer = model.tokenizer
    return Trace(
        tokens=found.tokens,
        token_texts=None if tokenizer is None else tuple(tokenizer.token(int(token)) for token in found.tokens),
        config=model.config,
        n_edges=found.n_edges,
        sizes=ask.sizes,
        counts=counts(ask.sizes, found.n_edges),
        scores=found.scores,
        strata=strata,
        importance=source.importance,
        frozen=source.frozen,
        seed=ask.seed,
        model_fingerprint=mark,
    )
