"""The report of a task's circuit: what it keeps of held-out pairs, and which components it is made of (section 9)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from jstrace.reports.drawing import grid_of, legend_above, line, log_sizes, look_of
from jstrace.reports.exhibit import Picture, Table

_NAMES = {
    "task": "circuit",
    "single": "each pair's own trace",
    "random": "random order",
    "components": "heads and MLPs at all positions",
    "control": "prompts and answers exchanged",
}
"""What figures call the orders of ``TaskCircuit.judged``."""

Columns = Mapping[str, Sequence[Any]]
"""``TaskCircuit.columns``: a row for each order and size."""


def pictures(columns: Columns, components: np.ndarray) -> list[Picture]:
    """What orders keep of held-out pairs, where any are held out, and the scores ``[L, H + 1]`` of components."""
    kept = (
        "Left: the share of the answer's lead over its rival that comes back, mean over pairs; 1 is the full graph."
        " Right: TV from the full graph's prediction. If the pairs exchanged do as well, the circuit says little about"
        " the answer."
    )
    scored = (
        "The score of each head, and last of the MLP, of each layer: that of its best edge, as a rank among all"
        " components; dark is first."
    )
    draw_kept, draw_scores = functools.partial(_draw_kept, columns), functools.partial(_draw_components, components)
    held = Picture("what the circuit keeps of held-out pairs", kept, draw_kept, kind="kept")
    scores = Picture("which components", scored, draw_scores, kind="components")
    return [held, scores] if columns["order"] else [scores]


def tables(columns: Columns, components: np.ndarray) -> list[Table]:
    """The numbers of both."""
    n_heads = components.shape[1] - 1
    order = np.argsort(-components, axis=None, kind="stable")
    layers, places = np.unravel_index(order, components.shape)
    named = {
        "layer": layers.tolist(),
        "component": ["mlp" if place == n_heads else f"head {place}" for place in places.tolist()],
        "score": components.ravel()[order].tolist(),
    }
    return [
        Table("kept", "What is kept of held-out pairs", lambda: pa.table(dict(columns))),
        Table("components", "Heads and MLPs, the highest score first", lambda: pa.table(named)),
    ]


def _draw_kept(columns: Columns) -> Figure:
    figure, ((left, right),) = grid_of(2)
    order = np.asarray(columns["order"])
    for number, name in enumerate(dict.fromkeys(order.tolist())):
        own = order == name
        size = np.asarray(columns["size"], float)[own]
        label = _NAMES.get(name, name)
        for axes, column in ((left, "recovered"), (right, "tv")):
            values = np.asarray(columns[column], float)[own]
            words = f"{label}, size {{:g}}: {column} {{:.2f}}"
            line(axes, size, values, words, label=label, **look_of(number))
            log_sizes(axes, size)
    left.set(ylabel="recovered share of the answer's lead", ylim=(-0.25, 1.25))
    right.set(ylabel="TV from the full graph", ylim=(-0.02, 1.02))
    figure.supxlabel("size of the circuit", fontsize=7)
    legend_above(figure, 2)
    return figure


def _draw_components(components: np.ndarray) -> Figure:
    figure, ((axes,),) = grid_of(1, height=1.2 + 0.07 * len(components))
    ranks = np.argsort(np.argsort(-components, axis=None, kind="stable")).reshape(components.shape)
    image = axes.imshow(1 + ranks, cmap="viridis", aspect="auto", origin="lower")
    last = components.shape[1] - 1
    step = max(1, last // 8)
    axes.set_xticks([*range(0, last - step // 2, step), last], [*map(str, range(0, last - step // 2, step)), "MLP"])
    axes.set(xlabel="head", ylabel="layer")
    figure.colorbar(image, label="rank").ax.invert_yaxis()
    return figure
