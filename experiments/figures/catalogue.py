"""The figures and tables of the paper, by name: what each shows, what it is made of, and what came out before.

Each takes under a minute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

RUNTIME = "under a minute each"

_OF_432 = "These are of 432 passages on two CPU cores, experiments/results/smollm2."
_OF_8 = "Of SmolLM2-135M (8 passages, two CPU cores, all edges ablated):"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A figure or a table of the paper, or what stands beside them."""

    title: str
    """What it shows."""
    figures: tuple[str, ...]
    """The kinds of figures of a report that it consists of,"""
    tables: tuple[str, ...]
    """and the tables with their numbers."""
    expected: str
    """What came out when it was last measured, and what the runs need to have for it."""


ENTRIES: Mapping[str, Entry] = {
    "fig3_curves": Entry(
        "Fig. 3: TV distance against the size of the trace, median and quartiles, with the two phases marked.",
        figures=("tv",),
        tables=("curves", "phases", "density"),
        expected="Of SmolLM2-135M: with residual+mlp ablated TV falls from 0.97 at 1e-4 to 0.49 at 1e-2; with all edges"
        f" ablated nothing happens before 10%, 0.35 at 20%. {_OF_432}",
    ),
    "table1_nucleus": Entry(
        "The size of the trace that each nucleus of the prediction needs.",
        figures=("nucleus",),
        tables=("nucleus",),
        expected="Of SmolLM2-135M: the top token needs 2% of the edges (residual+mlp) or 20% (all), the 90% nucleus 80%"
        f" or all. {_OF_432}",
    ),
    "fig4_core": Entry(
        "Fig. 4: stability of the core, the share of edges that the top components hold at each size.",
        figures=("core",),
        tables=("core",),
        expected="Of SmolLM2-135M: 10% of the components hold 73% of the edges at size 1e-3, 20% of them at 0.1."
        f" {_OF_432}",
    ),
    "fig5_makeup": Entry(
        "Fig. 5: traces by edge type and by quarter of the layers, against size.",
        figures=("makeup",),
        tables=("makeup",),
        expected="Of SmolLM2-135M: at size 1e-3 9.5% of the edges are attention's and 49% lie in the first quarter of"
        f" the layers. {_OF_432}",
    ),
    "fig6_random": Entry(
        "Fig. 6: the random baseline, uniform scores with residual and MLP edges first.",
        figures=("random",),
        tables=("curves", "density"),
        expected="Of SmolLM2-135M: density 4.09 against 4.65 (all), 2.91 against 2.96 (residual+mlp), where random"
        f" traces are ahead from 2% of the edges on. Needs a run with --baselines random. {_OF_432}",
    ),
    "fig7_necessity": Entry(
        "Fig. 7: necessity, TV when the attention and MLP edges of the trace (or its MLP edges alone) are removed.",
        figures=("necessity",),
        tables=("curves",),
        expected="Of SmolLM2-135M: TV is 0.88 without the trace of 0.02% and 0.99 without that of 0.1%, in both modes."
        f" Needs a run with --baselines inverse. {_OF_432}",
    ),
    "fig8_correlations": Entry(
        "Fig. 8: Spearman's correlation of density with entropy, loss and frequency of the top token.",
        figures=("correlation",),
        tables=("correlations",),
        expected="Of SmolLM2-135M: density and entropy -0.39 (all), 0.15 (residual+mlp); relative density 0.32 and"
        f" 0.45. {_OF_432}",
    ),
    "fig9_between_models": Entry(
        "Fig. 9: Spearman's correlation of density between models on the same inputs.",
        figures=("between-models", "models"),
        tables=("between-models",),
        expected="Positive where models find the same inputs dense. Needs the runs of two models or more on the same"
        " data.",
    ),
    "fig10_11_per_model": Entry(
        "Figs. 10 and 11: the curves and the make-up of every model by itself.",
        figures=("tv", "makeup"),
        tables=("curves", "makeup"),
        expected=f"Of SmolLM2-135M: as Figs. 3 and 5. {_OF_432}",
    ),
    "table2_validity": Entry(
        "Table 2: valid inputs of every model; those that gave NaN or did not fit into memory are counted and left"
        " out.",
        figures=("tv",),
        tables=("validity",),
        expected=f"Of SmolLM2-135M: all inputs valid in float32. {_OF_432}",
    ),
    "pre_softmax": Entry(
        "The pre-softmax baseline: attention masks that enter the softmax.",
        figures=("pre-softmax",),
        tables=("curves", "density"),
        expected=f"{_OF_8} density 3.96 against 4.08 with masks after the softmax. Needs a run with --baselines"
        " pre-softmax.",
    ),
    "edge_scores": Entry(
        "Other edge scores, L2, IFR and cosine, through the same extraction.",
        figures=("score",),
        tables=("curves", "density"),
        expected=f"{_OF_8} density 4.08 with L1, 4.02 with L2, 4.46 with cosine and 4.74 with IFR. Needs a run with"
        " several --score.",
    ),
}
"""In the order in which all of them are drawn."""
