"""What the traces of a run are made of, read from its table of components."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jstrace.errors import InputError

ORDER = [("input", "ascending"), ("k", "ascending")]
"""Of the rows of a condition or a source."""


def components_of(
    label: str,
    tables: Iterable[pa.Table],
    inputs: pa.ChunkedArray,
    sources: Sequence[str],
    n_sizes: int,
    n_layers: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each source ``Results.shares`` and ``Results.node_shares``.

    Args:
      label: of the run, which errors name.
      tables: of the run's parts, one after another, as those of large models are large.
      inputs: that count.
      sources: their names.
      n_sizes: Z + 1.
      n_layers: L.

    Raises:
      InputError: the tables lack a source, or are those of another model.
    """
    totals = {source: (np.zeros(()), np.zeros(()), np.zeros(())) for source in sources}
    for table in map(plain, tables):
        own = table.filter(pc.is_in(table["input"], inputs.combine_chunks()))
        for source, (total, known, nodes) in totals.items():
            rows = own.filter(pc.equal(own["source"], source)).sort_by(ORDER)
            if rows.num_rows == 0:  # no input of the part counts
                continue
            parts = (_layered(label, rows[name], n_sizes, n_layers) for name in ("residual", "mlp", "heads"))
            edges = np.concatenate([*parts], axis=-1)
            share = edges / np.maximum(edges.sum(axis=(-1, -2), keepdims=True), 1)
            here, at_nodes = (edges.sum(axis=(-1, -2)) > 0).sum(axis=0), edges[..., :2].sum(axis=(-1, -2))
            at_nodes = at_nodes / np.maximum(at_nodes[:, -1:], 1)
            totals[source] = (total + share.sum(axis=0), known + here, nodes + at_nodes.sum(axis=0))
    lacking = [source for source, (_, known, _) in totals.items() if not known.ndim]
    if lacking:
        raise InputError(f"{label}: its parts hold no components of {lacking[0]}")
    with np.errstate(invalid="ignore"):
        sums = totals.items()  # of which every input has a full graph
        return {name: (total / known[:, None, None], nodes / known[-1]) for name, (total, known, nodes) in sums}


def _layered(label: str, column: pa.ChunkedArray, n_sizes: int, n_layers: int) -> np.ndarray:
    """Lists of edges as ``[N, Z + 1, L, components of a layer]``."""
    values = pc.list_flatten(column).to_numpy().astype(np.float64)
    if values.size % (len(column) * n_layers) or len(column) % n_sizes or not values.size:
        raise InputError(f"{label}: its components are not those of a model of {n_layers} layers")
    return values.reshape(len(column) // n_sizes, n_sizes, n_layers, -1)


def plain(table: pa.Table) -> pa.Table:
    """A table with its names as plain strings."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(pa.string()))
    return table
