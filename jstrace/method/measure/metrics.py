"""What a prediction is asked: differentiable functions of its logits (section 9 of the method).

A metric's tokens are leaves of a pytree, so that other words compile nothing; which metric it is, is static.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from jstrace.errors import InputError

LEAST_DIFFERENCE = 1e-4
"""Of full graph and empty mask, in units of the metric's scale: below it, what is recovered is undefined. Float32 alone
moves the difference of two logits by a tenth of that between two forwards."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitDifference:
    """logit(answer) - logit(rival): how far the answer is ahead.

    Examples:
      >>> metric = jstrace.logit_difference(" Mary", " John")
      >>> (metric.answer, metric.rival)
      (' Mary', ' John')
    """

    answer: Any
    """A word, or its token id."""
    rival: Any
    """Another."""

    kind: ClassVar[str] = "logit_difference"

    def __call__(self, logits: Float32[Array, "V"]) -> Float32[Array, ""]:
        """The value of a prediction."""
        return logits[self.answer] - logits[self.rival]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogProb:
    """log p(answer), in nats; of several tokens the sum over outputs.

    Examples:
      >>> jstrace.log_prob(" Mary").answer
      ' Mary'
    """

    answer: Any
    """A word, or its token id; resolved for an answer of a trace, a tuple of its ids."""

    kind: ClassVar[str] = "log_prob"

    def __call__(self, logits: Float32[Array, "*A V"]) -> Float32[Array, ""]:
        """The value of a prediction, or of those at the outputs before each token of the answer."""
        log_probs = jax.nn.log_softmax(logits)
        if not isinstance(self.answer, tuple):
            return log_probs[self.answer]
        return jnp.sum(jnp.take_along_axis(log_probs, jnp.stack(self.answer)[:, None], axis=-1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnMetric:
    """A function of logits ``[V]``, of a trace with an answer ``[A, V]``, that JAX can differentiate."""

    function: Callable[[Any], Any] = dataclasses.field(metadata={"static": True})

    kind: ClassVar[str] = "own"

    def __call__(self, logits: Float32[Array, "*A V"]) -> Float32[Array, ""]:
        """The value of a prediction.

        Raises:
          InputError: the function raises, or gives no single number.
        """
        try:
            value = jnp.asarray(self.function(logits))
        except Exception as error:
            told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise InputError(
                f"metric {_name(self.function)} failed ({told:.200}); expected a function of logits [V] that JAX can"
                " differentiate"
            ) from error
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.floating):
            raise InputError(
                f"metric {_name(self.function)} gave {value.dtype}{value.shape}, expected one float of logits [V]"
            )
        return value.astype(jnp.float32)


Metric = LogitDifference | LogProb | OwnMetric
KINDS: dict[str, Any] = {kind.kind: kind for kind in (LogitDifference, LogProb)}
"""Metrics that files can name."""


def logit_difference(answer: str | int, rival: str | int) -> LogitDifference:
    """The metric logit(answer) - logit(rival), for ``metric=`` of ``jstrace.trace`` and ``jstrace.evaluate``.

    Args:
      answer: a word of one token, as the model would continue the text (" Mary"), or its token id.
      rival: another.

    Examples:
      >>> asked = jstrace.logit_difference(" Mary", " John")
      >>> jstrace.trace(model, text, counterfactual=other, metric=asked).first_difference
      5

    Raises:
      InputError: both are the same.
    """
    if np.ndim(answer) == np.ndim(rival) == 0 and answer == rival:
        raise InputError(f"logit_difference: {answer!r} twice; the answer and its rival are two words")
    return LogitDifference(answer, rival)


def log_prob(answer: str | int | Sequence[int]) -> LogProb:
    """The metric log p(answer), in nats; ``answer`` as in ``logit_difference``.

    Where a trace has an answer (``jstrace.trace(answer=)``) it is that one, and the metric the sum over its tokens.

    Examples:
      >>> jstrace.evaluate(model, trace, metric=jstrace.log_prob(" Mary")).metric.shape
      (27,)
    """
    return LogProb(answer)


def of_answer(answer: str, rival: str | None) -> LogitDifference | LogProb:
    """What is asked where there is an answer: how far it is ahead of its rival, or else how probable it is."""
    return log_prob(answer) if rival is None else logit_difference(answer, rival)


def resolved(metric: Any, token_of: Callable[[Any], int], tokens_of: Callable[[Any], tuple[int, ...]]) -> Metric | None:
    """A metric whose words are token ids; None for None and "kl", the measure that is always there.

    The answer of ``log_prob`` may be several, of ``tokens_of``.

    Raises:
      InputError: it is none, or a word is not one token.
    """
    if metric is None or (isinstance(metric, str) and metric == "kl"):
        return None
    if isinstance(metric, OwnMetric):
        return metric
    if isinstance(metric, LogProb):
        return LogProb(tuple(map(np.int32, tokens_of(metric.answer))))
    if isinstance(metric, LogitDifference):
        ids = {field.name: np.int32(token_of(getattr(metric, field.name))) for field in dataclasses.fields(metric)}
        if len(set(ids.values())) != len(ids):
            raise InputError(f"metric {metric}: the answer and its rival are the same token {ids['answer']}")
        return LogitDifference(**ids)
    if callable(metric):
        return OwnMetric(metric)
    raise InputError(
        f'metric = {metric!r:.60}, expected "kl", jstrace.logit_difference, jstrace.log_prob, or a function of logits'
    )


def described(metric: Any, word: Callable[[int], str] | None = None) -> str:
    """A resolved metric in words: ``logit(' Mary') - logit(' John')``."""

    def told(token: Any) -> str:
        ids = [int(each) for each in (token if isinstance(token, tuple) else (token,))]
        return " ".join(map(str, ids)) if word is None else repr("".join(map(word, ids)))

    if metric is None:
        return ""
    if isinstance(metric, OwnMetric):
        return _name(metric.function)
    if isinstance(metric, LogProb):
        return f"log p({told(metric.answer)})"
    return f"logit({told(metric.answer)}) - logit({told(metric.rival)})"


def as_json(metric: Any) -> dict[str, Any] | None:
    """What files say of a resolved metric; of a function its name alone."""
    if metric is None:
        return None
    if isinstance(metric, OwnMetric):
        return {"kind": metric.kind, "name": _name(metric.function)}
    tokens = {field.name: getattr(metric, field.name) for field in dataclasses.fields(metric)}
    return {"kind": metric.kind} | {
        name: list(map(int, token)) if isinstance(token, tuple) else int(token) for name, token in tokens.items()
    }


def from_json(record: Any, vocab_size: int) -> Metric | None:
    """What ``as_json`` gave; None for a function, which no file holds.

    Raises:
      ValueError: another kind, no tokens, tokens outside the vocabulary, or the same twice.
    """
    if record is None or record.get("kind") == OwnMetric.kind:
        return None
    kind = KINDS[record["kind"]]
    tokens = {field.name: record[field.name] for field in dataclasses.fields(kind)}
    several = kind is LogProb and isinstance(record["answer"], list)
    ids = record["answer"] if several else [*tokens.values()]
    whole = all(type(token) is int and 0 <= token < vocab_size for token in ids)
    if not whole or not ids or (not several and len({*ids}) < len(ids)):
        raise ValueError(f"its metric has tokens {tokens}")
    if several:
        return LogProb(tuple(map(np.int32, record["answer"])))
    return kind(**{name: np.int32(token) for name, token in tokens.items()})


def recovered(values: Float32[np.ndarray, "N"], empty: float, full: float) -> Float32[np.ndarray, "N"]:
    """(m(trace) - m(empty)) / (m(full) - m(empty)); NaN where the two are the same."""
    scale = max(abs(full), abs(empty))
    if not abs(full - empty) > LEAST_DIFFERENCE * scale:
        return np.full(np.shape(values), np.nan, np.float32)
    return ((np.asarray(values, np.float64) - empty) / (full - empty)).astype(np.float32)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
