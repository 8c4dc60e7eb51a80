"""Texts, predictions and tables that experiments share."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import jstrace
from jstrace.method.graph.composition import Composition
from jstrace.models import Model
from jstrace.pipeline import stages
from jstrace.scale import batching

TYPES = ("residual", "attention", "mlp")
UNSEEN = (300, 310, 320, 330, 340)
"""Rows whose states no fit has seen."""


def texts_of(path: Path) -> list[str]:
    """The texts of a tab-separated file."""
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]


def unseen(model: Model, texts: list[str], n_tokens: int) -> list[jstrace.Replacement]:
    """States of texts that no fit has seen, filled up with those that follow them."""
    assert model.tokenizer is not None
    found = []
    for row in UNSEEN:
        joined = " ".join(texts[row : row + 8])
        found.append(jstrace.resample_replacement(model, model.tokenizer.encode(joined)[:n_tokens]))
    return found


def prediction(model: Model, text: str) -> np.ndarray:
    """Probabilities of the next token ``[V]``: one program for each bucket of lengths, not for each length."""
    assert model.tokenizer is not None
    ids = np.asarray(model.tokenizer.encode(text), np.int32)
    rows = batching.padded([ids], batching.bucket(len(ids)), 1)
    return np.exp(np.asarray(stages.predict_batch(model.decoder, *rows), np.float64)[0])


def makeup_of(made: Sequence[Composition], sizes: Sequence[float]) -> list[dict[str, Any]]:
    """Shares of edges by type, and by quarter of the depth, of the traces of each size; means over inputs."""
    rows = []
    for k, size in enumerate(sizes):
        kept = [one for one in made if one.edges[k]]
        shares = np.mean([one.quarters[k] for one in kept], axis=0)
        quarters = {f"quarter_{i}": float(share) for i, share in enumerate(shares, 1)}
        types = {name: float(np.mean([getattr(one, name)[k] for one in kept])) for name in TYPES}
        rows.append({"size": size, **types, **quarters})
    return rows


def written(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class Table:
    """A CSV file that grows: what it has already, by some of its columns, need not be made again."""

    def __init__(self, path: Path, *columns: str) -> None:
        """With the rows that the file has."""
        self.path, self.rows = path, read(path)
        self.known = {tuple(row[name] for name in columns) for row in self.rows}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        """Whether the file had rows of these values of the columns."""
        return tuple(map(str, key)) in self.known

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Rows, which the file has when this returns."""
        self.rows += rows
        written(self.path, self.rows)


def merged(path: Path, rows: Sequence[dict[str, Any]], order: Sequence[str]) -> list[dict[str, Any]]:
    """Write a table whose rows of other scores stay, in this order of scores; gives all of them.

    Columns are those of the new rows, of which rows of an earlier version may lack some.
    """
    fresh = {row["score"] for row in rows}
    others = [row for row in read(path) if row["score"] not in fresh]
    others = [{column: row.get(column, "") for column in rows[0]} for row in others] if rows else others
    every = sorted([*others, *rows], key=lambda row: order.index(row["score"]))
    if every:
        written(path, every)
    return every


def padded_to(width: int) -> Any:
    """All inputs of up to so many tokens in one bucket, while the context lasts."""
    real: Callable[[int], int] = batching.bucket
    return mock.patch.object(batching, "bucket", lambda n_tokens: width if n_tokens <= width else real(n_tokens))
