"""The tables of a run, column by column, and what adds columns to them; docs/results.md describes each. No JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from jstrace.errors import InputError
from jstrace.method.conditions import MOST_TOKENS, checked_repeats, checked_temperature
from jstrace.method.graph import sizes
from jstrace.method.plans import Plan, in_column

MANIFEST = "manifest.json"
TABLES = ("curves", "components", "strata", "inputs")
"""In the order in which a part's files are written."""
OPTIONAL = ("strata",)
"""Tables that a finished part may lack: they are large, and whoever needs the room removes their files."""

EDGE_KINDS = ("residual_attn", "attn", "residual_mlp", "mlp")
"""The fields of an ``EdgeTree``, in the order of edge indices."""


class Field(NamedTuple):
    """One column, and how it is filled: by a row's object, of ``rows``, of which an attribute may be ``needed``."""

    name: str
    type: pa.DataType
    of: Callable[[Any], Any]
    needed: str | None = None
    """Where this is None there is nothing to say, and the cell is null."""

    def cell(self, row: Any) -> Any:
        """What stands in a row."""
        return None if self.needed is not None and getattr(row, self.needed) is None else self.of(row)


def _measured(name: str, kind: pa.DataType, attribute: str | None = None) -> Field:
    """A column of what was measured, null where it was not: all that a new measure needs here."""

    def of(row: Any) -> Any:
        values = getattr(row.found, attribute or name)
        return None if values is None else values[row.k].tolist()

    return Field(name, kind, of, "found")


_NAMES = pa.dictionary(pa.int32(), pa.string())
_INPUT = Field("input", pa.int32(), lambda row: row.input)
_AT_SIZE = (Field("k", pa.int16(), lambda row: row.k), Field("size", pa.float64(), lambda row: row.size))

_CURVES = (
    _INPUT,
    Field("condition", _NAMES, lambda row: row.name),
    *_AT_SIZE,
    Field("edges", pa.int64(), lambda row: row.edges),
    _measured("tv", pa.float32()),
    _measured("kl", pa.float32()),
    _measured("agreement", pa.bool_()),
    _measured("top_token", pa.int32()),
    _measured("entropy", pa.float32()),
    _measured("surprisal", pa.float32()),
    _measured("rank", pa.int32()),
    _measured("recovered", pa.float64(), "nucleus_level"),
    _measured("nucleus", pa.list_(pa.bool_())),
    _measured("nucleus_unordered", pa.list_(pa.bool_())),
)
_COMPONENTS = (
    _INPUT,
    Field("source", _NAMES, lambda row: row.name),
    *_AT_SIZE,
    _measured("edges", pa.int64()),
    _measured("nodes", pa.int64()),
    _measured("input_reached", pa.bool_()),
    _measured("residual", pa.list_(pa.int32()), "residual_edges"),
    _measured("mlp", pa.list_(pa.int32()), "mlp_edges"),
    Field("heads", pa.list_(pa.int32()), lambda row: row.found.head_edges[row.k].ravel().tolist()),
)


def _stratum(kind: str) -> Field:
    return Field(kind, pa.binary(), lambda row: np.ascontiguousarray(getattr(row.found, kind)).tobytes())


