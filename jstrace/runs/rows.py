"""What came of inputs, as rows of a run's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from jstrace.method import sizes as sizes_of
from jstrace.method.conditions import Plan
from jstrace.models import EdgeTree
from jstrace.pipeline.driver import Input, Invalid, Outcome
from jstrace.runs.control import Foreign
from jstrace.runs.row import Row
from jstrace.runs.schema import density_column, strata_arrays


@dataclasses.dataclass(frozen=True)
class Entry:
    """One input on its way into the tables; ``given`` is None where the text could not be encoded."""

    index: int
    row: Row
    given: Input | None
    found: Outcome | Invalid
    foreign: Foreign | None = None
    """The control, where the run has one and the input allows it."""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the table of inputs, beside those that all inputs have."""


def part_tables(
    entries: Sequence[Entry],
    plan: Plan,
    wanted: dict[str, pa.Schema],
    *,
    word: Callable[[int], str],
    count: Callable[[int], int],
) -> dict[str, pa.Table]:
    """The tables of one part.

    Args:
      entries: inputs in the order of their indices.
      plan: of the run.
      wanted: from ``schemas``.
      word: a token as text.
      count: how often a token occurs in the corpus.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    for entry in entries:
        rows["inputs"].append(_input_row(entry, plan, word, count))
        if isinstance(entry.found, Invalid):
            continue
        rows["curves"] += _curve_rows(entry, entry.found, plan)
        rows["components"] += _component_rows(entry.index, entry.found, plan)
        if "strata" in rows:
            rows["strata"] += _strata_rows(entry.index, entry.found, plan)
    return {name: _table(rows[name], schema) for name, schema in wanted.items()}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; pyarrow drops what the schema lacks without a word, which is a bug of the caller."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"no column {', '.join(sorted(unknown))} in the schema"
    return pa.Table.from_pylist(rows, schema=schema)


def _input_row(entry: Entry, plan: Plan, word: Callable[[int], str], count: Callable[[int], int]) -> dict[str, Any]:
    found: dict[str, Any] = {"input": entry.index, "valid": isinstance(entry.found, Outcome)}
    found |= {"text": entry.row.text, "next_word": entry.row.next_word, **entry.columns}
    if entry.given is not None:
        tokens = entry.given.tokens.tolist()
        found |= {
            "next_token": entry.given.next_token,
            "tokens": tokens,
            "token_texts": [word(token) for token in tokens],
            "n_tokens": len(tokens),
        }
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
    if entry.foreign is not None:
        found |= {"foreign_inputs": list(entry.foreign.inputs)}
    densities = zip(plan.cases, entry.found.evaluations, strict=True)
    return found | {density_column(case.name): e.density for case, e in densities if e.density is not None}


def _counts(plan: Plan, found: Outcome) -> list[int]:
    """Edges of each trace and of the full graph."""
    return [*sizes_of.counts(plan.sizes, found.n_edges).tolist(), found.n_edges]


def _curve_rows(entry: Entry, found: Outcome, plan: Plan) -> list[dict[str, Any]]:
    rows, sizes, counts = [], [*plan.sizes, 1.0], _counts(plan, found)
    foreign = {} if entry.foreign is None else dict(zip(plan.controlled, entry.foreign.tv, strict=True))
    for case, e in zip(plan.cases, found.evaluations, strict=True):
        for k, size in enumerate(sizes):
            row = {"input": entry.index, "condition": case.name, "k": k, "size": size, "edges": counts[k]}
            row |= {name: getattr(e, name)[k].item() for name in ("tv", "kl", "top_token", "entropy", "agreement")}
            if e.surprisal is not None and e.rank is not None:
                row |= {"surprisal": e.surprisal[k].item(), "rank": e.rank[k].item()}
            row |= {"nucleus": e.nucleus[k].tolist(), "nucleus_unordered": e.nucleus_unordered[k].tolist()}
            row |= _foreign_cells(foreign[case][:, k], e.tv[k]) if case in foreign else {}
            rows.append(row | {"recovered": e.recovered[k].item()})
    return rows


def _foreign_cells(foreign: Float32[np.ndarray, "N"], own: np.float32) -> dict[str, Any]:
    """The control at one size."""
    mean = foreign.mean()
    return {"foreign_tvs": foreign.tolist(), "foreign_tv": mean.item(), "selectivity": (mean - own).item()}


def _component_rows(index: int, found: Outcome, plan: Plan) -> list[dict[str, Any]]:
    rows, sizes = [], [*plan.sizes, 1.0]
    for source, made in zip(plan.sources, found.compositions, strict=True):
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
    return EdgeTree(**strata_arrays(row))
