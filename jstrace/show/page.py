"""The page of a trace: HTML around data, that needs no server, no network and nothing beside it. No JAX."""

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.files import write_bytes
from jstrace.method.graph.sizes import NO_EDGE


@dataclasses.dataclass(frozen=True, repr=False)
class Page:
    """A page, which notebooks show in place.

    Examples:
      >>> page = jstrace.view(trace, evaluation, model=model)
      >>> page.save("mary.html")
    """

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


def page(title: str, panels: Sequence[Mapping[str, Any]], summary: str, answer: Sequence[str] = ()) -> Page:
    """The page of one or two traces.

    Args:
      title: of the page, data like all else.
      panels: from ``panel``, of as many sizes.
      summary: a line below the title.
      answer: lines below that, of what the traces say.
    """
    curves, last = panels[0]["evaluations"], len(panels[0]["sizes"]) - 1
    tv = curves[0]["tv"] if curves else ()
    start = next((k for k, value in enumerate(tv) if value is not None and value <= 0.1), last)
    data = {"traces": list(panels), "start": start, "summary": summary, "answer": list(answer)}
    return Page(_filled(title, data))


def panel(
    name: str,
    tokens: Sequence[str],
    strata: Mapping[str, np.ndarray],
    sizes: Iterable[float],
    counts: Iterable[int],
    curves: Sequence[Mapping[str, Any]],
    *,
    parallel: bool,
    scores: Mapping[str, Any] | None = None,
    effects: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One trace as data of the page.

    Args:
      name: of the trace.
      tokens: their texts.
      strata: uint8 arrays by the names of an ``EdgeTree``.
      sizes: shares of all edges, 1 for the full graph last.
      counts: edges of each.
      curves: from ``curve``.
      parallel: of the model's config.
      scores: from ``scored``, where they are there.
      effects: from ``effect_map``, where they were computed.
    """
    layers, heads = strata["attn"].shape[:2]
    data = {"name": name, "tokens": list(tokens), "layers": layers, "heads": heads, "parallel": parallel}
    data |= {"sizes": [*map(float, sizes)], "counts": [*map(int, counts)], "strata": packed(strata)}
    data |= {"evaluations": list(curves)} | ({} if scores is None else {"scores": dict(scores)})
    return data | ({} if effects is None else {"effects": dict(effects)})


def effect_map(metric: str, values: np.ndarray) -> dict[str, Any]:
    """Effects ``[L, H+1]`` of heads and, last, MLPs on a metric, as data of the page: four digits, or None."""
    return {
        "metric": metric,
        "values": [[float(f"{value:.4g}") if math.isfinite(value) else None for value in row] for row in values],
    }


def curve(
    name: str,
    tv: Iterable[Any],
    kl: Iterable[Any],
    top: Iterable[str],
    full: Iterable[tuple[str, Any]],
    repeats: Sequence[Sequence[Any]] = (),
) -> dict[str, Any]:
    """One evaluation as data of the page: TV, KL (nats) and top token of every size, the model's own prediction, and of
    the TV of repetitions, which every size has as many of, the lowest and the highest."""
    return {
        "name": name,
        "tv": list(map(_number, tv)),
        "kl": list(map(_number, kl)),
        "top": list(top),
        "full": [[word, float(prob)] for word, prob in full],
        **({"band": [[_number(min(row)), _number(max(row))] for row in repeats]} if len(repeats) else {}),
    }


def metric_curve(name: str, values: Iterable[Any], recovered: Iterable[Any] | None) -> dict[str, Any]:
    """What a metric says of every size, beside ``curve``: its values, and the share of its difference recovered."""
    told = {"name": name, "values": [_number(value) for value in values]}
    return {"metric": told | {"recovered": [_number(value) for value in (() if recovered is None else recovered)]}}


def packed(strata: Mapping[str, np.ndarray]) -> str:
    """Strata as the page reads them: a byte for each edge, compressed, in base64.

    ``residual_attn`` [L,T], ``attn`` [L,H] of the pairs (target, source) with the source not after the target, row by
    row, ``residual_mlp`` and ``mlp`` [L,T]; 255 where there is no edge.
    """
    assert NO_EDGE == 255, "the page takes it for no edge"
    return _compressed(np.concatenate([np.ravel(part) for part in _parts(strata)]))


_SCORED, _CODES = 300_000, 254
"""Edges whose scores a page holds at most, and the scores that it tells apart; 255 stands for none."""


def scored(
    scores: Mapping[str, np.ndarray], strata: Mapping[str, np.ndarray], counts: Sequence[int], words: str
) -> dict[str, Any]:
    """Scores as the page reads them: of the edges that enter first, rounded in proportion, to 4% where codes suffice.

    Args:
      scores: float arrays by the names of an ``EdgeTree``.
      strata: uint8 arrays.
      counts: edges of each size, the full graph's last: scores are kept up to the last size of ``_SCORED`` edges.
      words: what the scores are.

    Returns:
      ``codes``, a byte for each edge of ``packed`` whose stratum is ``last`` at most, compressed, in base64;
      ``values``, the score of each code, highest first; ``error``, the share by which they are off at most; ``words``.
    """
    last = max(k for k, count in enumerate(counts) if k == 0 or count <= _SCORED)
    held = np.concatenate([np.ravel(part) for part in _parts(strata)]) <= last
    flat = np.concatenate([np.ravel(part) for part in _parts(scores)])[held].astype(np.float64)
    size, step = np.abs(flat), 0.08
    logs = np.log(np.where(size > 0, size, 1))
    while True:
        near = np.sign(flat) * np.exp(step * np.round(logs / step))
        values, codes = np.unique(-near, return_inverse=True)
        if len(values) <= _CODES:
            break
        step *= 1.25
    told, error = [float(f"{-value:.3g}") for value in values], float(f"{np.expm1(step / 2):.2g}")
    return {"codes": _compressed(codes), "last": last, "values": told, "error": error, "words": words}


def _compressed(content: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(content.astype(np.uint8).tobytes(), 9)).decode("ascii")


def _parts(tree: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Its arrays in the page's order, of attention the pairs that can be edges."""
    rows, columns = np.tril_indices(tree["attn"].shape[-1])
    return [tree["residual_attn"], tree["attn"][..., rows, columns], tree["residual_mlp"], tree["mlp"]]


def _filled(title: str, data: dict[str, Any]) -> str:
    """The page around its data; nothing of the data can end the element that it stands in, or be markup."""
    script, style, page = (_part(name) for name in ("view.js", "view.css", "view.html"))
    content = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    title = html.escape("".join(letter if letter.isprintable() else "·" for letter in title), quote=True)
    fields = {"TITLE": title, "SCRIPT": digest(script), "STYLE": digest(style)}
    fields |= {"CSS": style, "JS": script, "DATA": content}
    pieces = page.split("@")
    return "".join(fields.get(piece, piece) if index % 2 else piece for index, piece in enumerate(pieces))


@functools.cache
def _part(name: str) -> str:
    return (importlib.resources.files("jstrace.show") / name).read_text(encoding="utf-8")


def digest(script: str) -> str:
    """What a content security policy calls a script or style: it lets this run, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _number(value: Any) -> float | None:
    return None if not math.isfinite(value) else round(float(value), 5)
