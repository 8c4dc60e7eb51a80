"""``jstrace.trace_generation``: a trace for every token that a model goes on with."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int

from jstrace.method.conditions import MOST_TOKENS, checked_seed, checked_temperature
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import SIZES
from jstrace.method.scores.gradients import GradientScore
from jstrace.models import (
    AnyArray,
    Continued,
    Decoder,
    InputError,
    Model,
    ModelConfig,
    Score,
    check_ids,
    continued,
)
from jstrace.models.edges import ByValue
from jstrace.models.generating import CHOSEN
from jstrace.models.platforms import seeded, usual_promotion, wrapped
from jstrace.pipeline.carrying import Under
from jstrace.pipeline.inputs import Tokens, token_texts, tokenised, whole_text
from jstrace.pipeline.progress import Progress
from jstrace.pipeline.replacing import Reference, Replace
from jstrace.pipeline.trace import Trace
from jstrace.pipeline.tracing import Tracer
from jstrace.scale import batching, meshes


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Generation(ByValue):
    """A prompt, the N tokens that a model went on with, and a trace of the prediction that each was taken from.

    Two are equal where all that they hold is.

    Examples:
      >>> found = jstrace.trace_generation(model, text, 2)
      >>> len(found.traces), len(found.generated)
      (2, 2)
    """

    tokens: Int[np.ndarray, "T"]
    """The prompt and what follows it."""
    token_texts: tuple[str, ...] | None
    """Each token as text, if the model has a tokenizer."""
    n_prompt: int
    """Tokens of the prompt."""
    probs: Float32[np.ndarray, "N"]
    """The model's own probability of each generated token, whatever temperature it was drawn at."""
    traces: tuple[Trace, ...]
    """Of the prediction of each: ``traces[i]`` is over the first ``n_prompt + i`` tokens."""
    temperature: float
    seed: int
    text: str | None = None
    """Prompt and what follows as one text, if the model has a tokenizer: a character may be several tokens."""

    @property
    def generated(self) -> Int[np.ndarray, "N"]:
        """The tokens after the prompt."""
        return self.tokens[self.n_prompt :]

    def __repr__(self) -> str:
        return f"Generation({len(self.traces)} tokens after {self.n_prompt}, temperature {self.temperature:g})"


def trace_generation(
    model: Model,
    prompt: Tokens,
    n: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    score: str | Score | GradientScore = "l1",
    sizes: Sequence[float] = SIZES,
    frozen: Sequence[str] = (),
    order: str = "best-first",
    replace: Replace = None,
    score_replace: Replace = None,
    reference: Reference = None,
    progress: Progress | None = None,
) -> Generation:
    """Let a model go on with a prompt, and trace the prediction of every token that it adds.

    The tokens come first, all in one compiled program in which keys and values of the prefix are computed once and
    kept. The traces follow in batches, as those of ``jstrace.trace`` of a list of the same prefixes, to the digit. What
    a token appended to a text leaves as it was: the states of the tokens before it, and with them the scores that go by
    norms ("l1", "l2", "ifr", "cosine") of every edge below the last layer, whose edges are the last token's alone (but
    where longrope changes its frequencies). What it does not: the trace, which is of one prediction, searched from its
    last token on; its sizes, which are shares of more edges; scores that know the prediction (from gradients, learned
    and fitted ones); and random ones. So every prefix is scored anew, which costs a clean pass of it.

    Args:
      model: from ``jstrace.load``.
      prompt: a text, or its token ids.
      n: tokens to add; a token that ends texts is one like others, and does not stop it. The last of them needs no
        position, as nothing is predicted from it: prompt and ``n - 1`` tokens are to have one.
      temperature: 0 takes the most probable token each time; else each is drawn, from logits divided by it: a number
        from 1e-6 to 1e6.
      seed: of draws, and of the traces' as in ``jstrace.trace``.
      score, sizes, frozen, order, replace, score_replace, reference, progress: as in ``jstrace.trace``.

    Examples:
      >>> found = jstrace.trace_generation(model, text, 2)
      >>> [len(one.tokens) for one in found.traces]
      [7, 8]

    Raises:
      InputError: as ``jstrace.trace``, more tokens than the model has positions for (without the last), or a
        prediction on the way that is not finite.
    """
    ids = _one_prompt(model, prompt, "trace_generation")
    under = Under(replace, score_replace, reference)
    tracer = Tracer.of(model, score, sizes, frozen, order, under, seed, "raise")
    tokens, probs = _finite(model, ids, n, temperature, seed)
    n_prompt = len(ids)
    prefixes = [tokens[: n_prompt + step] for step in range(len(probs))]
    traces: Any = tracer.run(prefixes, lambda step: f"token {step + 1} after the prompt: ", progress)
    texts, text = token_texts(model, tokens), whole_text(model, tokens)
    return Generation(tokens, texts, n_prompt, probs, tuple(traces), float(temperature), checked_seed(seed), text)


