"""Traces and evaluations as notebooks show them: small tables in HTML, without scripts, in the colours of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jstrace.method.graph.sizes import percent

_TOKENS = 200
"""Tokens that are shown of a long text."""
_TOKEN = "border:1px solid rgba(128,128,128,.45);border-radius:.2em;padding:0 .15em"  # seen on white and on black
_CELL = "padding:.1em .6em;text-align:right;border:0"
_FONT = "font-family:ui-monospace,monospace;font-size:.9em"


def trace_html(trace: Any) -> str:
    """Of a ``Trace``: tokens, how edges were ranked, and the edges of each size."""
    words = trace.words
    shown = " ".join(f'<bdi style="{_TOKEN}">{_word(word)}</bdi>' for word in words[:_TOKENS])
    left = f" and {len(words) - _TOKENS:,} more" if len(words) > _TOKENS else ""
    facts = [f"{len(words):,} tokens", f"{trace.n_edges:,} edges", f"ranked by {trace.score}", trace.order]
    facts += [f"scored under {trace.score_replace}"] if trace.score_replace else []
    facts += [] if trace.replace in ("zero", trace.score_replace) else [f"ablated edges carry {trace.replace}"]
    counts = [*trace.counts.tolist(), trace.n_edges]
    rows = [(_size(size), f"{count:,}") for size, count in zip([*trace.sizes, None], counts, strict=True)]
    table = f"<summary>{len(trace.sizes)} sizes and the full graph</summary>{_table(('size', 'edges'), rows)}"
    body = f'<div style="{_FONT};line-height:1.7">{shown}{left}</div><details>{table}</details>'
    return _block("Trace", facts, body)


def evaluation_html(evaluation: Any) -> str:
    """Of an ``Evaluation``: TV, KL and top token of each size, and whether it is the full graph's, or the target's."""
    e = evaluation
    facts = [f"ablated: {e.ablate}", *(["before the softmax"] if e.pre_softmax else [])]
    facts += ["the trace removed"] if e.inverse else []
    facts += ["measured against a target"] if e.targeted else []
    facts += [] if e.replace == "zero" else [f"carrying {e.replace}"]
    facts += [] if e.score_replace in ("", e.replace) else [f"scored under {e.score_replace}"]
    facts += (
        []
        if e.density is None
        else [f"density {e.density:.3f}", f"top token back at {percent(e.row_sizes[e.back], 3)}"]
    )
    tops = [f"#{token}" for token in e.top_token] if e.top_texts is None else [*map(_word, e.top_texts)]
    rows = [
        (_size(size), f"{_bar(tv)}{_number(tv)}", _number(kl), f"{top}{' ✓' if same else ''}")
        for size, tv, kl, top, same in zip([*e.sizes, None], e.tv, e.kl, tops, e.agreement, strict=True)
    ]
    full = f"#{e.full_tokens[0]}" if e.inverse else tops[-1]
    told = f"<div>{'' if e.targeted else '✓ '}the full graph's top token, {full} {e.full_probs[0]:.3f}</div>"
    if e.targeted:
        told = f"<div>✓ the target's top token, #{e.target_tokens[0]} {e.target_probs[0]:.3f}</div>{told}"
    return _block("Evaluation", facts, _table(("size", "TV", "KL (nats)", "top token"), rows) + told)


def _block(title: str, facts: Iterable[str], body: str) -> str:
    """Colours and background are the notebook's own, light or dark."""
    about = html.escape(", ".join(_printable(fact) for fact in facts), quote=True)
    return f'<div style="max-width:60em;color:inherit"><div><b>{title}</b> {about}</div>{body}</div>'


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in names)
    lines = ("".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in rows)
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    style = f"{_FONT};border-collapse:collapse;color:inherit"
    return f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _size(size: Any) -> str:
    return "full" if size is None else percent(size, 3)


def _number(value: Any) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "not finite"


def _bar(tv: Any) -> str:
    """As wide as TV is large."""
    width = 4 * float(np.clip(tv, 0, 1)) if np.isfinite(tv) else 0
    look = "display:inline-block;height:.6em;background:currentColor;opacity:.4;margin-right:.4em"
    return f'<span aria-hidden="true" style="{look};width:{width:.2f}em"></span>'


def _word(text: str) -> str:
    """A token that can be seen: spaces as marks, what cannot be printed as Python writes it; never markup."""
    return html.escape(_printable(text).replace(" ", "·"), quote=True) or "&nbsp;"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
