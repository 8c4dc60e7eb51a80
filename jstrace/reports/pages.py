"""Inputs of a run as pages to look at, from the strata that it kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jstrace.errors import InputError
from jstrace.method.conditions import Case
from jstrace.reports.reading import read_results
from jstrace.reports.results import Results
from jstrace.runs import parts
from jstrace.runs.parts import Part
from jstrace.runs.schema import strata_arrays
from jstrace.show.page import Page, curve, page, panel
from jstrace.show.text import printable

_SIDES = 2
"""Traces that a page has beside each other at most."""


def view_input(
    folder: str | Path, index: int, conditions: Sequence[str] = (), *, word: Callable[[int], str] | None = None
) -> Page:
    """See one input of a run, which kept its strata (``save_strata``).

    Args:
      folder: of the run.
      index: of the input, as the run's tables number it.
      conditions: names of conditions, or of sources for all of their conditions; those of two sources stand beside each
        other. By default all of the first source but inverse ones.
      word: texts of predicted tokens; by default those of the run's own texts, and ids for others.

    Raises:
      InputError: no run, no such input or condition, an input that is invalid, or strata that were not kept.
    """
    runs = read_results([folder])
    if len(runs) > 1:
        raise InputError(f"{folder} holds {len(runs)} runs, one of each checkpoint; name one of their folders")
    return Pages(runs[0], word).page(index, conditions)


class Pages:
    """The pages of one run's inputs."""

    def __init__(self, run: Results, word: Callable[[int], str] | None = None) -> None:
        self._run, self._given = run, word
        self._last: tuple[tuple[Path, Part], pa.Table] | None = None

    @property
    def kept(self) -> bool:
        """Whether the run kept its strata, and all are still there: they may be removed to save room."""
        strata = ((folder / "strata" / part.file).is_file() for folder, part in self._run.parts)
        return bool(self._run.manifest["config"]["save_strata"]) and all(strata)

    def page(self, index: int, conditions: Sequence[str] = ()) -> Page:
        """The page of one input; see ``view_input``."""
        run, row = self._run, self._input(index)
        chosen = self._chosen(conditions)
        if not self.kept:
            raise InputError(
                f"{run.label}: this run kept no strata, or they were removed, and the page draws them; run it again"
                " with --save-strata, or view the text itself"
            )
        panels = [self._panel(row, source, cases) for source, cases in chosen.items()]
        words = f"{row['n_tokens']} tokens, {row['n_edges']:,} edges; edges ranked by {' and by '.join(chosen)}"
        return page(row["text"], panels, f"{words}; input {index} of {run.label}")

    def _input(self, index: int) -> dict[str, Any]:
        label, there = self._run.label, self._run.inputs["input"]
        places = np.flatnonzero(there.to_numpy() == index)
        if not len(places):
            raise InputError(f"{label}: no input {index}; it has {len(there)}, from {there[0]} to {there[-1]}")
        (row,) = self._run.inputs.slice(int(places[0]), 1).to_pylist()
        if not row["valid"]:
            raise InputError(f"{label}: input {index} is invalid and has no trace: {printable(row['reason'])}")
        return row

    def _chosen(self, names: Sequence[str]) -> dict[str, list[Case]]:
        run, by_source = self._run, dict[str, list[Case]]()
        for name in names or (run.source,):
            cases = [case for case in run.cases if case.name == name]
            cases = cases or [case for case in run.with_density if case.source.name == name]
            if not cases:
                raise InputError(f"{run.label}: no condition {name!r}, but {', '.join(run.conditions)}")
            for case in cases:
                members = by_source.setdefault(case.source.name, [])
                members += [] if case in members else [case]
        if len(by_source) > _SIDES:
            raise InputError(f"{', '.join(by_source)}: traces of two sources stand beside each other at most")
        return by_source

    def _panel(self, row: dict[str, Any], source: str, cases: Iterable[Case]) -> dict[str, Any]:
        strata = self.strata(row["input"], source)
        curves = [self._curve(row, case) for case in cases]
        counts = [*row["counts"], row["n_edges"]]
        return panel(source, row["token_texts"], strata, self._run.sizes, counts, curves, parallel=self._run.parallel)

    def strata(self, index: int, source: str) -> dict[str, np.ndarray]:
        """The strata of one input's traces, by the kind of edges."""
        run, row = self._run, self._input(index)
        folder, part = next((folder, part) for folder, part in run.parts if index in part.inputs)
        table = self._table(folder, part)
        rows = table.filter(pc.and_(pc.equal(table["input"], index), pc.equal(table["source"], source))).to_pylist()
        try:
            return strata_arrays(rows[0] | {"n_tokens": row["n_tokens"]})
        except (LookupError, ValueError, TypeError) as error:
            path = folder / "strata" / part.file
            raise InputError(f"{path}: damaged (no strata of input {index} and {source} in it)") from error

    def _table(self, folder: Path, part: Part) -> pa.Table:
        """Strata of a part. The last one is kept: inputs of a page after another are often of one part."""
        if self._last is None or self._last[0] != (folder, part):
            self._last = (folder, part), parts.read_part(folder, "strata", part, self._run.mark)
        return self._last[1]

    def _curve(self, row: dict[str, Any], case: Case) -> dict[str, Any]:
        curves = self._run.curves
        own = pc.and_(pc.equal(curves["input"], row["input"]), pc.equal(curves["condition"], case.name))
        rows = curves.filter(own).to_pydict()
        top = [self._word(token) for token in rows["top_token"]]
        repeats = rows.get("tv_repeats", [None])
        band = () if None in repeats else repeats  # inputs whose repetitions are not all finite have none
        return curve(case.name, rows["tv"], rows["kl"], top, [(row["top_text"], row["top_prob"])], band)

    def _word(self, token: int) -> str:
        return self._words.get(token, f"#{token}") if self._given is None else self._given(token)

    @functools.cached_property
    def _words(self) -> dict[int, str]:
        """Texts of the tokens that the run's inputs hold, or are predicted to go on with."""
        valid = self._run.valid
        pairs = [(pc.list_flatten(valid["tokens"]), pc.list_flatten(valid["token_texts"]))]
        pairs.append((valid["top_token"], valid["top_text"]))
        return {token: text for tokens, texts in pairs for token, text in _unique(tokens, texts)}


def _unique(tokens: pa.ChunkedArray, texts: pa.ChunkedArray) -> Iterable[tuple[int, str]]:
    pairs = pa.table({"token": tokens, "text": texts}).group_by(["token", "text"]).aggregate([])
    return zip(pairs["token"].to_pylist(), pairs["text"].to_pylist(), strict=True)
