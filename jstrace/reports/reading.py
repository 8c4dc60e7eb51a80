"""Folders of runs read back, checked: several hosts' as one run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jstrace.errors import InputError
from jstrace.files import check_local
from jstrace.reports.results import ORDER, Results, plain
from jstrace.runs import manifest, parts
from jstrace.runs.parts import Part
from jstrace.runs.schema import density_column
from jstrace.show.text import printable


def read_results(folders: Sequence[str | Path]) -> list[Results]:
    """The runs in some folders, or in folders of their checkpoints; those of one run's hosts make one.

    Raises:
      InputError: no folder, a URL, one without a run or any result, damaged parts, or inputs that two folders hold.
    """
    groups: dict[tuple[str, Any], list[Path]] = {}
    for folder in folders:
        check_local(Path(folder))
    for folder in itertools.chain.from_iterable(_opened(Path(folder)) for folder in folders):
        told = manifest.read_manifest(folder)
        groups.setdefault((repr(told["config"]), told["model"].get("revision")), []).append(folder)
    if not groups:
        raise InputError("no folder of a run was given")
    runs = [_read(members) for members in groups.values()]
    labels = _unique([run.label for run in runs])
    return [dataclasses.replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _opened(folder: Path) -> list[Path]:
    """The folder, or the runs of a model's checkpoints that it holds, in their order."""
    if (folder / manifest.MANIFEST).exists() or not folder.is_dir():
        return [folder]
    paths = [path.parent for path in folder.glob(f"*/{manifest.MANIFEST}")]
    models = {path: manifest.read_manifest(path)["model"] for path in paths}
    places = {path: model["place"] for path, model in models.items() if "place" in model}
    others = sorted(path.name for path in models if path not in places)
    if places and others:
        raise InputError(f"{folder}: beside checkpoints of a model it holds {', '.join(others)}; name them one by one")
    return sorted(places, key=lambda path: (places[path], path.name)) or [folder]


def _read(folders: Sequence[Path]) -> Results:
    told = manifest.read_manifest(folders[0])
    complete = {folder: sorted(parts.complete_parts(folder, ("curves", "components", "inputs"))) for folder in folders}
    for folder, own in complete.items():
        parts.check_apart(folder, own)
    there = tuple((folder, part) for folder, own in complete.items() for part in own)
    if not there:
        raise InputError(f"{folders[0]}: no part of this run is complete yet")
    mark = manifest.mark_of(told["config"])
    inputs, curves = (_table(there, name, mark) for name in ("inputs", "curves"))
    _check_whole(told, inputs, curves, folders[0])
    indices = inputs["input"].to_numpy()
    twice = indices[:-1][np.diff(indices) == 0]
    if len(twice):
        raise InputError(f"{', '.join(map(str, folders))}: more than one of them holds input {twice[0]}")
    name = told["model"]["name"] or told["config"]["model"]
    return Results(printable(Path(name).name or name), told, inputs, curves, there)


def _check_whole(told: dict[str, Any], inputs: pa.Table, curves: pa.Table, folder: Path) -> None:
    """Refuse tables that lack what the manifest says of them."""
    plan, valid = manifest.plan_of(told["config"]), inputs.filter(inputs["valid"])
    floating = {field.name for field in inputs.schema if pa.types.is_floating(field.type)}
    for case in plan.cases:
        n_rows = pc.sum(pc.equal(curves["condition"], case.name)).as_py() or 0
        if n_rows != valid.num_rows * (len(plan.sizes) + 1):
            raise InputError(f"{folder}: damaged ({n_rows} rows of {case.name}, for {valid.num_rows} valid inputs)")
        if case.has_density and density_column(case.name) not in floating:
            raise InputError(f"{folder}: damaged (no numbers in the column {density_column(case.name)})")
    for table, names in ((valid, _KNOWN_OF_INPUTS), (curves, _KNOWN_OF_CURVES)):
        unknown = [name for name in names if table[name].null_count]
        if unknown:
            raise InputError(f"{folder}: damaged (valid inputs without {unknown[0]})")


_KNOWN_OF_INPUTS = ("tokens", "token_texts", "n_tokens", "n_edges", "counts", "top_token", "top_text", "top_prob")
_KNOWN_OF_CURVES = ("input", "k", "size", "edges", "tv", "kl", "top_token", "entropy", "nucleus")


def _table(there: Sequence[tuple[Path, Part]], table: str, mark: str) -> pa.Table:
    """All parts of a table, names as plain strings, in the order of inputs and sizes."""
    order = ORDER[:1] if table == "inputs" else ORDER
    read = [plain(parts.read_part(folder, table, part, mark)) for folder, part in there]
    try:
        return pa.concat_tables(read).sort_by(order)
    except pa.ArrowException as error:
        raise InputError(f"{there[0][0]}: damaged (parts of {table} have different columns)") from error


def _unique(labels: Sequence[str]) -> list[str]:
    before = [labels[:place].count(label) for place, label in enumerate(labels)]
    return [f"{label} ({n + 1})" if n else label for label, n in zip(labels, before, strict=True)]