_STRATA = (
    _INPUT,
    Field("source", _NAMES, lambda row: row.name),
    Field("layers", pa.int32(), lambda row: row.found.attn.shape[0]),
    Field("n_heads", pa.int32(), lambda row: row.found.attn.shape[1]),
    Field("n_tokens", pa.int32(), lambda row: row.found.attn.shape[2]),
    *map(_stratum, EDGE_KINDS),
)
_INPUTS = (
    _INPUT,
    Field("valid", pa.bool_(), lambda row: row.outcome is not None),
    Field("reason", pa.string(), lambda row: row.reason),
    Field("text", pa.string(), lambda row: row.row.text),
    Field("next_word", pa.string(), lambda row: row.row.next_word),
    Field("tokens", pa.list_(pa.int32()), lambda row: row.tokens, "tokens"),
    Field("token_texts", pa.list_(pa.string()), lambda row: [row.word(token) for token in row.tokens], "tokens"),
    Field("n_tokens", pa.int32(), lambda row: len(row.tokens), "tokens"),
    Field("n_edges", pa.int64(), lambda row: row.outcome.n_edges, "outcome"),
    Field("counts", pa.list_(pa.int32()), lambda row: edges_of(row.plan, row.outcome)[:-1], "outcome"),
    Field("next_token", pa.int32(), lambda row: row.given.next_token, "given"),
    _measured("entropy", pa.float32()),
    _measured("surprisal", pa.float32()),
    _measured("rank", pa.int32()),
    Field("top_token", pa.int32(), lambda row: row.top, "outcome"),
    Field("top_text", pa.string(), lambda row: row.word(row.top), "outcome"),
    Field("top_prob", pa.float32(), lambda row: row.outcome.evaluations[0].full_probs[0].item(), "outcome"),
    Field("top_count", pa.int64(), lambda row: row.count(row.top), "outcome"),
)

_FOREIGN_CURVES = (
    Field("foreign_tvs", pa.list_(pa.float32()), lambda row: row.foreign.tolist(), "foreign"),
    Field("foreign_tv", pa.float32(), lambda row: row.foreign.mean().item(), "foreign"),
    Field("selectivity", pa.float32(), lambda row: (row.foreign.mean() - row.found.tv[row.k]).item(), "foreign"),
)
_FOREIGN_INPUTS = (Field("foreign_inputs", pa.list_(pa.int32()), lambda row: list(row.foreign.inputs), "foreign"),)
"""Columns of runs that ask for selectivity, and of no other."""

_FLOPS_CURVES = (Field("flops", pa.float64(), lambda row: row.flops),)
"""Of all runs but those that earlier versions began."""

_REPEATED_CURVES = (
    Field("tv_repeats", pa.list_(pa.float32()), lambda row: row.repeats.tolist(), "repeats"),
    Field("tv_std", pa.float32(), lambda row: row.repeats.std(ddof=1).item(), "repeats"),
)
"""Of runs that repeat their scores."""

_METRIC_CURVES = (_measured("metric", pa.float32()), _measured("metric_recovered", pa.float32(), "recovered"))
"""Of data with counterfactuals or answers: ``recovered`` is the nucleus level in files."""

ADDED = {
    "generate": (
        ("row", pa.int32()),
        ("step", pa.int32()),
        ("generated_token", pa.int32()),
        ("generated_text", pa.string()),
        ("generated_prob", pa.float32()),
    ),
    "geometry": (("dimension", pa.list_(pa.float32())), ("anisotropy", pa.list_(pa.float32()))),
    "pairs": (("pair", pa.string()), ("variant", pa.string())),
    "questions": (("counterfactual", pa.string()), ("answer", pa.string()), ("rival", pa.string())),
}
"""Columns of the table of inputs that some runs have: with ``Extras``, and of data with pairs. Inputs bring them."""


CURVES_ADDED = {"flops": _FLOPS_CURVES, "questions": _METRIC_CURVES, "repeats": _REPEATED_CURVES}
"""Columns of the table of curves that some runs have."""


def edges_of(plan: Plan, outcome: Any) -> list[int]:
    """Edges of each trace of an outcome, and of the full graph."""
    return [*sizes.counts(plan.sizes, outcome.n_edges).tolist(), outcome.n_edges]


def density_column(name: str) -> str:
    """The column of ``inputs`` with the density of a case: ``density_l1_residual_mlp``."""
    return "density_" + in_column(name)


