"""Whether what a trace holds belongs together: of traces that were read, or made with ``dataclasses.replace``."""

from __future__ import annotations

from typing import Any

import numpy as np

from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.graph import full_graph
from jstrace.method.graph.composition import counted
from jstrace.method.graph.sizes import NO_EDGE, checked_sizes
from jstrace.method.measure import metrics
from jstrace.models import InputError, edge_shapes


def check(trace: Any, where: str = "", *, exact: bool = True) -> None:
    """Refuse what does not belong together: shapes and types are those of the config, strata those of the sizes.

    Args:
      trace: a ``Trace`` that was read, or made with ``dataclasses.replace``.
      where: names the trace.
      exact: whether traces must hold exactly the edges that their sizes ask for.

    Raises:
      InputError: with the reason, after ``where``.
    """
    c, t = trace.config, len(trace.tokens)
    _check_answer(trace, where)
    flat = trace.tokens.ndim == 1 and trace.tokens.dtype == np.int32
    if not flat or full_graph.n_edges(c, t, trace.n_outputs) != trace.n_edges:
        raise InputError(f"{where}its tokens and its number of edges do not belong together")
    if trace.tokens.min() < 0 or trace.tokens.max() >= c.vocab_size:
        raise InputError(f"{where}its tokens are outside the vocabulary of {c.vocab_size}")
    if trace.token_texts is not None and len(trace.token_texts) != t:
        raise InputError(f"{where}{len(trace.token_texts)} texts for {t} tokens")
    if (trace.counterfactual is not None) != (trace.replace == COUNTERFACTUAL):
        raise InputError(f"{where}its replacement is {trace.replace!r:.60}, which does not go with its counterfactual")
    _check_counterfactual(trace, where)
    _check_metric(trace, where)
    checked_sizes(trace.sizes)
    expected = edge_shapes(c.n_layers, c.n_heads, t)
    for field, dtype in (("scores", np.float32), ("strata", np.uint8)):
        for kind, leaf in getattr(trace, field).items():
            if not isinstance(leaf, np.ndarray) or leaf.shape != expected[kind] or leaf.dtype != dtype:
                wanted = f"{dtype.__name__}{expected[kind]}"
                raise InputError(f"{where}{field} {kind} are {_words(leaf)}, expected {wanted} of numpy")
    _check_strata(trace, trace.strata, where, exact=exact)
    for repeated in trace.repeated:
        if any(leaf.shape != expected[kind] or leaf.dtype != np.uint8 for kind, leaf in repeated.items()):
            raise InputError(f"{where}the strata of a repetition are of another shape")
        _check_strata(trace, repeated, f"{where}of a repetition: ", exact=exact)


def _check_strata(trace: Any, strata: Any, where: str, *, exact: bool) -> None:
    """Refuse strata that hold other numbers of edges than the sizes ask for."""
    held = sum((counted(leaf) for _, leaf in strata.items()), start=np.zeros(256, np.int64))
    if held[: len(trace.sizes) + 1].sum() != trace.n_edges or held[:NO_EDGE].sum() != trace.n_edges:
        raise InputError(f"{where}its strata do not hold {trace.n_edges} edges in {len(trace.sizes)} sizes")
    if exact and (np.cumsum(held)[: len(trace.sizes)] != trace.counts).any():
        raise InputError(f"{where}its strata do not hold the edges that its sizes ask for")


def _check_answer(trace: Any, where: str) -> None:
    """Refuse an answer that is no tokens, or that the tokens do not end with."""
    answer = trace.answer
    if answer is None:
        return
    if not isinstance(answer, np.ndarray) or answer.ndim != 1 or answer.dtype != np.int32 or not len(answer):
        raise InputError(f"{where}its answer is {_words(answer)}, expected int32 tokens of numpy")
    start = len(trace.tokens) - len(answer) + 1
    if start < 1 or (trace.tokens[start:] != answer[:-1]).any() or not 0 <= answer[-1] < trace.config.vocab_size:
        raise InputError(f"{where}its tokens do not end with its answer but the last token")


def _check_counterfactual(trace: Any, where: str) -> None:
    """Refuse a counterfactual of other tokens than the text has, or of the same."""
    pair, tokens, texts = trace.counterfactual, trace.tokens, trace.counterfactual_texts
    if texts is not None and len(texts) != len(tokens):
        raise InputError(f"{where}{len(texts)} texts for {len(tokens)} tokens of its counterfactual")
    if pair is None:
        return
    whole = isinstance(pair, np.ndarray) and pair.shape == tokens.shape and pair.dtype == np.int32
    if not whole or pair.min() < 0 or pair.max() >= trace.config.vocab_size:
        raise InputError(f"{where}its counterfactual is not of {len(tokens)} int32 tokens of the vocabulary")
    if np.array_equal(pair, tokens):
        raise InputError(f"{where}its counterfactual is the text itself: no edge could make a difference")


def _check_metric(trace: Any, where: str) -> None:
    """Refuse a metric that is none, or whose words are no tokens."""
    metric = trace.metric
    if metric is None or isinstance(metric, metrics.OwnMetric):
        return
    try:
        metrics.from_json(metrics.as_json(metric), trace.config.vocab_size)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}its metric is {metric!r:.60}, expected one of tokens; give jstrace.evaluate a metric"
        ) from error


def _words(leaf: Any) -> str:
    return f"{type(leaf).__name__} {getattr(leaf, 'dtype', '')}{getattr(leaf, 'shape', '')}"
