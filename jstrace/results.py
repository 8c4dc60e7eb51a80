"""Runs read back: tables of one or several folders as arrays over valid inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jstrace import run_folder, tables
from jstrace.models import InputError
from jstrace.tables import density_column


@dataclasses.dataclass(frozen=True)
class Results:
    """One run, of all its hosts. Arrays run over the N valid inputs, in the order of their indices."""

    label: str
    """The model's name, made unique among the runs of a report."""
    manifest: dict[str, Any]
    inputs: pa.Table
    """All inputs, the invalid ones among them."""
    _curves: pa.Table
    _components: pa.Table

    @property
    def sizes(self) -> np.ndarray:
        """The sizes and 1.0, the full graph: float64 ``[Z + 1]``."""
        return np.asarray([*self.manifest["config"]["sizes"], 1.0])

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of all curves."""
        return tuple(self.manifest["conditions"])

    @property
    def ablations(self) -> tuple[str, ...]:
        """Which edges were ablated: "all", "residual+mlp" or both, in this order."""
        return tuple(name for name in ("all", "residual+mlp") if name in self.manifest["config"]["ablate"])

    @property
    def importance(self) -> str:
        """The first importance, which baselines belong to."""
        return str(self.manifest["config"]["importance"][0])

    @property
    def n_layers(self) -> int:
        """Of the model."""
        return int(self.manifest["model"]["config"]["n_layers"])

    @functools.cached_property
    def valid(self) -> pa.Table:
        """The valid inputs."""
        return self.inputs.filter(self.inputs["valid"])

    def column(self, name: str) -> np.ndarray:
        """A number of each valid input; NaN where it is not known: float64 ``[N]``."""
        return _numbers(self.valid[name])

    def density(self, condition: str) -> np.ndarray:
        """Density of each valid input under a condition: float64 ``[N]``."""
        return self.column(density_column(condition))

    def curve(self, condition: str, measure: str) -> np.ndarray:
        """A measure of every valid input and size: float64 ``[N, Z + 1]``."""
        return _numbers(self._of(condition)[measure]).reshape(-1, len(self.sizes))

    def nucleus(self, condition: str) -> np.ndarray:
        """Whether each nucleus is recovered in order: bool ``[N, Z + 1, Q]``."""
        levels = pc.list_flatten(self._of(condition)["nucleus"]).to_numpy()
        return np.asarray(levels).reshape(-1, len(self.sizes), len(self.manifest["nucleus_levels"]))

    def components(self, source: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges of each residual stream ``[N, Z + 1, L]``, MLP (the same) and head ``[N, Z + 1, L, H]`` of traces."""
        found = self._components.filter(pc.equal(self._components["source"], source))
        shape = (self.valid.num_rows, len(self.sizes), self.n_layers)
        residual, mlp, heads = (pc.list_flatten(found[name]).to_numpy() for name in ("residual", "mlp", "heads"))
        return residual.reshape(shape), mlp.reshape(shape), heads.reshape(*shape, -1)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of all kinds of traces."""
        return tuple(self.manifest["sources"])

    def _of(self, condition: str) -> pa.Table:
        return self._curves.filter(pc.equal(self._curves["condition"], condition))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).to_numpy())


def read_results(folders: Sequence[str | Path]) -> list[Results]:
    """The runs in some folders; folders with parts of the same run, one for each host, make one.

    Raises:
      InputError: no folder, one without a run or without any result, damaged parts, or inputs that two folders hold.
    """
    groups: dict[str, list[Path]] = {}
    for folder in map(Path, folders):
        groups.setdefault(repr(run_folder.read_manifest(folder)["config"]), []).append(folder)
    if not groups:
        raise InputError("no folder of a run was given")
    found = [_read(members) for members in groups.values()]
    labels = _unique([run.label for run in found])
    return [dataclasses.replace(run, label=label) for run, label in zip(found, labels, strict=True)]


def _read(folders: Sequence[Path]) -> Results:
    manifest = run_folder.read_manifest(folders[0])
    read = {name: _table(folders, name) for name in ("inputs", "curves", "components")}
    indices = read["inputs"]["input"].to_numpy()
    if len(indices) == 0:
        raise InputError(f"{folders[0]}: no part of this run is complete yet")
    if len(np.unique(indices)) != len(indices):
        raise InputError(f"{', '.join(map(str, folders))}: the same inputs stand in more than one of them")
    name = manifest["model"]["name"] or manifest["config"]["model"]
    label = Path(name).name or name
    return Results(label, manifest, read["inputs"], read["curves"], read["components"])


_ALL_TABLES = ("curves", "components", "inputs")


def _table(folders: Sequence[Path], table: str) -> pa.Table:
    """All complete parts of a table, names as plain strings, in the order of inputs and sizes."""
    names = [("input", "ascending"), *([] if table == "inputs" else [("k", "ascending")])]
    parts = []
    for folder in folders:
        complete = sorted(tables.complete_parts(folder, _ALL_TABLES))
        run_folder.check_apart(folder, complete)
        parts += [_plain(tables.read_part(folder, table, part)) for part in complete]
    if not parts:
        raise InputError(f"{folders[0]}: no part of this run is complete yet")
    return pa.concat_tables(parts).sort_by(names)


def _plain(table: pa.Table) -> pa.Table:
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(pa.string()))
    return table


def _unique(labels: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        found.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return found
