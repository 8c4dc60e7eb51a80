"""A trace at one size as a file for other programs: GraphML, node-link JSON, parquet, circuit-tracer's graph."""

from __future__ import annotations

import functools
import io
import json
import re
from pathlib import Path
from typing import Any, SupportsIndex
from xml.sax.saxutils import escape

import numpy as np

from jstrace.analysis.analysing import named
from jstrace.errors import InputError
from jstrace.files import check_writable, write_bytes
from jstrace.models import Model
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.attribution import attribution_graph
from jstrace.show.records import facts_of

FORMATS = ("graphml", "json", "parquet", "neuronpedia")


def export(
    trace: Trace,
    path: str | Path,
    format: str,  # noqa: A002
    k: SupportsIndex | None = None,
    *,
    size: float | None = None,
    evaluation: Evaluation | None = None,
    model: Model | None = None,
    scan: str | None = None,
) -> None:
    """Write a trace at one size as a file for other programs, all or nothing.

    Args:
      trace: of one input.
      path: the file.
      format: "graphml" and "json" (node-link) hold the graph of ``trace.to_networkx``, nodes called "level:token";
        "parquet" a row for each edge; "neuronpedia" the attribution graph that circuit-tracer and Neuronpedia show.
        docs/analysis.md has all fields.
      k: index into the trace's sizes; Z is the full graph.
      size: one of its sizes, or 1 for the full graph; one of the two is given.
      evaluation: of the trace, for "neuronpedia": what is predicted, and how probable it is.
      model: whose tokenizer has the text of what is predicted.
      scan: what "neuronpedia" calls the model, by default its family.

    Examples:
      >>> jstrace.export(trace, "mary.graphml", "graphml", size=0.1)

    Raises:
      InputError: another format, no such trace, a path that cannot be written, pyarrow is missing, or ``evaluation``,
        ``model`` or ``scan`` for another format.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r}, expected one of {', '.join(FORMATS)}")
    if format != "neuronpedia" and (evaluation, model, scan) != (None, None, None):
        raise InputError(f"evaluation, model and scan are for neuronpedia; {format} holds no prediction")
    path, index = Path(path), trace.index(k, size=size)
    check_writable(path)
    if format == "neuronpedia":
        word = None if model is None or model.tokenizer is None else model.tokenizer.token
        content = _json(attribution_graph(trace, index, path.stem, evaluation=evaluation, word=word, scan=scan))
    else:
        content = {"graphml": graphml, "json": node_link, "parquet": parquet}[format](trace, index)
    write_bytes(path, content)


def node_link(trace: Trace, k: int) -> bytes:
    """JSON that ``networkx.node_link_graph(edges="edges")`` and D3 read: ASCII, nodes called "level:token"."""
    nodes, edges = _nodes(trace, k), _edges(trace, k)
    return _json({"directed": True, "multigraph": True, "graph": _facts(trace, k), "nodes": nodes, "edges": edges})


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def parquet(trace: Trace, k: int) -> bytes:
    """A row for every edge, highest score first; the facts of the trace are JSON in the schema's metadata."""
    try:
        import pyarrow as pa
        from pyarrow import parquet as files
    except ImportError as error:
        raise InputError("parquet needs pyarrow: pip install 'jstrace[run]'") from error
    edges = trace.edges(k)
    level, sizes = edges.levels(parallel=trace.config.parallel), np.asarray([*trace.sizes, 1.0])
    words = [word.encode("utf-8", "backslashreplace").decode() for word in trace.words]  # no halves of surrogate pairs
    columns = {
        "kind": pa.array(edges.kind.tolist(), pa.string()).dictionary_encode(),
        "layer": pa.array(edges.layer, pa.int32()),
        "head": pa.array(edges.head, pa.int32(), mask=edges.head < 0),
        "source": pa.array(edges.source, pa.int32()),
        "target": pa.array(edges.target, pa.int32()),
        "source_token": _texts(pa, edges.source, words),
        "target_token": _texts(pa, edges.target, words),
        "source_level": pa.array(level, pa.int32()),
        "target_level": pa.array(level + 1, pa.int32()),
        "score": pa.array(edges.score, pa.float32()),
        "stratum": pa.array(edges.stratum, pa.int32()),
        "size": pa.array(sizes[edges.stratum], pa.float64()),
    }
    table, stream = pa.table(columns).replace_schema_metadata({b"jstrace": _json(_facts(trace, k))}), io.BytesIO()
    files.write_table(table, stream, compression="zstd")
    return stream.getvalue()


