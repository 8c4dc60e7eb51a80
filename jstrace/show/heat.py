"""Effects as a heat map, through matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from jstrace.models import EdgeTree, InputError
from jstrace.pipeline.effects import Effects
from jstrace.show.curves import check_installed
from jstrace.show.text import printable, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORDS = 40
"""Tokens that an axis names each of."""


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


def _label_rows(axes: Axes, names: Sequence[str], shape: Sequence[int]) -> None:
    """Layers beside their rows: some ten of them, where each has a row, or one for each head."""
    heads = shape[1] if len(names) > 2 else 1
    layers = range(0, shape[0], -(-shape[0] // 10))
    axes.set_yticks([layer * heads for layer in layers], [str(layer) for layer in layers])
    axes.set_ylabel("layer" if heads == 1 else f"layer, of {heads} heads each")
