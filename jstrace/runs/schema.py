"""The tables of a run as pyarrow schemas; docs/results.md describes every column. No JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import Any

import numpy as np
import pyarrow as pa

from jstrace.method.conditions import Plan, in_column

TABLES = ("curves", "components", "strata", "inputs")
"""In the order in which a part's files are written."""
OPTIONAL = ("strata",)
"""Tables that a finished part may lack: they are large, and whoever needs the room removes their files."""

EDGE_KINDS = ("residual_attn", "attn", "residual_mlp", "mlp")
"""The fields of an ``EdgeTree``, in the order of edge indices."""

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
        *((name, pa.binary()) for name in EDGE_KINDS),
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

_FOREIGN_CURVES = (("foreign_tvs", pa.list_(pa.float32())), ("foreign_tv", pa.float32()), ("selectivity", pa.float32()))
_FOREIGN_INPUTS = (("foreign_inputs", pa.list_(pa.int32())),)
"""Columns of runs that ask for selectivity, and of no other."""

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
}
"""Columns of the table of inputs that some runs have: with ``Extras``, and of data with pairs."""


def strata_arrays(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The strata of one row of the table ``strata``, uint8 by the names of an ``EdgeTree``."""
    shape = (row["layers"], row["n_tokens"])
    shapes = {"attn": (row["layers"], row["n_heads"], row["n_tokens"], row["n_tokens"])}
    return {name: np.frombuffer(row[name], np.uint8).reshape(shapes.get(name, shape)) for name in EDGE_KINDS}


def density_column(name: str) -> str:
    """The column of ``inputs`` with the density of a case: ``density_l1_residual_mlp``."""
    return "density_" + in_column(name)


_ALWAYS = {"curves": _CURVES, "components": _COMPONENTS, "strata": _STRATA, "inputs": _INPUTS}


def unlike(table: str, found: pa.Schema, columns: Sequence[str] | None = None) -> str | None:
    """The first column that every run's table has, or of these, and that this schema lacks or has in another type."""
    for field in _ALWAYS[table]:
        if columns is None or field.name in columns:
            same = [there for there in found if there.name == field.name and _plain(there.type) == _plain(field.type)]
            if len(same) != 1:
                return str(field.name)
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Names are written as dictionaries, which is no part of what they are."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def schemas(plan: Plan, *, save_strata: bool, added: Sequence[str] = ()) -> dict[str, pa.Schema]:
    """The schema of each table of a run, in the order in which a part's files are written; ``added``: of ``ADDED``."""
    densities = [(density_column(case.name), pa.float64()) for case in plan.cases if case.has_density]
    on_curves, on_inputs = (_FOREIGN_CURVES, _FOREIGN_INPUTS) if plan.selectivity else ((), ())
    more = [column for group in added for column in ADDED[group]]
    curves = pa.schema([*_CURVES, *starmap(pa.field, on_curves)])
    inputs = pa.schema([*_INPUTS, *starmap(pa.field, (*densities, *on_inputs, *more))])
    found = _ALWAYS | {"curves": curves, "inputs": inputs}
    return {name: found[name] for name in TABLES if name != "strata" or save_strata}
