"""Traces as tables for the terminal."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from jstrace.pipeline.evaluation import Evaluation
from jstrace.pipeline.trace import Trace
from jstrace.show.text import Word, in_words, shown, words_of


def curve_table(trace: Trace, evaluation: Evaluation, word: Word) -> Table:
    """The Z + 1 rows: size, edges, composition and how much of the prediction is kept."""
    made = trace.composition()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name in ("size", "edges", "resid %", "attn %", "MLP %", "TV", "KL", "nucleus"):
        table.add_column(name, justify="right")
    table.add_column("top token")
    for k, size in enumerate([*trace.sizes, None]):
        shares = ("-" if math.isnan(v[k]) else f"{100 * v[k]:.1f}" for v in (made.residual, made.attention, made.mlp))
        level = evaluation.recovered[k]
        table.add_row(
            "full" if size is None else f"{size:.1e}" if size < 1e-2 else f"{size:g}",
            str(made.edges[k]),
            *shares,
            f"{evaluation.tv[k]:.3f}",
            f"{evaluation.kl[k]:.3f}",
            f"{100 * level:.0f}%" if level else "-",
            Text(shown(word(int(evaluation.top_token[k]))), style="" if not evaluation.agreement[k] else "green"),
        )
    return table


def edge_table(trace: Trace, count: int) -> Table:
    """The first ``count`` edges that best-first search takes, in words, highest score first."""
    words = words_of(trace)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("score", justify="right")
    table.add_column("in size", justify="right")
    table.add_column("edge")
    for edge in trace.first_edges(count):
        size = "full" if edge.stratum >= len(trace.sizes) else f"{trace.sizes[edge.stratum]:g}"
        table.add_row(f"{edge.score:.3f}", size, Text(in_words(edge, words)))
    return table
