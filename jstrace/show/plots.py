"""TV against size: a few lines for the terminal, and a figure through matplotlib; and effects as a heat map."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jstrace.files import write_whole
from jstrace.method.graph.sizes import percent
from jstrace.models import EdgeTree, InputError
from jstrace.pipeline.effects import Effects
from jstrace.pipeline.evaluation import Evaluation
from jstrace.show.palette import COLORS
from jstrace.show.text import printable, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WORDS = 40
"""Tokens that an axis names each of."""
FORMATS = (".png", ".svg")


def terminal_plot(evaluation: Evaluation, *, height: int = 6, width: int = 60) -> str:
    """TV (0 to 1) over log10 of the size, as rows of block characters."""
    points = [*map(math.log10, evaluation.sizes), 0.0]
    low = min(points[0], -1.0)
    columns = np.interp(np.linspace(low, 0.0, width), points, evaluation.tv)
    lines = []
    for row in range(height, 0, -1):
        label = "TV 1 ┤" if row == height else "   0 ┤" if row == 1 else "     │"
        cells = (_block(tv * height - row + 1) for tv in columns)
        lines.append(label + "".join(cells))
    left = math.ceil(low)
    axis = [" "] * (width + 6)
    for power in range(left, 1):
        text = percent(10.0**power)
        at = round((power - low) / -low * (width - 1))
        start = min(at, width - len(text))
        axis[start : start + len(text)] = text
    return "\n".join([*lines, "      " + "".join(axis).rstrip() + "  size"])


def _block(filling: float) -> str:
    """A cell filled from 0 to 1; a question mark for NaN."""
    return "?" if math.isnan(filling) else _BLOCKS[max(0, min(8, round(filling * 8)))]


def check_plottable(path: Path) -> None:
    """Refuse a file name or an installation that ``save_plot`` could not serve, before any work is done."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: a plot is written as {' or '.join(FORMATS)}")
    check_installed("--plot")


def check_installed(what: str) -> None:
    """Refuse an installation without matplotlib; ``what`` needs it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(f"{what} needs matplotlib: pip install 'jstrace[plot]'") from error


def save_plot(path: Path, evaluations: Sequence[tuple[str, Evaluation]]) -> None:
    """Draw one curve of TV over size for each label; PNG or SVG by the file's ending."""
    check_plottable(path)
    figure = _drawn(evaluations)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        write_whole(path, lambda stream: figure.savefig(stream, format=path.suffix[1:].lower(), dpi=160))


def plot_curves(results: Evaluation | Sequence[Evaluation] | Mapping[str, Evaluation]) -> Figure:
    """TV over size as a matplotlib ``Figure``, which notebooks show and ``figure.savefig`` writes.

    Args:
      results: one evaluation, several of them, or several by their labels.

    Examples:
      >>> figure = jstrace.plot_curves({"zero": evaluation})
      >>> figure.savefig("curve.png")

    Raises:
      InputError: nothing to draw, or matplotlib is not installed.
    """
    if isinstance(results, Evaluation):
        results = [results]
    if not isinstance(results, Mapping):
        results = {f"result {number}": result for number, result in enumerate(results, 1)}
    wrong = [type(result).__name__ for result in results.values() if not isinstance(result, Evaluation)]
    if wrong or not results:
        raise InputError(f"expected evaluations to draw, got {wrong[0] if wrong else 'none'}")
    check_installed("plot_curves")
    return _drawn(list(results.items()))


def _drawn(evaluations: Sequence[tuple[str, Evaluation]]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (label, evaluation) in enumerate(evaluations):
        color = COLORS[number % len(COLORS)]
        order = np.argsort(evaluation.row_sizes, kind="stable")  # masks of one's own come in any order
        points, tv = evaluation.row_sizes[order], evaluation.tv[order]
        axes.plot(points, tv, marker="o", markersize=3, linewidth=1.2, color=color, label=printable(label))
        if evaluation.tv_repeats is not None:  # from the lowest to the highest of the repetitions
            low, high = (bound(evaluation.tv_repeats, axis=0)[order] for bound in (np.min, np.max))
            axes.fill_between(points, low, high, color=color, alpha=0.3, linewidth=0)
    targets = dict.fromkeys("targets" if result.targeted else "the full graph" for _, result in evaluations)
    axes.set(
        xscale="log",
        ylim=(-0.02, 1.02),
        xlabel="size of the trace (share of all edges)",
        ylabel=f"TV distance from {' or '.join(targets)}",
    )
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3, linewidth=0.5)
    ablated = dict.fromkeys(evaluation.ablate for _, evaluation in evaluations)
    axes.set_title(f"edges ablated: {', '.join(ablated)}", fontsize="small")
    if len(evaluations) <= 12:
        for text in axes.legend(fontsize="x-small", frameon=False).get_texts():
            text.set_parse_math(False)
    return figure


def plot_effects(effects: Effects) -> Figure:
    """Effects of components as a heat map, red where a component helps the metric: layers upwards, or heads by layer.

    Args:
      effects: from ``jstrace.effects``, by anything but edges.

    Examples:
      >>> figure = jstrace.plot_effects(jstrace.effects(model, text))
      >>> figure.savefig("heads.png")

    Raises:
      InputError: effects of edges, or matplotlib is not installed.
    """
    if not isinstance(effects, Effects) or isinstance(effects.values, EdgeTree):
        raise InputError("plot_effects draws effects of components; those of edges are an EdgeTree")
    check_installed("plot_effects")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, NullLocator

    values = effects.values.reshape(-1, 1 if effects.values.ndim == 1 else effects.values.shape[-1])
    figure = Figure(figsize=(1.6 + 0.12 * values.shape[1], 1.2 + 0.11 * len(values)), layout="constrained")
    finite = np.abs(values[np.isfinite(values)])
    axes, most = figure.subplots(), float(finite.max(initial=0)) or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", origin="lower")
    axes.set_xlabel(effects.axes[-1] if len(effects.axes) > 1 else "")
    _label_rows(axes, effects.axes, effects.values.shape)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True) if values.shape[1] > 1 else NullLocator())
    if effects.axes[-1] in ("target", "source", "token") and len(effects.tokens) <= _WORDS:
        axes.set_xticks(range(len(effects.tokens)), [printable(shown(word)) for word in effects.tokens], rotation=90)
        for label in axes.get_xticklabels():
            label.set_parse_math(False)
    if "component" in effects.axes:
        last = values.shape[1] - 1
        axes.set_xticks(range(last + 1), [*map(str, range(last)), "MLP"])
        axes.set_xlabel("head")
    figure.colorbar(image, label=f"effect on {effects.metric_name}").ax.yaxis.label.set_parse_math(False)
    return figure


def _label_rows(axes: Any, names: Sequence[str], shape: Sequence[int]) -> None:
    """Layers beside their rows: some ten of them, where each has a row, or one for each head."""
    heads = shape[1] if len(names) > 2 else 1
    layers = range(0, shape[0], -(-shape[0] // 10))
    axes.set_yticks([layer * heads for layer in layers], [str(layer) for layer in layers])
    axes.set_ylabel("layer" if heads == 1 else f"layer, of {heads} heads each")
