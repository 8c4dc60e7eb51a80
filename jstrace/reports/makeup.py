"""What traces are made of: the core of components (Fig. 4), edge types and layers (Figs. 5 and 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jstrace.method.graph.depth import by_quarter
from jstrace.method.graph.sizes import percent
from jstrace.reports import chance
from jstrace.reports.drawing import COLORS, DASHES, SIZE_LABEL, grid_of, line, log_sizes, note
from jstrace.reports.exhibit import NOT_ABLATED, Picture, Rows, each_source
from jstrace.reports.results import Results

_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Fractions of the components in the table."""


def concentration(run: Results, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative share of edges held by the top fraction of components: fractions ``[C]`` and ``[Z + 1, C]``."""
    shares = -np.sort(-run.shares[source].reshape(len(run.sizes), -1), axis=-1)
    return np.arange(1, shares.shape[-1] + 1) / shares.shape[-1], np.cumsum(shares, axis=-1)


def _draw_core(run: Results) -> Figure:
    figure, grid = grid_of(1, height=2.6)
    axes = grid[0, 0]
    fractions, held = concentration(run, run.source)
    wanted = [k for k, size in enumerate(run.sizes) if np.isclose(np.log10(size) % 1, 0) and np.isfinite(held[k]).all()]
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(wanted)))
    for number, k in enumerate(wanted):
        words = "{:.1f}% of the components hold {:.1f}%"
        look: dict[str, Any] = {"label": percent(run.sizes[k], 4), "who": f"size {run.sizes[k]:g}: "}
        look |= {"color": colors[number], "linestyle": DASHES[number % 4]}
        line(axes, 100 * fractions, 100 * held[k], words, **look)
        for name in chance.sources(run, run.source):
            axes.plot(100 * fractions, 100 * concentration(run, name)[1][k], linewidth=0.5, color=colors[number])
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.6)
    axes.set(xlabel="components, those with most edges first (%)", ylabel="edges held (%)")
    axes.set(xlim=(0, 100), ylim=(0, 101))
    axes.legend(title="size", title_fontsize=6, loc="lower right")
    return figure


CORE = Picture(
    "stability of the core (Fig. 4)",
    "Share of the edges of all inputs' traces that the components (residual stream, MLP or head of a layer) with"
    " most of them hold; one line for each size. Grey: all components alike.",
    _draw_core, NOT_ABLATED, chance=True,
)  # fmt: skip


@each_source
def cores(run: Results, source: str) -> Rows:
    """The share of edges that the top fractions of components hold."""
    count = run.shares[source][0].size
    yield {"size": run.sizes, "components": count, **_with_chance(run, source, _tops)}


def _tops(run: Results, source: str) -> dict[str, np.ndarray]:
    fractions, held = concentration(run, source)
    return {f"top_{100 * part:g}%": np.asarray([np.interp(part, fractions, at) for at in held]) for part in _TOPS}


def _with_chance(run: Results, source: str, of: Callable[[Results, str], dict[str, Any]]) -> dict[str, Any]:
    """Columns of a source, and after them those of random traces of the same sizes."""
    columns = of(run, source)
    for name in chance.sources(run, source):
        columns |= {chance.named(name, column): values for column, values in of(run, name).items()}
    return columns


class Makeup(NamedTuple):
    """Shares of the edges of traces, means over inputs."""

    types: np.ndarray
    """Residual, attention and MLP: ``[Z + 1, 3]``."""
    quarters: np.ndarray
    """Quarters of the depth, first layers first: ``[Z + 1, 4]``."""
    layers: np.ndarray
    """``[Z + 1, L]``."""


def makeup_of(run: Results, source: str) -> Makeup:
    """Types and layers of traces."""
    shares = run.shares[source]
    types = np.stack([shares[..., 0], shares[..., 2:].sum(-1), shares[..., 1]], axis=-1).sum(axis=1)
    layers = shares.sum(axis=-1)
    return Makeup(types, by_quarter(layers), layers)


def _draw_makeup(run: Results) -> Figure:
    made = [makeup_of(run, name) for name in (run.source, *chance.sources(run, run.source))]
    figure, grid = grid_of(2, height=2.45, sharey=True)
    depth = matplotlib.colormaps["cividis"](np.linspace(0.05, 0.95, 4))
    stacks = (
        ("types", ("residual", "attention", "MLP"), COLORS[:3], "edge type"),
        ("quarters", ("first", "second", "third", "last"), depth, "quarter of the layers"),
    )
    for axes, (what, labels, colors, title) in zip(grid[0], stacks, strict=True):
        shares, *random = (getattr(makeup, what) for makeup in made)
        known = np.isfinite(shares).all(axis=-1)
        sizes, parts = run.sizes[known], 100 * shares[known].T
        axes.stackplot(sizes, parts, labels=labels, colors=colors, linewidth=0, alpha=0.9)
        for other in random:
            axes.plot(run.sizes, 100 * np.cumsum(other, axis=1)[:, :-1], color="k", linewidth=0.5)
        for name, top, part in zip(labels, 100 * np.cumsum(shares[known], axis=1).T, parts, strict=True):
            note(axes, sizes, top, [f"size {size:g}: {name} {pct:.1f}%" for size, pct in zip(sizes, part, strict=True)])
        log_sizes(axes, run.sizes)
        axes.set(ylim=(0, 100))
        axes.set_axisbelow(False)
        axes.legend(
            title=title, title_fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2,
            columnspacing=0.8, handlelength=1.0,
        )  # fmt: skip
    grid[0, 0].set_ylabel("edges of the trace (%)")
    figure.supxlabel(SIZE_LABEL, fontsize=7)
    return figure


MAKEUP = Picture(
    "what traces are made of (Figs. 5 and 11)",
    "Edges of the trace by type and by quarter of the layers, means over inputs whose trace of that size has any.",
    _draw_makeup, NOT_ABLATED, chance=True,
)  # fmt: skip


@each_source
def makeups(run: Results, source: str) -> Rows:
    """The shares of types and of quarters."""

    def columns(run: Results, source: str) -> dict[str, np.ndarray]:
        made = makeup_of(run, source)
        quarters = {f"quarter_{n}": share for n, share in enumerate(made.quarters.T, 1)}
        return dict(zip(("residual", "attention", "mlp"), made.types.T, strict=True)) | quarters

    yield {"size": run.sizes, **_with_chance(run, source, columns)}


@each_source
def layers(run: Results, source: str) -> Rows:
    """The share of every layer."""
    shares = _with_chance(run, source, lambda run, source: {"share": makeup_of(run, source).layers})
    for k, size in enumerate(run.sizes):
        own = {column: values[k] for column, values in shares.items()}
        yield {"size": size, "layer": np.arange(run.n_layers), **own}
