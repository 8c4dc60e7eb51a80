"""All measures of one trace, and what stands out in them, in words: hubs and communities."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int

from jstrace.analysis import measures
from jstrace.analysis.measures import Network, network_of
from jstrace.errors import InputError
from jstrace.method.frames import frame
from jstrace.method.graph.sizes import percent
from jstrace.pipeline.answers import check_one_output
from jstrace.pipeline.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("in_degree", "out_degree", "betweenness", "pagerank", "backward_pagerank")
"""What hubs can be ranked by."""


@dataclasses.dataclass(frozen=True)
class Hub:
    """A node that stands out, named by token, layer and kind, with all of its measures."""

    kind: str
    """"embedding", "after attention", "after MLP", "after block" (parallel blocks), or "output"."""
    layer: int | None
    """From 0; None for an embedding."""
    position: int
    """Of the token, from 0."""
    token: str
    level: int
    in_degree: int
    out_degree: int
    betweenness: float
    pagerank: float
    backward_pagerank: float
    community: int


@dataclasses.dataclass(frozen=True)
class Community:
    """One community: how large it is, and where in the graph it lies."""

    number: int
    nodes: int
    edges: int
    """With both ends in it."""
    levels: tuple[int, int]
    """The first and the last that it has nodes of."""
    positions: tuple[int, int]
    position: int
    """The token that most of its nodes are of, the first of several,"""
    token: str
    """and its text."""
    share: float
    """Of its nodes that are of that token."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """A trace at one size as a network. Arrays run over its N nodes, in the order of level and token.

    Degrees, PageRank and the modularity of the given communities are exact; so is betweenness where ``exact`` says so,
    and otherwise an estimate from ``sources`` nodes drawn by ``seed``. Communities are a heuristic's, by ``seed``. Two
    are equal only if they are the same object.

    Examples:
      >>> found = jstrace.analyse(trace, size=1)
      >>> found.hubs(1, by="out_degree")[0].kind
      'embedding'
    """

    k: int
    """Index of the trace; Z is the full graph."""
    size: float
    """The same as a share of all edges."""
    network: Network
    in_degree: Int[np.ndarray, "N"]
    """Edges, every head counted apart,"""
    out_degree: Int[np.ndarray, "N"]
    betweenness: Float[np.ndarray, "N"]
    """From 0 to 1: share of the paths between two other nodes that lead through it; heads are not told apart."""
    pagerank: Float[np.ndarray, "N"]
    """Along the edges; sums to 1."""
    backward_pagerank: Float[np.ndarray, "N"]
    """Against the edges; sums to 1."""
    community: Int[np.ndarray, "N"]
    """From 0, the largest first."""
    modularity: float
    """Of these communities, from -1/2 to 1; NaN of no edges."""
    sources: int
    """Nodes that betweenness was counted from: N, where it is exact."""
    seed: int
    words: tuple[str, ...]
    """The text of each token, or its id."""
    parallel: bool

    @property
    def exact(self) -> bool:
        """Whether betweenness is counted, and not estimated."""
        return self.sources == self.network.n_nodes

    @property
    def n_communities(self) -> int:
        """How many communities there are."""
        return int(self.community.max(initial=-1)) + 1

    def hubs(self, count: int = 10, by: str = "betweenness") -> tuple[Hub, ...]:
        """The nodes with most of a measure, ties in the order of level and token; all of them if there are fewer.

        Raises:
          InputError: a measure that is none of ``MEASURES``.
        """
        if by not in MEASURES:
            raise InputError(f"by = {by!r}, expected one of {', '.join(MEASURES)}")
        order = np.argsort(-getattr(self, by), kind="stable")[: max(0, count)]
        return tuple(self._hub(int(index)) for index in order)

    def communities(self, count: int = 10) -> tuple[Community, ...]:
        """The largest communities."""
        return tuple(self._community(number) for number in range(min(max(0, count), self.n_communities)))

    def to_pandas(self) -> pd.DataFrame:
        """A row for every node, with the text of its token; needs pandas."""
        columns = {"level": self.network.level, "position": self.network.position}
        columns["token"] = np.asarray(self.words, object)[self.network.position]
        return frame(columns | {name: getattr(self, name) for name in (*MEASURES, "community")})

    def __repr__(self) -> str:
        nodes, edges = self.network.n_nodes, self.network.n_edges
        communities = f"{self.n_communities} communities, modularity {self.modularity:.3f}"
        return f"Analysis({percent(self.size, 3)} of all edges: {nodes:,} nodes, {edges:,} edges, {communities})"

    def _hub(self, index: int) -> Hub:
        level, position = int(self.network.level[index]), int(self.network.position[index])
        kind, layer = named(level, parallel=self.parallel)
        if kind != "embedding" and level == self.network.n_levels - 1:
            kind = "output"
        numbers: dict[str, Any] = {name: getattr(self, name)[index].item() for name in (*MEASURES, "community")}
        return Hub(kind, layer, position, self.words[position], level, **numbers)

    def _community(self, number: int) -> Community:
        here, net = self.community == number, self.network
        level, position = net.level[here], net.position[here]
        most = np.bincount(position)
        return Community(
            number=number,
            nodes=int(here.sum()),
            edges=int(net.count[here[net.source] & here[net.target]].sum()),
            levels=(int(level.min()), int(level.max())),
            positions=(int(position.min()), int(position.max())),
            position=int(most.argmax()),
            token=self.words[int(most.argmax())],
            share=float(most.max() / most.sum()),
        )


def named(level: int, *, parallel: bool) -> tuple[str, int | None]:
    """What a node of a level is, and its layer."""
    if level == 0:
        return "embedding", None
    if parallel:
        return "after block", level - 1
    return ("after attention", "after MLP")[(level + 1) % 2], (level - 1) // 2


def analyse(
    trace: Trace,
    k: SupportsIndex | None = None,
    *,
    size: float | None = None,
    sources: int = measures.SOURCES,
    seed: int = 0,
) -> Analysis:
    """A trace at one size as a network: degrees, betweenness, PageRank, communities. Needs networkx.

    Args:
      trace: of one input.
      k: index into its sizes; Z is the full graph.
      size: one of its sizes, or 1 for the full graph; one of the two is given.
      sources: that betweenness is counted from at most; it is exact up to so many nodes, which takes some
        ten seconds.
      seed: of the sources, where there are more nodes, and of the communities.

    Examples:
      >>> jstrace.analyse(trace, size=0.1).network.n_edges
      29

    Raises:
      InputError: no such trace, neither or both of ``k`` and ``size``, fewer than one source, several outputs, or
        networkx is missing.
    """
    check_one_output(trace, "analyse")
    index = trace.index(k, size=size)
    network = network_of(trace.strata, index, parallel=trace.config.parallel)
    into, out = measures.degrees(network)
    between, counted = measures.betweenness(network, sources=sources, seed=seed)
    communities = measures.communities(network, seed=seed)
    return Analysis(
        k=index, size=[*trace.sizes, 1.0][index], network=network, in_degree=into, out_degree=out, betweenness=between,
        pagerank=measures.pagerank(network), backward_pagerank=measures.pagerank(network, backward=True),
        community=communities, modularity=measures.modularity(network, communities), sources=counted, seed=seed,
        words=trace.words, parallel=trace.config.parallel,
    )  # fmt: skip
