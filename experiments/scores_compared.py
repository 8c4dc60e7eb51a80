"""What each edge score keeps of the prediction, under each kind of replacement, and what it costs.

Command: ``python experiments/scores_compared.py DATA.tsv OUT --rows 48 --rounds 24 --foreign 12`` (SmolLM2 in float32:
about half a minute a row on two CPU cores, of which two thirds are rounds).

For the first rows of a file of texts it traces with every score, evaluates the traces with ablated edges that carry
nothing (zero), means, and the states of two other texts (resample), all of the reference that comes with jstrace, and
writes ``curves.csv`` (mean TV by size), ``makeup.csv`` (what traces are made of), ``seconds.csv`` and two figures.
``rounds`` takes its gradients under means, ``rounds under zero`` under nothing. ``rounds, foreign`` is the control: the
same rounds told the next row's prediction, judged by their distance from that. The last line is JSON.

Expected: under means rounds keep the prediction at a tenth of the size that l1 needs, and foreign rounds get nowhere.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from jstrace.method.gradients import Pass, Rounds
from jstrace.models import Model, masked_forward
from jstrace.pipeline.replacing import Replacing

SIZES = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8)
JUDGES = ("zero", "mean", "resample")
SCORES: dict[str, dict[str, Any]] = {
    "random": {"importance": "random", "frozen": ("residual", "mlp")},
    "l1": {"importance": "l1"},
    "gradient": {"importance": "gradient"},
    "l1*gradient": {"importance": "l1*gradient"},
    "l1*gradient by score": {"importance": "l1*gradient", "order": "score"},
    "rounds": {"importance": "rounds"},
    "rounds by score": {"importance": "rounds", "order": "score"},
    "rounds under zero": {"importance": "rounds", "replace": "zero"},
}
FOREIGN = "rounds, foreign"
TYPES = ("residual", "attention", "mlp")


def texts_of(path: Path, count: int) -> list[str]:
    """The first texts of a tab-separated file."""
    return [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()[:count]]


@jax.jit
def foreign_scores(decoder: Any, tokens: Any, replace: Any, target: Any) -> Any:
    """Scores of rounds that are told another prediction, in log-probabilities."""
    return Rounds().edge_scores(Pass(decoder, tokens, tokens.shape[0], replace, target))


@jax.jit
def distances(decoder: Any, tokens: Any, masks: Any, replace: Any, target: Any) -> Any:
    """TV between each mask's prediction and the target: ``[Z + 1]``."""
    logits = jax.lax.map(lambda mask: masked_forward(decoder, tokens, mask, replace=replace), masks)
    return 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - jnp.exp(target)), axis=-1)


def foreign_curve(model: Model, text: str, other: str) -> np.ndarray:
    """TV from the other text's prediction, of traces of this text that were made to keep it: ``[Z]``."""
    ids, theirs = (np.asarray(model.tokenizer.encode(one), np.int32) for one in (text, other))  # type: ignore[union-attr]
    mean = Replacing(model).one("mean", len(ids))
    target = jax.nn.log_softmax(model(theirs, model.full_mask(len(theirs))))
    scores = jax.device_get(foreign_scores(model.decoder, jnp.asarray(ids), mean, target))
    trace = jstrace.Trace.from_scores(model, ids, scores, sizes=SIZES, importance="foreign")
    masks = jax.tree.map(jnp.asarray, trace.masks())
    return np.asarray(distances(model.decoder, jnp.asarray(ids), masks, mean, target))[:-1]


def measured(model: Model, texts: Sequence[str], options: dict[str, Any]) -> tuple[dict[str, np.ndarray], Any, float]:
    """TV by judge ``[N, Z]``, the composition of all traces, and seconds of tracing a text once compiled."""
    curves: dict[str, list[np.ndarray]] = {judge: [] for judge in JUDGES}
    made, seconds, widths = [], [], set()
    for text in texts:
        start = time.perf_counter()
        trace = jstrace.trace(model, text, sizes=SIZES, **options)
        taken = time.perf_counter() - start
        width = len(trace.tokens) // 16
        if width in widths:
            seconds.append(taken)
        widths.add(width)
        made.append(trace.composition())
        for judge in JUDGES:
            curves[judge].append(jstrace.evaluate(model, trace, replace=judge).tv[:-1])
    return {judge: np.stack(rows) for judge, rows in curves.items()}, made, float(np.median(seconds or [np.nan]))


