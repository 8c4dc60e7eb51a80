"""How hubs and communities of a run's traces change with the size: of some inputs and sizes, as it takes a while."""

from __future__ import annotations

import dataclasses
import functools
import types

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from jstrace.analysis.measures import Network, betweenness, communities, degrees, modularity, network_of
from jstrace.reports import chance
from jstrace.reports.drawing import SIZE_LABEL, grid_of, line, log_sizes, look_of
from jstrace.reports.exhibit import NOT_ABLATED, Picture
from jstrace.reports.pages import Pages
from jstrace.reports.results import Results

MOST_TOKENS = 128
"""Of inputs that are looked at."""
FEWEST_EDGES = 10
"""Of traces that are looked at: smaller ones have no communities to speak of."""
_INPUTS = 8
_PAIRS = 4_000_000
"""Pairs of nodes in all inputs and sizes, as far as that leaves an input: some half a minute."""
_WANTED = 10.0 ** np.arange(-4, 0.1, 0.5)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a figure of networks is drawn from."""

    inputs: tuple[int, ...]
    """Indices of inputs, evenly spaced over those that are valid, short enough, and have their strata saved."""
    ks: tuple[int, ...]
    """Indices of sizes, those nearest to half powers of ten from 1e-4 on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Networks:
    """Measures of the sampled inputs and sizes; NaN where a trace has fewer than ten edges."""

    sizes: Float[np.ndarray, "S"]
    degree: Float[np.ndarray, "N S"]
    """Gini coefficient of the degree over nodes: 0 where all have as many edges, towards 1 where one has them all."""
    betweenness: Float[np.ndarray, "N S"]
    """The same of betweenness."""
    modularity: Float[np.ndarray, "N S"]
    levels: Float[np.ndarray, "N S"]
    """Share of all levels that a node's community spans, mean over nodes,"""
    tokens: Float[np.ndarray, "N S"]
    """and of all tokens."""


def sample(run: Results) -> Sample | None:
    """The inputs and sizes that are looked at; None where no strata of short enough inputs are saved."""
    index, tokens = (run.valid[name].to_numpy() for name in ("input", "n_tokens"))
    saved = np.zeros(len(index), bool)
    for folder, part in run.parts:
        if (folder / "strata" / part.file).is_file():  # whoever needs the room may have removed some
            saved |= (index >= part.first) & (index <= part.last)
    fitting = saved & (tokens <= MOST_TOKENS)
    if not fitting.any():
        return None
    ks = tuple(np.unique(np.abs(np.log10(run.sizes) - np.log10(_WANTED)[:, None]).argmin(axis=1)).tolist())
    longest, chosen = int(tokens[fitting].max()), index[fitting]
    traces = len(ks) * (1 + len(chance.sources(run, run.source)))
    pairs = run.n_layers * longest * (longest + 1) // 2 * traces
    count = int(np.clip(_PAIRS // pairs, 1, min(_INPUTS, len(chosen))))
    places = np.linspace(0, len(chosen) - 1, count).round().astype(int)
    return Sample(tuple(chosen[places].tolist()), ks)


def networks(run: Results, chosen: Sample, source: str = "") -> Networks:
    """The measures of a sample, of the traces of a source: by default of those that figures show."""
    pages, rows = Pages(run), []
    for index in chosen.inputs:
        strata = types.SimpleNamespace(**pages.strata(index, source or run.source))  # an EdgeTree would bring JAX
        rows.append([_measured(network_of(strata, k, parallel=run.parallel)) for k in chosen.ks])
    measures = np.moveaxis(np.asarray(rows, np.float64).reshape(len(rows), len(chosen.ks), 5), -1, 0)
    return Networks(run.sizes[list(chosen.ks)], *measures)


def _measured(network: Network) -> tuple[float, ...]:
    if network.n_edges < FEWEST_EDGES:
        return (np.nan,) * 5
    into, out = degrees(network)
    labels = communities(network)
    levels, tokens = (_spanned(labels, places) for places in (network.level, network.position))
    between, _ = betweenness(network)
    spans = (levels / network.n_levels, tokens / network.n_tokens)
    return gini(into + out), gini(between), modularity(network, labels), *spans


def gini(values: np.ndarray) -> float:
    """Gini's coefficient of numbers that are not negative, from 0 to 1 - 1/n; NaN where all are zero."""
    ordered, n = np.sort(np.asarray(values, np.float64)), len(values)
    if ordered.sum() == 0:
        return float("nan")
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def _spanned(community: Int[np.ndarray, "N"], place: Int[np.ndarray, "N"]) -> float:
    """How many levels, or tokens, a node's community has nodes of, mean over nodes."""
    pairs = np.unique(np.stack([community, place]), axis=1)
    return float(np.bincount(pairs[0])[community].mean())


def hubs(run: Results) -> Picture | None:
    """How unlike nodes are, and what communities span, where strata were saved."""
    chosen = sample(run)
    if chosen is None:
        return None
    count = len(chosen.inputs)
    caption = (
        "Traces as networks. Left: Gini's coefficient of degree (edges in and out) and of betweenness (from at most"
        " 5,000 nodes) over nodes, 0 where all have as much. Middle: modularity of communities by Louvain's method"
        " (seed 0). Right: the share of all levels and of all tokens that a node's community has nodes of."
        f" Lines: medians, bands: quartiles. A sample: {count} of {run.valid.num_rows} inputs, evenly spaced over those"
        f" with saved strata and at most {MOST_TOKENS} tokens, at {len(chosen.ks)} sizes; traces of fewer than"
        f" {FEWEST_EDGES} edges are left out."
    )
    draw = functools.partial(_draw, chosen=chosen)
    n = len(np.unique(run.clusters[np.isin(run.column("input"), chosen.inputs)]))
    return Picture("how hubs and communities change with the size", caption, draw, NOT_ABLATED, n=n, chance=True)


def _draw(run: Results, chosen: Sample) -> Figure:
    measures = networks(run, chosen)
    random = [networks(run, chosen, name) for name in chance.sources(run, run.source)]
    figure, grid = grid_of(3, height=2.1, sharey=True)
    panels = (
        ("hubs: Gini over nodes", {"degree": "degree", "betweenness": "betweenness"}),
        ("modularity", {"communities": "modularity"}),
        ("a community has", {"of the levels": "levels", "of the tokens": "tokens"}),
    )
    for axes, (title, lines) in zip(grid[0], panels, strict=True):
        for number, (label, measure) in enumerate(lines.items()):
            look = look_of(number) | {"label": label, "marker": "o", "markersize": 2}
            known, (low, middle, high) = _quartiles(measures, measure)
            line(axes, measures.sizes[known], middle, around=(low, high), **look)
            for other in random:
                known, (_, middle, _) = _quartiles(other, measure)
                axes.plot(other.sizes[known], middle, **chance.LOOK | {"linestyle": look["linestyle"]})
        log_sizes(axes, measures.sizes)
        axes.set(ylim=(-0.02, 1.02), title=title)
        if len(lines) > 1:
            axes.legend(loc="upper left", fontsize=5)
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    return figure


def _quartiles(measures: Networks, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Which sizes have a number of any input ``[S]``, and the quartiles there."""
    values = getattr(measures, measure)
    known = np.isfinite(values).any(axis=0)
    return known, np.nanpercentile(values[:, known], (25, 50, 75), axis=0)
