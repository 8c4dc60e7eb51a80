"""Single edges, for people: what each one is, with its score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from jaxtyping import Float, Int

from jstrace.method.frames import frame
from jstrace.models import EDGE_KINDS, EdgeTree

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Edge:
    """One edge in words: ``kind`` is residual_attn, attn, residual_mlp or mlp; ``head`` is None but for attn.

    ``source`` and ``target`` are token positions, equal but for attn.

    Examples:
      >>> edge = trace.edges(size=0.1)[0]
      >>> edge.kind, edge.layer, edge.head, trace.words[edge.source]
      ('mlp', 0, None, ' called')
    """

    kind: str
    layer: int
    head: int | None
    source: int
    target: int
    score: float
    stratum: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Edges(Sequence[Edge]):
    """Edges as columns of the same length N; a sequence of ``Edge`` that makes each one when it is asked for.

    Examples:
      >>> edges = trace.edges(size=0.1)
      >>> len(edges), len(edges[edges.kind == "attn"])
      (29, 14)
      >>> edges.to_pandas()["source_text"][0]
      ' called'
    """

    kind: np.ndarray
    """One of residual_attn, attn, residual_mlp and mlp: an object array ``[N]`` of these four texts."""
    layer: Int[np.ndarray, "N"]
    head: Int[np.ndarray, "N"]
    """-1 but for attn."""
    source: Int[np.ndarray, "N"]
    target: Int[np.ndarray, "N"]
    score: Float[np.ndarray, "N"]
    stratum: Int[np.ndarray, "N"]
    """Index of the smallest trace that holds the edge; Z for none."""
    words: tuple[str, ...] = ()
    """The tokens of the text, for ``to_pandas``."""

    def __len__(self) -> int:
        return len(self.kind)

    @overload
    def __getitem__(self, index: int) -> Edge: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray) -> Edges: ...
    def __getitem__(self, index: Any) -> Edge | Edges:
        """One edge, or those of a slice, of a bool array or of an array of indices."""
        if isinstance(index, bool | np.bool_) or index is None or np.ndim(index) > 1:
            raise TypeError(f"edges are indexed by integers, slices, bool arrays or arrays of integers, not {index!r}")
        columns: list[Any] = [column[index] for column in self.columns().values()]
        if np.ndim(columns[0]) > 0:
            return dataclasses.replace(Edges(*columns), words=self.words)
        kind, layer, head, source, target, score, stratum = columns
        head = None if head < 0 else int(head)
        return Edge(str(kind), int(layer), head, int(source), int(target), float(score), int(stratum))

    def __iter__(self) -> Iterator[Edge]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether all columns are equal; to a list of ``Edge``, whether it holds the same edges."""
        if isinstance(other, list):
            return list(self) == other
        if not isinstance(other, Edges):
            return NotImplemented
        theirs = other.columns()
        return all(np.array_equal(column, theirs[name]) for name, column in self.columns().items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        kinds = ", ".join(f"{(self.kind == kind).sum():,} {kind}" for kind in EDGE_KINDS)
        return f"Edges({len(self):,} edges: {kinds})"

    def columns(self) -> dict[str, np.ndarray]:
        """The columns by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "words"}

    def levels(self, *, parallel: bool) -> Int[np.ndarray, "N"]:
        """The level that each edge leaves for the next: 2l into attention of layer l; l with parallel blocks."""
        late = np.isin(self.kind, ("residual_mlp", "mlp"))
        return self.layer if parallel else 2 * self.layer + late

    def to_pandas(self) -> pd.DataFrame:
        """A data frame of the columns, ``head`` missing but for attn, with the texts of tokens; needs pandas."""
        table = frame(self.columns()).astype({"head": "Int32"})
        table["head"] = table["head"].mask(table["head"] < 0)
        texts = np.asarray(self.words, object)
        return table.assign(**{f"{end}_text": texts[getattr(self, end)] for end in ("source", "target") if self.words})


def edges_where(chosen: EdgeTree, scores: EdgeTree, strata: EdgeTree, words: tuple[str, ...]) -> Edges:
    """The edges at which ``chosen`` (bool) holds, highest score first, ties by edge index; numpy on the host.

    ``words`` are the tokens of the text.
    """
    parts = []
    for number, (kind, wanted) in enumerate(chosen.items()):
        places = np.nonzero(np.asarray(wanted))
        score, stratum = (np.asarray(getattr(tree, kind))[places] for tree in (scores, strata))
        layer, *head, target = places[: -1 if kind == "attn" else None]
        source = places[-1]
        none = np.full(len(layer), -1)
        whole = (np.full(len(layer), number), layer, head[0] if head else none, source, target, stratum)
        parts.append((*(column.astype(np.int32) for column in whole), score))
    kinds, layer, heads, source, target, stratum, score = (np.concatenate(c) for c in zip(*parts, strict=True))
    order = np.argsort(-score, kind="stable")
    names = np.asarray(EDGE_KINDS, object)[kinds]
    columns: list[Any] = [column[order] for column in (names, layer, heads, source, target, score, stratum)]
    return dataclasses.replace(Edges(*columns), words=words)
