"""Runs read back: tables of one or several folders as arrays over valid inputs. No JAX, like all of this room."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jstrace.errors import InputError
from jstrace.method.conditions import ABLATIONS, Case
from jstrace.method.plans import Plan
from jstrace.runs import manifest, parts
from jstrace.runs.parts import Part
from jstrace.runs.schema import density_column
from jstrace.show.text import printable

ORDER = [("input", "ascending"), ("k", "ascending")]
"""Of the rows of a condition or a source."""


@dataclasses.dataclass(frozen=True)
class Results:
    """One run, of all its hosts. Arrays run over the N valid inputs, in the order of their indices."""

    label: str
    """The model's name, made unique among the runs of a report."""
    manifest: dict[str, Any]
    inputs: pa.Table
    """All inputs, the invalid ones among them."""
    curves: pa.Table
    parts: tuple[tuple[Path, Part], ...]
    """Every part with its folder."""
    axis: str = "edges"
    """What figures draw curves over, one of ``computation.AXES``."""

    @property
    def mark(self) -> str:
        """Of the run, which all its files carry."""
        return manifest.mark_of(self.manifest["config"])

    @functools.cached_property
    def plan(self) -> Plan:
        """What was asked of every input."""
        return manifest.plan_of(self.manifest["config"])

    @property
    def sizes(self) -> np.ndarray:
        """The sizes and 1.0, the full graph: float64 ``[Z + 1]``."""
        return np.asarray([*self.plan.sizes, 1.0])

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of all curves."""
        return tuple(case.name for case in self.cases)

    @property
    def cases(self) -> tuple[Case, ...]:
        """All curves."""
        return self.plan.cases

    @functools.cached_property
    def controlled(self) -> tuple[Case, ...]:
        """The curves whose selectivity is known, of one input or more."""
        if "selectivity" not in self.curves.column_names:
            return ()
        known = self.curves.filter(pc.is_valid(self.curves["selectivity"]))
        names = set(pc.unique(known["condition"]).to_pylist())
        return tuple(case for case in self.cases if case.name in names)

    @property
    def with_density(self) -> tuple[Case, ...]:
        """The curves that have a density: all but inverse ones."""
        return tuple(case for case in self.cases if case.has_density)

    def under(self, ablate: str, replace: str) -> list[Case]:
        """Those of them under one condition, with masks after the softmax."""
        condition = self.plan.case(ablate, replace=replace).condition
        return [case for case in self.with_density if case.condition == condition]

    @property
    def ablations(self) -> tuple[str, ...]:
        """Which edges were ablated: "all", "residual+mlp" or both, in this order."""
        return tuple(name for name in ABLATIONS if name in self.plan.ablations)

    @property
    def source(self) -> str:
        """The kind of traces that figures show: of the first score, in the first order."""
        return self.plan.case().source.name

    @property
    def revision(self) -> str | None:
        """What the run calls its model's checkpoint, if it is one of several."""
        name = self.manifest["model"].get("revision")
        return None if name is None else printable(name)

    @property
    def place(self) -> int:
        """Where the checkpoint stands among others."""
        return int(self.manifest["model"].get("place", 0))

    @property
    def generates(self) -> int:
        """Tokens generated after each row of the data, whose predictions are the inputs; 0 where rows are."""
        return int(self.manifest["config"].get("generate", 0))

    @property
    def precision(self) -> str:
        """The dtype of the model, and how its weights were stored where that is another."""
        model = self.manifest["model"]
        return f"{model['dtype']}, {model['weights']} weights" if model.get("weights") else model["dtype"]

    @property
    def rows_of_data(self) -> int:
        """Inputs of the whole run."""
        return int(self.manifest["data"]["rows"]) * max(1, self.generates)

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return int(self.manifest["model"]["config"]["n_layers"])

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP read the same state, so that a layer is one level of nodes."""
        return bool(self.manifest["model"]["config"].get("parallel", False))

    @functools.cached_property
    def valid(self) -> pa.Table:
        """The valid inputs."""
        return self.inputs.filter(self.inputs["valid"])

    @functools.cached_property
    def clusters(self) -> np.ndarray:
        """Which valid inputs depend on each other: a number for each pair or generated text, int64 ``[N]``."""
        rows = (self.valid["input"].to_numpy() // max(1, self.generates)).tolist()
        pairs = self.valid["pair"].to_pylist() if "pair" in self.valid.column_names else [None] * len(rows)
        numbers: dict[Any, int] = {}
        names = (row if pair is None else (pair,) for row, pair in zip(rows, pairs, strict=True))
        return np.asarray([numbers.setdefault(name, len(numbers)) for name in names], np.int64)

    @property
    def n(self) -> int:
        """Clusters of valid inputs, which intervals and p values are of."""
        return len(np.unique(self.clusters))

    @functools.cached_property
    def variant(self) -> str | None:
        """Of a run with pairs the variant that comes first in the data and has valid inputs."""
        if "variant" not in self.valid.column_names:
            return None
        return next((name for name in self.valid["variant"].to_pylist() if name is not None), None)

    @functools.cached_property
    def first(self) -> Results:
        """The same run without the other variants of its pairs, so that no input is there twice."""
        if self.variant is None:
            return self
        others = pc.fill_null(pc.not_equal(self.inputs["variant"], self.variant), False)
        inputs = self.inputs.filter(pc.invert(others))
        curves = self.curves.filter(pc.is_in(self.curves["input"], inputs["input"].combine_chunks()))
        return dataclasses.replace(self, inputs=inputs, curves=curves)

    def column(self, name: str) -> np.ndarray:
        """A number of each valid input; NaN where it is not known: float64 ``[N]``."""
        return _numbers(self.valid[name])

    def density(self, case: Case | str) -> np.ndarray:
        """Density of each valid input in a case, given as such or by its name: float64 ``[N]``."""
        return self.column(density_column(_name(case)))

    def curve(self, case: Case | str, measure: str) -> np.ndarray:
        """A measure of every valid input and size: float64 ``[N, Z + 1]``."""
        return _numbers(self.rows_of(case)[measure]).reshape(-1, len(self.sizes))

    def nucleus(self, case: Case | str) -> np.ndarray:
        """Whether each nucleus is recovered in order: bool ``[N, Z + 1, Q]``."""
        levels = np.asarray(pc.list_flatten(self.rows_of(case)["nucleus"]).to_numpy())
        shape = self.valid.num_rows, len(self.sizes), len(self.manifest["nucleus_levels"])
        if levels.size != math.prod(shape):
            raise InputError(f"{self.label}: damaged (its nuclei are not of {shape[-1]} levels)")
        return levels.reshape(shape)

    @property
    def shares(self) -> dict[str, np.ndarray]:
        """For each source the share of every component in the traces of a size: float64 ``[Z + 1, L, 2 + H]``.

        Components of a layer are its residual stream, its MLP and its heads. Shares are means over inputs, which all
        weigh the same; inputs whose trace of that size is empty are left out, and where there is no other it is NaN.
        """
        return {source: arrays[0] for source, arrays in self._components.items()}

    @property
    def node_shares(self) -> dict[str, np.ndarray]:
        """For each source the share of residual and MLP edges that traces hold, meaned over inputs: ``[Z + 1]``."""
        return {source: arrays[1] for source, arrays in self._components.items()}

    @functools.cached_property
    def _components(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return _components_of(self)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all kinds of traces."""
        return tuple(source.name for source in self.plan.sources)

    def rows_of(self, case: Case | str) -> pa.Table:
        """The rows of a curve, sorted by inputs and sizes."""
        return self.curves.filter(pc.equal(self.curves["condition"], _name(case)))


