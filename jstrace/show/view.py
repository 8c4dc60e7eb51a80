"""A trace as one page to look at: HTML that needs no server, no network and nothing beside it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import html
import importlib.resources
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.errors import InputError
from jstrace.files import write_bytes
from jstrace.method.sizes import NO_EDGE
from jstrace.models import Model
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.text import Word, words_of

Evaluations = Evaluation | Sequence[Evaluation] | Mapping[str, Evaluation] | None
"""One, several, or several by the names that the page gives them."""


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
    """A page, which notebooks show in place."""

    html: str

    def save(self, path: str | Path) -> None:
        """Write it, all or nothing.

        Raises:
          InputError: the path cannot be written.
        """
        write_bytes(Path(path), self.html.encode("utf-8"))

    def _repr_html_(self) -> str:
        """In a frame of its own, so that its rules are the page's alone."""
        source = html.escape(self.html, quote=True)
        return f'<iframe title="trace" style="width:100%;height:900px;border:0" srcdoc="{source}"></iframe>'

    def __repr__(self) -> str:
        return f"Page({len(self.html):,} characters)"


def view(
    traces: Trace | Sequence[Trace],
    evaluations: Any = None,
    *,
    model: Model | None = None,
    names: Sequence[str] | None = None,
) -> Page:
    """See a trace: its graph at every size, what is predicted there, and where on the curve that is.

    Args:
      traces: one trace, or two of as many sizes, beside each other.
      evaluations: of the trace: one, several, or several by the names that the page gives them, such as ``{"zero": ...,
        "mean": ...}``; of several traces one of these each.
      model: whose tokenizer has the texts of predicted tokens; without it they are ids.
      names: what the page calls the traces.

    Raises:
      InputError: other than one or two traces of as many sizes, or evaluations of other sizes.
    """
    shown = [traces] if isinstance(traces, Trace) else list(traces)
    given = [evaluations] if isinstance(traces, Trace) else list(evaluations or [None] * len(shown))
    called = list(names or [_name(trace) for trace in shown])
    _check(shown, given, called)
    word = _word(model)
    panels = [
        _panel(trace, _named(trace, one), name, word) for trace, one, name in zip(shown, given, called, strict=True)
    ]
    text = "".join(words_of(shown[0])) if shown[0].token_texts else f"{len(shown[0].tokens)} tokens"
    first = panels[0]["evaluations"]
    start = min((_back(one["tv"]) for one in first), default=len(shown[0].sizes))
    summary = "; ".join(dict.fromkeys(_summary(trace) for trace in shown))
    return Page(_filled(text, {"traces": panels, "start": start, "summary": summary}))


def _check(traces: Sequence[Any], evaluations: Sequence[Any], names: Sequence[Any]) -> None:
    wrong = next((one for one in traces if not isinstance(one, Trace)), None)
    if wrong is not None or len(traces) not in (1, 2):
        found = type(wrong).__name__ if wrong is not None else f"{len(traces)} of them"
        raise InputError(f"view takes a trace or two, got {found}")
    if len({len(trace.sizes) for trace in traces}) > 1:
        raise InputError("view: traces beside each other need as many sizes")
    if len(evaluations) != len(traces) or len(names) != len(traces):
        raise InputError(f"view: expected evaluations and names of each of {len(traces)} traces")


def _named(trace: Trace, given: Any) -> dict[str, Evaluation]:
    """Evaluations by name, checked against the trace."""
    if given is None:
        return {}
    if isinstance(given, Evaluation):
        given = [given]
    if not isinstance(given, Mapping):
        given = {f"{one.replace}, {one.ablate}" if isinstance(one, Evaluation) else "?": one for one in given}
    for name, one in given.items():
        if not isinstance(one, Evaluation):
            raise InputError(f"view: evaluation {name} is {type(one).__name__}, expected a jstrace.Evaluation")
        if len(one.tv) != len(trace.sizes) + 1:
            raise InputError(f"view: evaluation {name} has {len(one.tv)} rows, the trace {len(trace.sizes) + 1}")
    return dict(given)


def _panel(trace: Trace, evaluations: Mapping[str, Evaluation], name: str, word: Word) -> dict[str, Any]:
    config = trace.config
    return {
        "name": str(name),
        "tokens": list(words_of(trace)),
        "layers": config.n_layers,
        "heads": config.n_heads,
        "parallel": config.parallel,
        "sizes": [*map(float, trace.sizes), 1.0],
        "counts": [*map(int, trace.counts), trace.n_edges],
        "strata": packed(trace),
        "evaluations": [_curve(title, one, word) for title, one in evaluations.items()],
    }


def _curve(name: str, one: Evaluation, word: Word) -> dict[str, Any]:
    return {
        "name": name,
        "tv": [_number(value) for value in one.tv],
        "kl": [_number(value) for value in one.kl],
        "top": [word(int(token)) for token in one.top_token],
        "full": [[word(int(token)), float(prob)] for token, prob in zip(one.full_tokens, one.full_probs, strict=True)],
    }


def packed(trace: Trace) -> str:
    """Strata as the page reads them: a byte for each edge, compressed, in base64.

    ``residual_attn`` [L,T], ``attn`` [L,H] of the pairs (target, source) with the source not after the target, row by
    row, ``residual_mlp`` and ``mlp`` [L,T]; 255 where there is no edge.
    """
    rows, columns = np.tril_indices(len(trace.tokens))
    strata = trace.strata
    parts = [strata.residual_attn, strata.attn[..., rows, columns], strata.residual_mlp, strata.mlp]
    content = b"".join(np.asarray(part, np.uint8).tobytes() for part in parts)
    assert NO_EDGE == 255, "the page takes it for no edge"
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def _filled(title: str, data: dict[str, Any]) -> str:
    """The page around its data; nothing of the data can end the element that it stands in, or be markup."""
    script, style, page = (_part(name) for name in ("view.js", "view.css", "view.html"))
    content = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    fields = {
        "TITLE": html.escape("".join(letter if letter.isprintable() else "·" for letter in title), quote=True),
        "SCRIPT": _digest(script),
        "STYLE": _digest(style),
        "CSS": style,
        "JS": script,
        "DATA": content,
    }
    pieces = page.split("@")
    return "".join(fields.get(piece, piece) if index % 2 else piece for index, piece in enumerate(pieces))


@functools.cache
def _part(name: str) -> str:
    return (importlib.resources.files("jstrace.show") / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """What the page's own rules let run: this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _word(model: Model | None) -> Word:
    tokenizer = None if model is None else model.tokenizer
    return (lambda token: f"#{token}") if tokenizer is None else tokenizer.token


def _name(trace: Trace) -> str:
    order = "" if trace.order == "best-first" else f" by {trace.order}"
    return f"{trace.importance}{order}"


def _summary(trace: Trace) -> str:
    scored = f", scored under {trace.replace}" if trace.replace != "zero" else ""
    return f"{len(trace.tokens)} tokens, {trace.n_edges:,} edges; edges ranked by {_name(trace)}{scored}"


def _back(tv: Sequence[float | None]) -> int:
    """The first size at which half of the prediction is back."""
    return next((k for k, value in enumerate(tv) if value is not None and value <= 0.5), len(tv) - 1)


def _number(value: Any) -> float | None:
    return None if not math.isfinite(value) else round(float(value), 5)
