"""Single edges, for people: what each one is, with its score."""

from __future__ import annotations

import dataclasses

import numpy as np

from jstrace.models import EdgeTree


@dataclasses.dataclass(frozen=True)
class Edge:
    """One edge in words: ``kind`` is residual_attn, attn, residual_mlp or mlp; ``head`` is None but for attn.

    ``source`` and ``target`` are token positions, equal but for attn.
    """

    kind: str
    layer: int
    head: int | None
    source: int
    target: int
    score: float
    stratum: int


def edges_where(chosen: EdgeTree, scores: EdgeTree, strata: EdgeTree) -> list[Edge]:
    """The edges at which ``chosen`` (bool) holds, highest score first, ties by edge index; numpy on the host."""
    found: list[Edge] = []
    for kind, wanted in chosen.items():
        score, stratum = np.asarray(getattr(scores, kind)), np.asarray(getattr(strata, kind))
        for index in map(tuple, np.argwhere(np.asarray(wanted)).tolist()):
            head = index[1] if kind == "attn" else None
            found.append(
                Edge(
                    kind,
                    index[0],
                    head,
                    index[-1],
                    index[2 if kind == "attn" else 1],
                    float(score[index]),
                    int(stratum[index]),
                )
            )
    return sorted(found, key=lambda edge: -edge.score)
