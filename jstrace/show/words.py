"""The answer in words: what a trace keeps, from how many edges, and what these are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jstrace.method.graph.sizes import percent
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.smallest import Smallest
from jstrace.pipeline.trace import Trace
from jstrace.show.strongest import totals
from jstrace.show.text import Word, shown

_MOST = 4
"""Heads and source tokens that are named."""


def answer_lines(trace: Trace, evaluation: Evaluation, back: Smallest, close: Smallest, word: Word) -> list[str]:
    """What is predicted, the smallest traces that predict it again, and what the closer one is made of.

    Args:
      trace: of one input.
      evaluation: of that trace.
      back: the smallest trace with the full graph's top token.
      close: the smallest one within a TV of its prediction.
      word: texts of tokens.
    """
    wanted = shown(word(evaluation.wanted_token))
    if trace.n_outputs > 1:
        wanted = f"the top tokens of all {trace.n_outputs} outputs"
    lines = _predictions(trace, evaluation, word)
    if close.index == len(close.trace.sizes):
        far = f"no trace smaller than the full graph is within TV 0.1 of that under {evaluation.replace} ablation"
        return [*lines, far, *_metric(evaluation)]
    again = f"{back.edges:,} of {trace.n_edges:,} edges ({percent(back.share)}) predict {wanted} again"
    near = f"{close.edges:,} ({percent(close.share)}) are within TV {close.tv:.2f} of the full prediction"
    return [*lines, f"{again}; {near}", *_metric(evaluation), *_made_of(close)]


def _predictions(trace: Trace, evaluation: Evaluation, word: Word) -> list[str]:
    """Of a pair the top tokens of both prompts; the empty trace has the counterfactual's."""
    empty = np.flatnonzero(np.asarray(trace.counts) == 0)
    if trace.counterfactual is None or not len(empty):
        return []
    other = shown(word(int(evaluation.top_token[empty[0]])))
    told = f"{shown(word(int(evaluation.full_tokens[0])))} ({100 * evaluation.full_probs[0]:.0f}%)"
    return [f"the model predicts {told}; after the counterfactual prompt, whose states ablated edges carry, {other}"]


def _metric(evaluation: Evaluation) -> list[str]:
    """The metric's ends, and the first size from which on nine tenths of the difference, to eleven, are recovered.

    A trace whose metric lies far beyond the full graph's has not recovered it.
    """
    if evaluation.metric is None or evaluation.metric_ends is None or evaluation.recovered is None:
        return []
    empty, full = evaluation.metric_ends
    told = f"{evaluation.metric_name} is {full:.2f}, and {empty:.2f} with every edge ablated"
    missed = np.flatnonzero(~(np.abs(evaluation.recovered - 1) <= 0.1))
    first = int(missed[-1]) + 1 if len(missed) else 0
    if np.isnan(empty):
        return [f"{told}, so that nothing can be said to be recovered"]
    if np.isnan(evaluation.recovered).all():
        return [f"{told}: there is no difference to recover"]
    if first >= len(evaluation.sizes):
        return [told]
    return [f"{told}; traces recover 90% of the difference from {percent(evaluation.sizes[first])} of the edges on"]


def _made_of(close: Smallest) -> list[str]:
    """Edges by kind, and the source tokens and heads that most attention edges belong to."""
    mask, trace = close.mask, close.trace
    counts = {"residual": int(mask.residual_attn.sum() + mask.residual_mlp.sum())}
    counts |= {"attention": int(mask.attn.sum()), "MLP": int(mask.mlp.sum())}
    lines = [f"those {close.edges:,} edges: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())]
    if not counts["attention"]:
        return lines
    (heads, sources), words = totals(mask.attn), trace.words
    tokens = [f"{shown(words[at])} [{at}] ({count})" for at, count in _most(sources)]
    named = [f"layer {at // heads.shape[1]} head {at % heads.shape[1]} ({count})" for at, count in _most(heads.ravel())]
    return [*lines, f"  attention edges from {', '.join(tokens)}", f"  heads with most of them: {', '.join(named)}"]


def _most(counts: Sequence[int] | np.ndarray) -> list[tuple[int, int]]:
    order = np.argsort(-np.asarray(counts), kind="stable")[:_MOST]
    return [(int(at), int(counts[at])) for at in order if counts[at]]


def folded(trace: Trace, evaluation: Evaluation) -> tuple[list[int], str]:
    """The rows of a table that are worth a line, and in words which were folded.

    Of rows without an edge the last is kept; of others that are alike in TV, to three digits, in their top token and in
    what they recover, to two, the first.
    """
    counts, n = [*map(int, trace.counts), trace.n_edges], len(trace.sizes) + 1
    empty = [k for k in range(n) if counts[k] == 0]
    keep, alike = list[int](), list[int]()
    for k in range(n):
        if k in empty[:-1]:
            continue
        same = keep and k < n - 1 and _alike(evaluation, keep[-1], k) and counts[keep[-1]]
        (alike if same else keep).append(k)
    told = [f"{_sizes(len(empty) - 1)} without an edge"] if len(empty) > 1 else []
    told += [f"{_sizes(len(alike))} with the TV and top token of the row above"] if alike else []
    return keep, " and ".join(told)


def told_once(rows: Sequence[tuple[str, str]]) -> list[str]:
    """The lines of a table, each a size and its cells, without those whose cells are those of the line before.

    The last is the full graph's, which stays; a line below says which were left out.
    """
    lines, last, alike = list[str](), "", list[str]()
    for at, (size, cells) in enumerate(rows):
        if cells == last and at < len(rows) - 1:
            alike.append(size)
            continue
        lines.append(f"{size:>6}  {cells}")
        last = cells
    return lines + ([f"not shown, as they are like the size before: {', '.join(alike)}"] if alike else [])


def _sizes(count: int) -> str:
    return "one size" if count == 1 else f"{count} sizes"


def _alike(evaluation: Evaluation, row: int, other: int) -> bool:
    tv, top, agrees = evaluation.tv, evaluation.top_token, evaluation.agreement
    same = top[row] == top[other] and agrees[row] == agrees[other]
    if evaluation.recovered is not None:
        same &= f"{evaluation.recovered[row]:.2f}" == f"{evaluation.recovered[other]:.2f}"
    return f"{tv[row]:.3f}" == f"{tv[other]:.3f}" and bool(same)
