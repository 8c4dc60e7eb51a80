"""What came of inputs, as rows of a run's tables; ``schema`` has their columns, and how each of them is filled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from jstrace.method.graph.composition import Composition
from jstrace.method.plans import Plan
from jstrace.models import EdgeTree
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.records import Input, Invalid, Outcome
from jstrace.runs.control import Foreign
from jstrace.runs.row import Row
from jstrace.runs.schema import CURVES_ADDED, edges_of, fields


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One input on its way into the tables; ``given`` is None where the text could not be encoded."""

    index: int
    row: Row
    given: Input | None
    found: Outcome | Invalid
    foreign: Foreign | None = None
    """The control, where the run has one and the input allows it."""
    repeats: Float32[np.ndarray, "R C Z1"] | None = None
    """TV of its repetitions, of every curve of the plan, where the run has any."""
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Of the table of inputs, beside those that ``schema.fields`` fills."""


class _InputRow:
    k = -1
    """The full graph, of ``found``."""

    def __init__(self, entry: Entry, plan: Plan, word: Callable[[int], str], count: Callable[[int], int]) -> None:
        self.input, self.row, self.given, self.plan = entry.index, entry.row, entry.given, plan
        self.word, self.count = word, count
        self.tokens = None if entry.given is None else entry.given.tokens.tolist()
        self.outcome = entry.found if isinstance(entry.found, Outcome) else None
        self.reason = entry.found.reason if isinstance(entry.found, Invalid) else None
        self.foreign = None if self.outcome is None else entry.foreign
        evaluations = () if self.outcome is None else self.outcome.evaluations
        self.found = next((evaluation for evaluation in evaluations if not evaluation.inverse), None)
        self.top = int(evaluations[0].full_tokens[0]) if evaluations else None


class _SizeRow(NamedTuple):
    """What the columns of the other tables are filled by: of one case or source, at one size but for ``strata``."""

    input: int
    name: str
    found: Evaluation | Composition | EdgeTree
    k: int = 0
    size: float = 1.0
    edges: int = 0
    foreign: Float32[np.ndarray, "N"] | None = None
    """TV from each foreign prediction, where there is a control."""
    flops: float | None = None
    repeats: Float32[np.ndarray, "R"] | None = None
    """TV of the same with weights that differ by rounding."""


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
    every = fields(plan, tuple(CURVES_ADDED))
    columns = {name: [field for field in every[name] if field.name in schema.names] for name, schema in wanted.items()}
    rows = {name: list[dict[str, Any]]() for name in wanted}

    def cells(table: str, row: object) -> dict[str, Any]:
        return {field.name: field.cell(row) for field in columns[table]}

    for entry in entries:
        rows["inputs"].append(cells("inputs", _InputRow(entry, plan, word, count)) | dict(entry.columns))
        if isinstance(entry.found, Outcome):
            for name in wanted.keys() & _ROWS.keys():
                rows[name] += [cells(name, row) for row in _ROWS[name](entry, entry.found, plan)]
    return {name: _table(rows[name], schema) for name, schema in wanted.items()}


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table; pyarrow drops what the schema lacks without a word, which is a bug of the caller."""
    unknown = {name for row in rows for name in row} - set(schema.names)
    assert not unknown, f"no column {', '.join(sorted(unknown))} in the schema"
    return pa.Table.from_pylist(rows, schema=schema)


def _curve_rows(entry: Entry, outcome: Outcome, plan: Plan) -> Iterator[_SizeRow]:
    foreign = {} if entry.foreign is None else dict(zip(plan.controlled, entry.foreign.tv, strict=True))
    at = list(enumerate(zip([*plan.sizes, 1.0], edges_of(plan, outcome), strict=True)))
    made = dict(zip(plan.sources, outcome.compositions, strict=True))
    for number, (case, evaluation) in enumerate(zip(plan.cases, outcome.evaluations, strict=True)):
        costs = made[case.source].flops.total(case.condition).tolist()
        for k, (size, edges) in at:
            control = foreign[case][:, k] if case in foreign else None
            cost = None if evaluation.inverse else costs[k]
            again = None if entry.repeats is None else entry.repeats[:, number, k]
            yield _SizeRow(entry.index, case.name, evaluation, k, size, edges, control, cost, again)


def _component_rows(entry: Entry, outcome: Outcome, plan: Plan) -> Iterator[_SizeRow]:
    for source, made in zip(plan.sources, outcome.compositions, strict=True):
        for k, size in enumerate([*plan.sizes, 1.0]):
            yield _SizeRow(entry.index, source.name, made, k, size)


def _strata_rows(entry: Entry, outcome: Outcome, plan: Plan) -> Iterator[_SizeRow]:
    for source, strata in zip(plan.sources, outcome.strata, strict=True):
        yield _SizeRow(entry.index, source.name, strata)


_ROWS = {"curves": _curve_rows, "components": _component_rows, "strata": _strata_rows}