def _name(case: Case | str) -> str:
    return case if isinstance(case, str) else case.name


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _components_of(run: Results) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each source ``Results.shares`` and ``Results.node_shares``, read part by part: large models have large ones.

    Raises:
      InputError: the tables lack a source, or are those of another model.
    """
    totals = {source: (np.zeros(()), np.zeros(()), np.zeros(())) for source in run.sources}
    inputs = run.valid["input"].combine_chunks()
    for folder, part in run.parts:
        table = plain(parts.read_part(folder, "components", part, run.mark))
        own = table.filter(pc.is_in(table["input"], inputs))
        for source, (total, known, nodes) in totals.items():
            rows = own.filter(pc.equal(own["source"], source)).sort_by(ORDER)
            if rows.num_rows == 0:  # no input of the part counts
                continue
            edges = np.concatenate([_layered(run, rows[name]) for name in ("residual", "mlp", "heads")], axis=-1)
            share = edges / np.maximum(edges.sum(axis=(-1, -2), keepdims=True), 1)
            here, at_nodes = (edges.sum(axis=(-1, -2)) > 0).sum(axis=0), edges[..., :2].sum(axis=(-1, -2))
            at_nodes = at_nodes / np.maximum(at_nodes[:, -1:], 1)
            totals[source] = (total + share.sum(axis=0), known + here, nodes + at_nodes.sum(axis=0))
    lacking = [source for source, (_, known, _) in totals.items() if not known.ndim]
    if lacking:
        raise InputError(f"{run.label}: its parts hold no components of {lacking[0]}")
    with np.errstate(invalid="ignore"):
        sums = totals.items()  # of which every input has a full graph
        return {name: (total / known[:, None, None], nodes / known[-1]) for name, (total, known, nodes) in sums}


def _layered(run: Results, column: pa.ChunkedArray) -> np.ndarray:
    """Lists of edges as ``[N, Z + 1, L, components of a layer]``."""
    values, n_sizes = pc.list_flatten(column).to_numpy().astype(np.float64), len(run.sizes)
    if values.size % (len(column) * run.n_layers) or len(column) % n_sizes or not values.size:
        raise InputError(f"{run.label}: its components are not those of a model of {run.n_layers} layers")
    return values.reshape(len(column) // n_sizes, n_sizes, run.n_layers, -1)


def plain(table: pa.Table) -> pa.Table:
    """A table with its names as plain strings."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(pa.string()))
    return table