def makeup_of(made: Sequence[Any]) -> list[dict[str, Any]]:
    """Shares of edges by type, and by quarter of the depth, of the traces of each size; means over inputs."""
    rows = []
    for k, size in enumerate(SIZES):
        kept = [one for one in made if one.edges[k]]
        layers = np.mean([_layer_shares(one, k) for one in kept], axis=0)
        quarters = [float(part.sum()) for part in np.array_split(layers, 4)]
        types = {
            name: float(np.mean([getattr(one, name)[k] for one in kept])) for name in ("residual", "attention", "mlp")
        }
        rows.append({"size": size, **types, **{f"quarter_{i}": share for i, share in enumerate(quarters, 1)}})
    return rows


def _layer_shares(made: Any, k: int) -> np.ndarray:
    found = made.residual_edges[k] + made.mlp_edges[k] + made.head_edges[k].sum(axis=-1)
    return np.asarray(found / found.sum())


def figure(curves: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Mean TV against size: a panel for each judge, a line for each score."""
    drawn = Figure(figsize=(13, 4.4), layout="constrained")
    for axes, judge in zip(drawn.subplots(1, len(JUDGES), sharey=True), JUDGES, strict=True):
        for number, (name, found) in enumerate(curves.items()):
            if judge in found:
                axes.plot(SIZES, found[judge].mean(axis=0), label=f"{name} (n = {len(found[judge])})",
                          color=f"C{number}", marker=".", ls="--" if name == FOREIGN else "-")  # fmt: skip
        axes.set(xscale="log", xlabel="size (share of all edges)", ylim=(0, 1), title=f"ablated edges carry: {judge}")
    drawn.axes[0].set_ylabel("mean TV")
    drawn.axes[1].legend(fontsize=7)
    return drawn


def figure_of_costs(curves: dict[str, dict[str, np.ndarray]], seconds: dict[str, float]) -> Figure:
    """Mean TV under means at a tenth of the edges against seconds a text."""
    drawn = Figure(figsize=(6, 4.2), layout="constrained")
    axes, at = drawn.subplots(), SIZES.index(0.1)
    for number, name in enumerate(seconds):
        axes.plot(seconds[name], curves[name]["mean"][:, at].mean(), "o", color=f"C{number}", label=name)
    axes.set(
        xscale="log", xlabel="seconds a text (scores and search)", ylabel="mean TV at 10% under means", ylim=(0, 1)
    )
    axes.legend(fontsize=8)
    return drawn


def written(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table as CSV."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    for name, count in (("rows", 48), ("rounds", 24), ("foreign", 12)):
        parser.add_argument(f"--{name}", type=int, default=count)
    asked = parser.parse_args()
    jstrace.enable_cache()
    model, texts = jstrace.load(asked.model), texts_of(asked.data, asked.rows)
    asked.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, np.ndarray]] = {}
    seconds, makeup = {}, []
    for name, options in SCORES.items():
        chosen = texts[: asked.rounds] if name.startswith("rounds") else texts
        curves[name], made, seconds[name] = measured(model, chosen, options)
        makeup += [{"score": name, **row} for row in makeup_of(made)]
        at = SIZES.index(0.1)
        told = ", ".join(f"{judge} {found[:, at].mean():.3f}" for judge, found in curves[name].items())
        sys.stderr.write(f"{name}: {seconds[name]:.2f} s a text, TV at 10% {told}\n")
    pairs = [(texts[i], texts[(i + 1) % asked.foreign]) for i in range(asked.foreign)]
    curves[FOREIGN] = {"mean": np.stack([foreign_curve(model, *pair) for pair in pairs])}
    rows = [
        {"score": name, "carried": judge, "size": size, "inputs": len(tv), "mean_tv": tv[:, k].mean(),
         "standard_error": tv[:, k].std(ddof=1) / np.sqrt(len(tv))}
        for name, found in curves.items() for judge, tv in found.items() for k, size in enumerate(SIZES)
    ]  # fmt: skip
    written(asked.out / "curves.csv", rows)
    written(asked.out / "makeup.csv", makeup)
    written(asked.out / "seconds.csv", [{"score": name, "seconds": taken} for name, taken in seconds.items()])
    figure(curves).savefig(asked.out / "curves.png", dpi=110)
    figure_of_costs(curves, seconds).savefig(asked.out / "costs.png", dpi=110)
    print(json.dumps({"benchmark": "scores compared", "rows": asked.rows, "rounds": asked.rounds, "seconds": seconds}))


if __name__ == "__main__":
    main()