def generate(model: Model, prompt: Tokens, n: int, *, temperature: float = 0.0, seed: int = 0) -> Any:
    """The prompt and the ``n`` tokens that a model goes on with: a text of a text, token ids ``[T + n]`` of token ids.

    Arguments and errors are those of ``trace_generation``, which traces every token, too.

    Examples:
      >>> jstrace.generate(model, text, 2).startswith(text)
      True
    """
    tokens, _ = _finite(model, _one_prompt(model, prompt, "generate"), n, temperature, seed)
    return whole_text(model, tokens) if isinstance(prompt, str) else tokens


def _one_prompt(model: Model, prompt: Tokens, function: str) -> Int[np.ndarray, "P"]:
    single, rows = tokenised(model, prompt)
    if not single:
        raise InputError(f"{function} takes one prompt: a text or its token ids")
    return rows[0]


def _finite(
    model: Model, prompt: Int[np.ndarray, "P"], n: int, temperature: float, seed: int
) -> tuple[Int[np.ndarray, "T"], Float32[np.ndarray, "N"]]:
    """A prompt with the tokens after it, and their probabilities, all of which are finite."""
    tokens, probs = generated(model, prompt, n, temperature=temperature, seed=seed)
    if not np.isfinite(probs).all():
        place = int(np.argmin(np.isfinite(probs)))
        raise InputError(f"the prediction of token {place + 1} after the prompt is not finite; try dtype float32")
    return np.concatenate([prompt, tokens]), probs


def generated(
    model: Model,
    prompt: Int[np.ndarray, "P"],
    n: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    row: int = 0,
    written: Int[np.ndarray, "S"] | None = None,
) -> tuple[Int[np.ndarray, "N"], Float32[np.ndarray, "N"]]:
    """The tokens after a prompt, and the model's own probability of each; NaN where a prediction is not finite.

    By itself, so that nothing of it depends on what else is computed. ``row`` tells prompts of one seed apart; the
    first tokens are those ``written`` before, where there are any.

    Raises:
      InputError: arguments that make no sense, or more tokens than the model has positions for (without the last).
    """
    n, warm = checked_count(n), checked_temperature(temperature)
    config, length = model.config, len(prompt)
    given = np.full(n, CHOSEN, np.int32)
    if written is not None:
        given[: len(written)] = written
    whole = np.concatenate([prompt, np.maximum(given, 0)]).astype(np.int32)
    check_ids(config, whole[:-1])  # the last token is not read
    full_graph.check_slots(config, length + n - 1, batching.bucket)
    key = jax.random.key_data(jax.random.fold_in(seeded(checked_seed(seed)), row))
    logprobs = np.zeros(n, np.float32)
    for start, count in _spans(config, length, n):
        padded = batching.padded([whole[: length + start]], batching.bucket(length + n), 1)
        how = (np.asarray(key)[None], np.asarray([warm], np.float32), given[start:][:count][None])
        batch = meshes.placed((*padded, *how), model.mesh)
        continuation = meshes.fetched(continue_batch(model.decoder, *batch, count=count, mesh=model.mesh))
        whole[length + start :][:count], logprobs[start:][:count] = continuation.tokens[0], continuation.logprobs[0]
    return whole[length:], np.exp(logprobs)


def _spans(config: ModelConfig, length: int, n: int) -> Iterator[tuple[int, int]]:
    """Tokens after the prompt that are generated from one cache: the first, and their number.

    A cache is exact while positions turn at the same frequencies; where longrope changes them, the prefix is read anew.
    """
    first = n if config.rope_long_divisors is None else min(max(config.rope_switch - length + 1, 0), n)
    yield from ((start, count) for start, count in ((0, first), (first, n - first)) if count)


@functools.partial(jax.jit, static_argnames=("count", "mesh"))
@usual_promotion()
def continue_batch(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    keys: Array | np.ndarray,
    temperatures: Float32[AnyArray, "B"],
    given: Int[AnyArray, "B N"],
    *,
    count: int,
    mesh: Mesh | None = None,
) -> Continued:
    """``models.continued`` of a padded batch, compiled once a shape; ``keys`` are the data of keys, ``[B, ...]``."""

    def run(decoder: Decoder, *batch: Array) -> Continued:
        def of_input(tokens: Array, length: Array, key: Array, temperature: Array, given: Array) -> Continued:
            return continued(decoder, tokens, length, wrapped(key), temperature, given, count=count)

        return jax.vmap(of_input)(*batch)

    return meshes.over_inputs(run, mesh, tokens.shape[0])(decoder, tokens, lengths, keys, temperatures, given)


def checked_count(n: Any) -> int:
    """A number of tokens to generate.

    Raises:
      InputError: it is none.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 1 <= operator.index(n) <= MOST_TOKENS:
        raise InputError(f"n = {n!r}, expected a number of tokens to generate, up to {MOST_TOKENS:,}")
    return operator.index(n)
