"""Runs: every input of a dataset through a plan, in parts on disk, so that whatever stops a run, it goes on later."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jstrace
from jstrace import devices, machine, run_folder, tables, tracing
from jstrace.data import Data, Row, next_token, token_counts
from jstrace.measures import NUCLEUS_LEVELS
from jstrace.model import Model
from jstrace.models import InputError
from jstrace.pipeline import Invalid, Outcome, Plan, process
from jstrace.tables import Entry, Part

_PART = {"cpu": 16}
_PART_ACCELERATOR = 64
"""Inputs of a part for each device along ``data``: what a killed run computes again, at most."""

Progress = Callable[[int, int, int], None]
"""Called with the inputs done, those of them done before this call, and all."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run came to."""

    inputs: int
    invalid: int
    computed: int
    """In this call; the others were there."""


def run(
    model: Model,
    data: Data,
    out: str | Path,
    plan: Plan | None = None,
    *,
    name: str = "",
    limit: int | None = None,
    save_strata: bool = False,
    part_inputs: int | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Evaluate every input and write the results into a folder, or go on with what is there.

    Args:
      model: from ``jstrace.load``, with a tokenizer.
      data: from ``jstrace.data.read_data``.
      out: the folder of the results; docs/results.md describes it.
      plan: what is asked of every input.
      name: what the model is called in the manifest and in reports.
      limit: the number of inputs at most; a later call may ask for more.
      save_strata: keep the strata of every input, too.
      part_inputs: inputs of a part.
      progress: see ``Progress``.

    Raises:
      InputError: a folder of another run, with the difference; a damaged part; a folder that another run is writing to;
        no room; or a model without a tokenizer.
    """
    plan = plan or Plan()
    folder, wanted = Path(out), _wanted(data, limit)
    if model.tokenizer is None:
        raise InputError("this model came without a tokenizer; a run needs one")
    counts = token_counts(model.tokenizer, data.corpus)  # refused here where the tokenizer cannot be read
    config = run_folder.configuration(plan, data, save_strata=save_strata, fingerprint=model.fingerprint())
    devices.check_agreed((config, wanted, part_inputs))
    names = list(tables.schemas(plan, save_strata=save_strata))
    with run_folder.locked(folder):
        facts, session = _facts(model, data, plan, name, counts.total()), _session(model)
        devices.together(functools.partial(run_folder.clear, folder, config, names))
        parts = devices.together(functools.partial(run_folder.opened, folder, config, facts, session, names))
        done = devices.either(_done(parts, wanted))
        before = finished = int(done.sum())

        def advance(n: int) -> None:
            if progress is not None:
                progress(finished + n, before, wanted)

        chunks = _chunks(np.flatnonzero(~done).tolist(), part_inputs or _part_size(model))
        for number, chunk in enumerate(chunks):
            entries = _computed(model, plan, data.rows, chunk, advance)
            finished += len(chunk)
            mine = number % jax.process_count() == jax.process_index()
            save = functools.partial(_saved, folder, model, plan, save_strata, entries, counts.__getitem__)
            devices.together(save if mine else _nothing)
        return Summary(wanted, _count_invalid(folder, names, wanted), wanted - before)


def _nothing() -> None:
    pass


def _wanted(data: Data, limit: int | None) -> int:
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit}, expected at least one input")
    return min(len(data.rows), limit or len(data.rows))


def _part_size(model: Model) -> int:
    platform = jax.devices()[0].platform
    return _PART.get(platform, _PART_ACCELERATOR) * devices.n_data(model.mesh)


def _chunks(indices: Sequence[int], size: int) -> list[list[int]]:
    """Indices in their order, in runs of neighbours of at most ``size``."""
    found: list[list[int]] = []
    for index in indices:
        if not found or len(found[-1]) == size or found[-1][-1] + 1 != index:
            found.append([])
        found[-1].append(index)
    return found


# --- one part -------------------------------------------------------------------------------------------------------


def _computed(
    model: Model, plan: Plan, rows: Sequence[Row], chunk: Sequence[int], advance: Callable[[int], None]
) -> list[Entry]:
    """The inputs of one part, in their order."""
    ids: dict[int, np.ndarray] = {}
    nexts: dict[int, int | None] = {}
    found: dict[int, Outcome | Invalid] = {}
    for index in chunk:
        try:
            ids[index] = tracing.tokenised(model, rows[index].text)[1][0]
            assert model.tokenizer is not None
            nexts[index] = next_token(model.tokenizer, rows[index], ids[index].tolist())
        except InputError as error:
            found[index] = Invalid(str(error))
    for index, outcome in process(model, plan, ids, nexts):
        found[index] = outcome
        advance(len(found))
    return [Entry(index, rows[index], ids.get(index), nexts.get(index), found[index]) for index in chunk]


def _saved(
    folder: Path, model: Model, plan: Plan, save_strata: bool, entries: list[Entry], count: Callable[[int], int]
) -> None:
    wanted = tables.schemas(plan, save_strata=save_strata)
    assert model.tokenizer is not None
    found = tables.part_tables(
        entries, plan, wanted, parallel=model.config.parallel, word=model.tokenizer.token, count=count
    )
    tables.write_part(folder, Part(entries[0].index, entries[-1].index), found)


def _facts(model: Model, data: Data, plan: Plan, name: str, corpus_tokens: int) -> dict[str, Any]:
    """What the manifest says beside the configuration."""
    return {
        "model": {"name": name, "dtype": str(model.dtype), "config": dataclasses.asdict(model.config)},
        "data": {"name": data.name, "rows": len(data.rows), "corpus_tokens": corpus_tokens},
        "conditions": [case.name for case in plan.cases],
        "sources": [source.name for source in plan.sources],
        "nucleus_levels": list(NUCLEUS_LEVELS),
    }


def _session(model: Model) -> dict[str, Any]:
    """What the manifest says of one call."""
    mesh = None if model.mesh is None else {axis: int(n) for axis, n in model.mesh.shape.items()}
    versions = {"jstrace": jstrace.__version__, **machine.versions()}
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"started": started, "versions": versions, "hardware": machine.hardware(), "mesh": mesh}


def _done(parts: Iterable[Part], wanted: int) -> np.ndarray:
    """Which inputs there are results of: bool ``[wanted]``."""
    found = np.zeros(wanted, bool)
    for part in parts:
        found[part.first : part.last + 1] = True
    return found


def _count_invalid(folder: Path, names: Sequence[str], wanted: int) -> int:
    """Of the inputs in this host's folder."""
    found = 0
    for part in tables.complete_parts(folder, names):
        rows = tables.read_part(folder, "inputs", part, ["input", "valid"]).to_pylist()
        found += sum(row["input"] < wanted and not row["valid"] for row in rows)
    return found
