"""Tokens, labels, edges and predictions as words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reports, which do without JAX, print labels, too
    from jstrace.method.graph.edges import Edge
    from jstrace.pipeline.evaluation import Evaluation
    from jstrace.pipeline.trace import Trace

Word = Callable[[int], str]
"""Token id to its text."""

_KINDS = {"residual_attn": "residual past attention", "residual_mlp": "residual past MLP", "mlp": "MLP"}


def shown(text: str) -> str:
    """A token's text in one line of printable characters, quoted as Python does."""
    return repr(text)


def prediction_line(evaluation: Evaluation, word: Word, *, count: int = 5) -> str:
    """The full graph's most probable next tokens."""
    pairs = zip(evaluation.full_tokens[:count], evaluation.full_probs[:count], strict=True)
    return "  ".join(f"{shown(word(int(token)))} {prob:.3f}" for token, prob in pairs)


def in_words(edge: Edge, words: tuple[str, ...]) -> str:
    """One edge as a sentence: its component, from which token to which."""
    source, target = (f"{shown(words[i])} [{i}]" for i in (edge.source, edge.target))
    if edge.head is not None:
        return f"layer {edge.layer} head {edge.head}: from {source} to {target}"
    return f"layer {edge.layer} {_KINDS[edge.kind]}: at {target}"


def text_of(trace: Trace) -> str:
    """The text of a trace, or its ids where there is no tokenizer."""
    if trace.text is not None:
        return trace.text
    return ("" if trace.token_texts else " ").join(trace.words)


def printable(label: str) -> str:
    """A label without control characters, and without the leading underscore that hides it from the legend."""
    shown = "".join(letter if letter.isprintable() else "·" for letter in label)
    return f" {shown}" if shown.startswith("_") else shown