def _texts(pa: Any, position: np.ndarray, words: list[str]) -> Any:
    """A text for every position, each once in the dictionary: pyarrow leaves bytes unwritten for a second one."""
    texts = pa.DictionaryArray.from_arrays(pa.array(position, pa.int32()), pa.array(words, pa.string()))
    return texts.cast(pa.string()).dictionary_encode()


# --- GraphML --------------------------------------------------------------------------------------------------------

_TYPES = {str: "string", bool: "boolean", int: "long", float: "double"}
_FIELDS: dict[str, dict[str, type]] = {
    "node": {"token": str, "position": int, "level": int, "kind": str, "layer": int},
    "edge": {"kind": str, "layer": int, "head": int, "score": float, "stratum": int, "size": float},
}
_ILLEGAL = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff\\\\]")
"""What XML 1.0 has no way to write, the carriage return, which it reads as a line feed, and the backslash itself."""


def graphml(trace: Trace, k: int) -> bytes:
    r"""GraphML in UTF-8. Texts have ``\\`` for a backslash, and ``\x00`` or ``\ufffe`` for what XML cannot hold.

    ``text.encode("latin-1", "backslashreplace").decode("unicode-escape")`` is the token again.
    """
    facts = {name: value for name, value in _facts(trace, k).items() if not isinstance(value, list)}
    fields = {"graph": {name: type(value) for name, value in facts.items()}, **_FIELDS}
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *(
            f'<key id="{of}_{name}" for="{of}" attr.name="{name}" attr.type="{_TYPES[kind]}"/>'
            for of, named_fields in fields.items()
            for name, kind in named_fields.items()
        ),
        '<graph edgedefault="directed">',
        _data("graph", facts),
    ]
    for node in _nodes(trace, k):
        lines.append(f'<node id="{node.pop("id")}">{_data("node", node)}</node>')
    for number, edge in enumerate(_edges(trace, k)):
        ends = f'source="{edge.pop("source")}" target="{edge.pop("target")}"'
        lines.append(f'<edge id="e{number}" {ends}>{_data("edge", edge)}</edge>')
    return "\n".join([*lines, "</graph>", "</graphml>", ""]).encode("utf-8")


def _data(of: str, values: dict[str, Any]) -> str:
    """What is known of one thing; what is None is left out, as GraphML has no such value."""
    known = ((name, value) for name, value in values.items() if value is not None)
    return "".join(f'<data key="{of}_{name}">{_xml(value)}</data>' for name, value in known)


def _xml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return escape(_ILLEGAL.sub(_escaped, value)) if isinstance(value, str) else str(value)


def _escaped(match: re.Match[str]) -> str:
    letter = match[0]
    return "\\\\" if letter == "\\" else f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}"


# --- what all of them hold ------------------------------------------------------------------------------------------


def _facts(trace: Trace, k: int) -> dict[str, Any]:
    sizes, counts = [*map(float, trace.sizes), 1.0], [*trace.counts.tolist(), trace.n_edges]
    return facts_of(trace) | {"k": k, "size": sizes[k], "edges": counts[k], "sizes": sizes}


def _nodes(trace: Trace, k: int) -> list[dict[str, Any]]:
    """Every end of an edge, in the order of level and token."""
    edges, words = trace.edges(k), trace.words
    level, n_tokens = edges.levels(parallel=trace.config.parallel), len(trace.tokens)
    numbers = np.union1d(level * n_tokens + edges.source, (level + 1) * n_tokens + edges.target)
    places = ((int(number) // n_tokens, int(number) % n_tokens) for number in numbers)
    name = functools.partial(named, parallel=trace.config.parallel)
    return [
        {"id": f"{level}:{position}", "token": words[position], "position": position, "level": level}
        | dict(zip(("kind", "layer"), name(level), strict=True))
        for level, position in places
    ]


def _edges(trace: Trace, k: int) -> list[dict[str, Any]]:
    edges, sizes = trace.edges(k), [*map(float, trace.sizes), 1.0]
    levels = edges.levels(parallel=trace.config.parallel).tolist()
    columns = (levels, *(column.tolist() for column in edges.columns().values()))
    return [
        {"source": f"{level}:{source}", "target": f"{level + 1}:{target}", "kind": kind, "layer": layer}
        | {"head": None if head < 0 else head, "score": score, "stratum": stratum, "size": sizes[stratum]}
        for level, kind, layer, head, source, target, score, stratum in zip(*columns, strict=True)
    ]
