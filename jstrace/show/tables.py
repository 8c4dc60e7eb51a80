"""Traces as tables for the terminal."""

from __future__ import annotations

import itertools
import math

import numpy as np
from rich.table import Table
from rich.text import Text

from jstrace.analysis.analysing import Analysis
from jstrace.method.graph.sizes import percent
from jstrace.pipeline.effects import Effects
from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.strongest import Attention, strongest
from jstrace.show.text import Word, in_words, shown
from jstrace.show.words import folded


def curve_table(trace: Trace, evaluation: Evaluation, word: Word) -> Table:
    """The Z + 1 rows: size, edges, composition and how much of the prediction is kept; those alike are folded."""
    made, recovered = trace.composition(), evaluation.recovered
    asked = [] if recovered is None else ["recovered"]
    deviation, flops = evaluation.tv_std, made.flops.total(evaluation.condition)
    table = _table("size", "edges", "FLOPs %", "resid %", "attn %", "MLP %", "TV", "KL", "nucleus", *asked)
    rows, fold = folded(trace, evaluation)
    told = ["TV, KL and nuclei against a target"] if evaluation.targeted else []
    table.caption = "; ".join([*told, *([f"not shown: {fold}"] if fold else [])]) or None
    table.caption_justify = "left"
    table.add_column("top token")
    for k in rows:
        shares = ("-" if math.isnan(v[k]) else f"{100 * v[k]:.1f}" for v in (made.residual, made.attention, made.mlp))
        level = evaluation.nucleus_level[k]
        table.add_row(
            "full" if k == len(trace.sizes) else percent(trace.sizes[k], 3),
            str(made.edges[k]),
            "-" if evaluation.inverse else f"{100 * flops[k] / flops[-1]:.1f}",
            *shares,
            f"{evaluation.tv[k]:.3f}" + ("" if deviation is None else f" ±{deviation[k]:.3f}"),
            f"{evaluation.kl[k]:.3f}",
            f"{100 * level:.0f}%" if level else "-",
            *([] if recovered is None else [_share(float(recovered[k]))]),
            Text(shown(word(int(evaluation.top_token[k]))), style="" if not evaluation.agreement[k] else "green"),
        )
    return table


def _share(value: float) -> str:
    """What is recovered, zero without a minus."""
    return "-" if math.isnan(value) else f"{abs(value) if abs(value) < 0.005 else value:.2f}"


def _table(*numbers: str) -> Table:
    """An empty table that starts with columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def edge_table(trace: Trace, count: int, kind: str = "all") -> Table:
    """Edges in words, ``count`` at most, as ``strongest.strongest`` orders them."""
    words = trace.words
    table = _table("score", "in size")
    table.add_column("edge")
    for edge in strongest(trace, count, kind):
        size = "full" if edge.stratum >= len(trace.sizes) else percent(trace.sizes[edge.stratum], 3)
        table.add_row(f"{edge.score:.3g}", size, Text(in_words(edge, words)))
    return table


def effect_table(effects: Effects, count: int) -> Table:
    """The heads and MLPs whose ablation moves the metric most: by how much, and how far the prediction moves."""
    columns, table = effects.columns(), _table("effect", "TV")
    table.add_column("without")
    for at in range(min(count, len(columns["effect"]))):
        name = f"layer {columns['layer'][at]} {columns['component'][at]}"
        table.add_row(f"{columns['effect'][at]:+.3f}", f"{columns['tv'][at]:.3f}", name)
    return table


def attention_heading(trace: Trace, evaluation: Evaluation, counts: Attention, word: Word) -> str:
    """Which trace the numbers of ``attention_table`` are of, in a line."""
    what = f"{counts.heads.sum():,} of {counts.all_heads.sum():,} attention edges"
    if counts.k == len(trace.sizes):
        verb = "has the target's" if evaluation.targeted else "keeps its"
        return f"{what}: the full graph, as no smaller trace {verb} top token"
    top, size = shown(word(evaluation.wanted_token)), percent(trace.sizes[counts.k], 3)
    of = "the target's " if evaluation.targeted else ""
    return f"{what} are in the trace of {size} of all edges, the smallest from which on the top token is {of}{top}"


def attention_table(trace: Trace, counts: Attention, *, rows: int = 10) -> Table:
    """The heads and the source tokens with most edges in that trace, each with its edges in the full graph."""
    words = trace.words
    table = _table()
    for name in ("head", "edges", "of", "from token", "edges", "of"):
        table.add_column(name, justify="right" if name in ("edges", "of") else "left")
    heads = [
        (f"layer {at // counts.heads.shape[1]} head {at % counts.heads.shape[1]}", f"{count}", f"{every}")
        for at, count, every in _largest(counts.heads.ravel(), counts.all_heads.ravel(), rows)
    ]
    sources = [
        (f"{shown(words[at])} [{at}]", f"{count}", f"{every}")
        for at, count, every in _largest(counts.sources, counts.all_sources, rows)
    ]
    for pair in itertools.zip_longest(heads, sources, fillvalue=("", "", "")):
        table.add_row(*(Text(cell) for cells in pair for cell in cells))
    return table


def hub_table(analysis: Analysis, count: int, by: str) -> Table:
    """The nodes with most of a measure, with all of them."""
    table = _table("in", "out", "betweenness", "PageRank", "backward", "community")
    table.add_column("node")
    for hub in analysis.hubs(count, by):
        shares = (f"{value:.2e}" for value in (hub.betweenness, hub.pagerank, hub.backward_pagerank))
        node = f"{'' if hub.layer is None else f'layer {hub.layer} '}{hub.kind}: {shown(hub.token)} [{hub.position}]"
        table.add_row(f"{hub.in_degree}", f"{hub.out_degree}", *shares, f"{hub.community}", Text(node))
    return table


def community_table(analysis: Analysis, count: int) -> Table:
    """The largest communities: how large, and where."""
    table = _table("community", "nodes", "edges inside", "levels", "tokens")
    table.add_column("most at")
    for community in analysis.communities(count):
        spans = (f"{first} to {last}" for first, last in (community.levels, community.positions))
        most = f"{shown(community.token)} [{community.position}], {100 * community.share:.0f}%"
        table.add_row(f"{community.number}", f"{community.nodes:,}", f"{community.edges:,}", *spans, Text(most))
    return table


def _largest(counts: np.ndarray, every: np.ndarray, rows: int) -> list[tuple[int, int, int]]:
    """Index, kept edges and all edges where most are kept, ties by index."""
    order = np.argsort(-counts, kind="stable")[:rows]
    return [(int(at), int(counts[at]), int(every[at])) for at in order]