def fields(plan: Plan, added: Sequence[str] = ()) -> dict[str, tuple[Field, ...]]:
    """The columns of each table of a run, but for those of ``ADDED`` on the table of inputs."""
    on_curves, on_inputs = (_FOREIGN_CURVES, _FOREIGN_INPUTS) if plan.selectivity else ((), ())
    for group, columns in CURVES_ADDED.items():
        on_curves = (*on_curves, *columns) if group in added else on_curves

    def density(number: int, name: str) -> Field:
        return Field(density_column(name), pa.float64(), lambda row: row.outcome.evaluations[number].density, "outcome")

    densities = [density(number, case.name) for number, case in enumerate(plan.cases) if case.has_density]
    return _ALWAYS | {"curves": (*_CURVES, *on_curves), "inputs": (*_INPUTS, *densities, *on_inputs)}


_ALWAYS: dict[str, tuple[Field, ...]] = dict(zip(TABLES, (_CURVES, _COMPONENTS, _STRATA, _INPUTS), strict=True))
"""The columns that every run's tables have."""


def schemas(plan: Plan, *, save_strata: bool, added: Sequence[str] = ()) -> dict[str, pa.Schema]:
    """The schema of each table of a run, in the order in which a part's files are written.

    ``added`` are groups of ``ADDED``, and "flops".
    """
    columns_of = {name: [field[:2] for field in columns] for name, columns in fields(plan, added).items()}
    columns_of["inputs"] += [column for group in added for column in ADDED.get(group, ())]
    return {name: pa.schema(columns_of[name]) for name in TABLES if name != "strata" or save_strata}


def unlike(table: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> str | None:
    """The first column that every run's table has, or of these, and that this schema lacks or has in another type."""
    for field in _ALWAYS[table]:
        if columns is None or field.name in columns:
            same = [there for there in schema if there.name == field.name and _plain(there.type) == _plain(field.type)]
            if len(same) != 1:
                return field.name
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Names are written as dictionaries, which is no part of what they are."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def strata_arrays(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The strata of one row of the table ``strata``, uint8 by the names of an ``EdgeTree``."""
    shape = (row["layers"], row["n_tokens"])
    shapes = {"attn": (row["layers"], row["n_heads"], row["n_tokens"], row["n_tokens"])}
    return {name: np.frombuffer(row[name], np.uint8).reshape(shapes.get(name, shape)) for name in EDGE_KINDS}


# --- what a run asks beside its plan --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Extras:
    """What is asked beside the plan."""

    generate: int = 0
    """Tokens that are generated after each row of the data, whose predictions are the inputs; 0: rows are inputs."""
    temperature: float = 0.0
    """Of draws; 0 takes the most probable tokens."""
    geometry: bool = False
    """Whether the geometry of hidden states is measured."""
    repeats: int = 0
    """How often scores and evaluations are made again with weights that differ by rounding (``pipeline.repeats``)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The groups of columns (``ADDED``) that they bring."""
        return tuple(name for name in ("generate", "geometry", "repeats") if getattr(self, name))


NOTHING = Extras()
"""Nothing is added."""


def checked_extras(extras: Extras, *, selectivity: int) -> Extras:
    """What is asked beside a plan, as it may be.

    Raises:
      InputError: no numbers of tokens, no temperature, or what does not go together.
    """
    counted = isinstance(extras.generate, int) and not isinstance(extras.generate, bool)
    if not (counted and 0 <= extras.generate <= MOST_TOKENS):
        expected = f"a number of tokens up to {MOST_TOKENS:,}, 0 for none"
        raise InputError(f"generate = {extras.generate!r}, expected {expected}")
    temperature, repeats = checked_temperature(extras.temperature), checked_repeats(extras.repeats)
    checked = dataclasses.replace(extras, temperature=temperature, repeats=repeats)
    if checked.temperature and not checked.generate:
        raise InputError("temperature is for generated tokens; ask for some")
    if checked.generate and selectivity:
        raise InputError("selectivity tells an input what others predict, and those next to it are the same text here")
    return checked
