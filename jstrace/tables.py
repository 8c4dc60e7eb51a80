"""The tables of a run as pyarrow schemas, rows and parts on disk; docs/results.md describes every column.

A part holds the inputs of one range, in one file for each table. The file of ``inputs`` is written last: a part counts
when it has all its files.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jstrace import graph
from jstrace.composition import compose
from jstrace.data import Row
from jstrace.models import FAMILIES, EdgeTree, InputError
from jstrace.pipeline import Invalid, Outcome, Plan
from jstrace.store import write_whole

TABLES = ("curves", "components", "strata", "inputs")
"""In the order in which a part's files are written."""

_MARK = b"jstrace.run"
_NAME = re.compile(r"(\d{8})-(\d{8})\.parquet")

_CURVES = pa.schema(
    [
        ("input", pa.int32()),
        ("condition", pa.dictionary(pa.int32(), pa.string())),
        ("k", pa.int16()),
        ("size", pa.float64()),
        ("edges", pa.int64()),
        ("tv", pa.float32()),
        ("kl", pa.float32()),
        ("agreement", pa.bool_()),
        ("top_token", pa.int32()),
        ("entropy", pa.float32()),
        ("surprisal", pa.float32()),
        ("rank", pa.int32()),
        ("recovered", pa.float64()),
        ("nucleus", pa.list_(pa.bool_())),
        ("nucleus_unordered", pa.list_(pa.bool_())),
    ]
)
_COMPONENTS = pa.schema(
    [
        ("input", pa.int32()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("k", pa.int16()),
        ("size", pa.float64()),
        ("edges", pa.int64()),
        ("nodes", pa.int64()),
        ("input_reached", pa.bool_()),
        ("residual", pa.list_(pa.int32())),
        ("mlp", pa.list_(pa.int32())),
        ("heads", pa.list_(pa.int32())),
    ]
)
_STRATA = pa.schema(
    [
        ("input", pa.int32()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("layers", pa.int32()),
        ("n_heads", pa.int32()),
        ("n_tokens", pa.int32()),
        *((name, pa.binary()) for name in FAMILIES),
    ]
)
_INPUTS = pa.schema(
    [
        ("input", pa.int32()),
        ("valid", pa.bool_()),
        ("reason", pa.string()),
        ("text", pa.string()),
        ("next_word", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("token_texts", pa.list_(pa.string())),
        ("n_tokens", pa.int32()),
        ("n_edges", pa.int64()),
        ("counts", pa.list_(pa.int32())),
        ("next_token", pa.int32()),
        ("entropy", pa.float32()),
        ("surprisal", pa.float32()),
        ("rank", pa.int32()),
        ("top_token", pa.int32()),
        ("top_text", pa.string()),
        ("top_prob", pa.float32()),
        ("top_count", pa.int64()),
    ]
)


def density_column(condition: str) -> str:
    """The column of ``inputs`` with the density of a condition: ``density_l1_residual_mlp``."""
    return "density_" + re.sub(r"\W+", "_", condition)


def schemas(plan: Plan, *, save_strata: bool) -> dict[str, pa.Schema]:
    """The schema of each table of a run, in the order in which a part's files are written."""
    densities = [(density_column(case.name), pa.float64()) for case in plan.cases if not case.condition.inverse]
    inputs = pa.schema([*_INPUTS, *map(pa.field, *zip(*densities, strict=True))])
    found = {"curves": _CURVES, "components": _COMPONENTS, "strata": _STRATA, "inputs": inputs}
    return {name: found[name] for name in TABLES if name != "strata" or save_strata}


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """One input on its way into the tables; ``tokens`` are None where the text could not be encoded."""

    index: int
    row: Row
    tokens: np.ndarray | None
    next_token: int | None
    found: Outcome | Invalid


def part_tables(
    entries: Sequence[Entry],
    plan: Plan,
    wanted: dict[str, pa.Schema],
    *,
    parallel: bool,
    word: Callable[[int], str],
    count: Callable[[int], int],
) -> dict[str, pa.Table]:
    """The tables of one part.

    Args:
      entries: inputs in the order of their indices.
      plan: of the run.
      wanted: from ``schemas``.
      parallel: of the model's config.
      word: a token as text.
      count: how often a token occurs in the corpus.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for entry in entries:
        rows["inputs"].append(_input_row(entry, plan, word, count))
        if isinstance(entry.found, Invalid):
            continue
        rows["curves"] += _curve_rows(entry.index, entry.found, plan)
        rows["components"] += _component_rows(entry.index, entry.found, plan, parallel)
        if "strata" in rows:
            rows["strata"] += _strata_rows(entry.index, entry.found, plan)
    return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in wanted.items()}


def _input_row(entry: Entry, plan: Plan, word: Callable[[int], str], count: Callable[[int], int]) -> dict[str, Any]:
    found: dict[str, Any] = {"input": entry.index, "valid": isinstance(entry.found, Outcome)}
    found |= {"text": entry.row.text, "next_word": entry.row.next_word, "next_token": entry.next_token}
    if entry.tokens is not None:
        tokens = entry.tokens.tolist()
        found |= {"tokens": tokens, "token_texts": [word(token) for token in tokens], "n_tokens": len(tokens)}
    if isinstance(entry.found, Invalid):
        return found | {"reason": entry.found.reason}
    full = entry.found.evaluations[0]
    top = int(full.full_tokens[0])
    found |= {"n_edges": entry.found.n_edges, "counts": _counts(plan, entry.found)[:-1]}
    found |= {"top_token": top, "top_text": word(top), "top_prob": float(full.full_probs[0]), "top_count": count(top)}
    whole = next(e for e in entry.found.evaluations if not e.inverse)  # whose last row is the full graph
    found |= {"entropy": float(whole.entropy[-1])}
    if whole.surprisal is not None and whole.rank is not None:
        found |= {"surprisal": float(whole.surprisal[-1]), "rank": int(whole.rank[-1])}
    densities = zip(plan.cases, entry.found.evaluations, strict=True)
    return found | {density_column(case.name): e.density for case, e in densities if e.density is not None}


def _counts(plan: Plan, found: Outcome) -> list[int]:
    """Edges of each trace and of the full graph."""
    return [*graph.counts(plan.sizes, found.n_edges).tolist(), found.n_edges]


def _curve_rows(index: int, found: Outcome, plan: Plan) -> list[dict[str, Any]]:
    rows, sizes, counts = [], [*plan.sizes, 1.0], _counts(plan, found)
    for case, e in zip(plan.cases, found.evaluations, strict=True):
        for k, size in enumerate(sizes):
            row = {"input": index, "condition": case.name, "k": k, "size": size, "edges": counts[k]}
            row |= {name: getattr(e, name)[k].item() for name in ("tv", "kl", "top_token", "entropy", "agreement")}
            if e.surprisal is not None and e.rank is not None:
                row |= {"surprisal": e.surprisal[k].item(), "rank": e.rank[k].item()}
            row |= {"nucleus": e.nucleus[k].tolist(), "nucleus_unordered": e.nucleus_unordered[k].tolist()}
            rows.append(row | {"recovered": e.recovered[k].item()})
    return rows


def _component_rows(index: int, found: Outcome, plan: Plan, parallel: bool) -> list[dict[str, Any]]:
    rows, sizes = [], [*plan.sizes, 1.0]
    for source, strata in zip(plan.sources, found.strata, strict=True):
        made = compose(strata, len(plan.sizes), parallel=parallel)
        for k, size in enumerate(sizes):
            row = {"input": index, "source": source.name, "k": k, "size": size}
            row |= {name: getattr(made, name)[k].item() for name in ("edges", "nodes", "input_reached")}
            row |= {"residual": made.residual_edges[k].tolist(), "mlp": made.mlp_edges[k].tolist()}
            rows.append(row | {"heads": made.head_edges[k].ravel().tolist()})
    return rows


def _strata_rows(index: int, found: Outcome, plan: Plan) -> list[dict[str, Any]]:
    rows = []
    for source, strata in zip(plan.sources, found.strata, strict=True):
        layers, heads, n_tokens, _ = strata.attn.shape
        shape = {"layers": layers, "n_heads": heads, "n_tokens": n_tokens}
        leaves = {name: np.ascontiguousarray(leaf).tobytes() for name, leaf in strata.items()}
        rows.append({"input": index, "source": source.name, **shape, **leaves})
    return rows


def strata_of(row: dict[str, Any]) -> EdgeTree:
    """The strata (uint8) of one row of the table ``strata``."""
    shape = (row["layers"], row["n_tokens"])
    shapes = {"attn": (row["layers"], row["n_heads"], row["n_tokens"], row["n_tokens"])}
    return EdgeTree(**{name: np.frombuffer(row[name], np.uint8).reshape(shapes.get(name, shape)) for name in FAMILIES})


# --- parts ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """A range of inputs, from ``first`` to ``last``."""

    first: int
    last: int

    @property
    def file(self) -> str:
        """The name of its file in each table's folder."""
        return f"{self.first:08d}-{self.last:08d}.parquet"


def parts_of(folder: Path, table: str) -> set[Part]:
    """The parts that a table has a file of."""
    found = (_NAME.fullmatch(path.name) for path in (folder / table).glob("*.parquet"))
    return {Part(int(match[1]), int(match[2])) for match in found if match}


def complete_parts(folder: Path, names: Sequence[str]) -> set[Part]:
    """The parts that every one of the tables has a file of."""
    return set.intersection(*(parts_of(folder, name) for name in names))


def write_part(folder: Path, part: Part, found: dict[str, pa.Table], mark: str) -> None:
    """Write the files of a part, each of them whole or not at all, that of ``inputs`` last.

    Args:
      folder: of the run.
      part: the range of inputs.
      found: the tables by name.
      mark: of the run, which ``read_part`` compares.

    Raises:
      InputError: there is no room, or no permission.
    """
    for name in TABLES:
        if name in found:
            marked = found[name].replace_schema_metadata({_MARK: f"{mark} {name}"})
            write_whole(folder / name / part.file, functools.partial(_write, marked))


def _write(table: pa.Table, stream: Any) -> None:
    parquet.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_part(folder: Path, table: str, part: Part, mark: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file, its checksums verified.

    Raises:
      InputError: it is damaged, or of another run, another table or other inputs.
    """
    path = folder / table / part.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        found = parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: damaged ({reason}); remove this file, and the same run computes its inputs again"
        ) from error
    if (found.schema.metadata or {}).get(_MARK) != f"{mark} {table}".encode():
        raise InputError(f"{path}: of another run or another table; remove this file to compute its inputs again")
    if table == "inputs" and found["input"].to_pylist() != list(range(part.first, part.last + 1)):
        raise InputError(f"{path}: does not hold the inputs that its name says; remove this file to compute them again")
    return found
