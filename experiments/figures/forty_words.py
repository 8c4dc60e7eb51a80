"""The picture of the README: a text of forty words, traced once, evaluated in both modes of ablation.

Command: ``python experiments/figures/forty_words.py docs/forty-words.png`` (SmolLM2-135M; a minute on two CPU
cores, most of it compilation).

Expected: with all edges ablated TV stays above 0.8 up to 10% of the edges, is 0.30 at 20% and 0.02 at 60%; with
residual and MLP edges alone it falls from 0.1% on, to 0.24 at 1% and 0.08 at 8%.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

import jstrace

TEXT = (
    "The Eiffel Tower was built for the world's fair of 1889, and although many artists protested against it then,"
    " the iron structure soon became the best known landmark of the whole country, and every year millions of people"
    " travel to"
)
MODES = {
    "all": ("every edge outside the trace ablated", "#0072B2", "o"),
    "residual+mlp": ("residual and MLP edges ablated, attention whole", "#D55E00", "s"),
}


def main() -> None:
    """Trace, evaluate twice, draw."""
    model = jstrace.load("smollm2")
    assert model.tokenizer is not None
    assert len(TEXT.split()) == 40
    trace = jstrace.trace(model, TEXT)
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for ablate, (label, color, marker) in MODES.items():
        result = jstrace.evaluate(model, trace, ablate=ablate)
        sizes = np.asarray([*result.sizes, 1.0])
        axes.plot(sizes, result.tv, marker=marker, markersize=3.5, linewidth=1.4, color=color, label=label)
        words = [model.tokenizer.token(int(token)) for token in result.top_token]
        annotate(axes, sizes, result.tv, words, color)
    top = zip(result.full_tokens[:3], result.full_probs[:3], strict=True)
    shown = ", ".join(f"{model.tokenizer.token(int(token)).strip()} {prob:.0%}" for token, prob in top)
    axes.set_title(f"“… every year millions of people travel to” → {shown}", fontsize=9)
    axes.set(xscale="log", ylim=(-0.05, 1.1), xlabel="size of the trace (share of all edges)")
    axes.set_ylabel("TV distance from the full graph")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    figure.savefig(sys.argv[1], dpi=160)


def annotate(axes: Any, sizes: np.ndarray, tv: np.ndarray, words: list[str], color: str) -> None:
    """The most probable token where it changes, once the curve has left its plateau."""
    said = ""
    for k in range(len(sizes)):
        if tv[k] < 0.9 and words[k] != said:
            said = words[k]
            options = {"xytext": (6, 7), "textcoords": "offset points", "fontsize": 7.5, "color": color}
            axes.annotate(said.strip(), (sizes[k], tv[k]), **options)


if __name__ == "__main__":
    main()
