"""What each edge score keeps of the prediction, under each kind of replacement, and what it costs.

Command: ``python experiments/scores_compared.py DATA.tsv OUT --rows 48 --rounds 24 --foreign 12`` (SmolLM2 in float32:
about half a minute a row on two CPU cores, of which two thirds are gradients; minutes in all on a GPU).

For the first rows of a file of texts it traces with every score, evaluates the traces with ablated edges that carry
nothing (zero), means, and the states of two other texts (resample), all of the reference that comes with jstrace, and
writes ``curves.csv`` (mean TV by size), ``makeup.csv`` (what traces are made of), ``seconds.csv`` and two figures.
``--scores`` measures some of them, and leaves the others' rows in the tables as they are; an OUT is of one ``--dtype``.
``rounds`` takes its gradients under means, ``rounds under zero`` under nothing. ``foreign`` is the control: the same
scores told the next row's prediction, judged by their distance from that. Rows longer than ``--width`` tokens, which
all are padded to, are left out. The last line is JSON.

Expected: under means rounds keep the prediction at a tenth of the size that l1 needs, and foreign rounds get nowhere.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import makeup_of, merged, padded_to, prediction, texts_of
from jstrace.method.graph.sizes import NO_EDGE
from jstrace.models import Decoder, EdgeTree, Model, masked_forward
from jstrace.pipeline.replacing import Replacing
from jstrace.reports.statistics import means_of
from jstrace.scale import batching
from jstrace.scale.batching import widened

SIZES = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8)
JUDGES = ("zero", "mean", "resample")
SCORES: dict[str, dict[str, Any]] = {
    "random": {"score": "random", "frozen": ("residual", "mlp")},
    "l1": {"score": "l1"},
    "gradient": {"score": "gradient"},
    "l1*gradient": {"score": "l1*gradient"},
    "l1*gradient by score": {"score": "l1*gradient", "order": "score"},
    "rounds": {"score": "rounds"},
    "rounds by score": {"score": "rounds", "order": "score"},
    "rounds under zero": {"score": "rounds", "replace": "zero"},
    "learned": {"score": "learned"},
    "learned by score": {"score": "learned", "order": "score"},
}
SLOW = ("rounds", "rounds by score", "rounds under zero", "learned", "learned by score")
FOREIGN = {"rounds, foreign": "rounds", "learned, foreign": "learned"}


@functools.partial(jax.jit, static_argnames="n_sizes")
def plain_tv(
    decoder: Decoder, tokens: Any, lengths: Any, strata: EdgeTree, replace: Any, targets: Any, *, n_sizes: int
) -> Any:
    """TV of every mask of every input from the targets ``[B, Z]``, with every row computed: what accelerators are for.

    ``replace`` has a leading axis of replacements, whose TV is averaged; or is None.
    """

    def one(given: Any) -> Any:
        tokens, length, strata, target = given

        def under(replace: Any, k: Any) -> Any:
            mask = jax.tree.map(lambda stratum: stratum <= k, strata)
            logits = masked_forward(decoder, tokens, mask, replace=replace, length=length)
            return 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - target))

        over_sizes = jax.vmap(under, in_axes=(None, 0))
        if replace is None:
            return over_sizes(None, jnp.arange(n_sizes))
        found = jax.lax.map(lambda each: over_sizes(each, jnp.arange(n_sizes)), replace)
        return jnp.mean(found, axis=0)

    return jax.lax.map(one, (tokens, lengths, strata, targets))


def judged(model: Model, traces: Sequence[Any], targets: np.ndarray, judge: str, width: int) -> np.ndarray:
    """TV from the targets ``[N, Z]``: on a CPU by ``jstrace.evaluate``, which skips rows."""
    if jax.default_backend() == "cpu":
        found = [
            jstrace.evaluate(model, one, replace=judge, target=target)
            for one, target in zip(traces, targets, strict=True)
        ]
        return np.stack([one.tv[:-1] for one in found])
    tokens, lengths = batching.padded([one.tokens for one in traces], width, len(traces))
    wide = [widened(one.strata, width, np.uint8(NO_EDGE)) for one in traces]
    strata = jax.tree.map(lambda *leaves: np.stack(leaves), *wide)
    replace = Replacing(model).stack(judge, width)
    return np.asarray(plain_tv(model.decoder, tokens, lengths, strata, replace, targets, n_sizes=len(SIZES)))


def traced(model: Model, texts: Sequence[str], options: dict[str, Any]) -> tuple[list[Any], float]:
    """Traces of all texts, and seconds of a text of the second half, for which all is compiled."""
    half, seconds = -(-len(texts) // 2), np.nan
    made: list[Any] = []
    for part in (texts[:half], texts[half:]):
        told = {"target": list(options["target"][len(made) : len(made) + len(part)])} if "target" in options else {}
        start = time.perf_counter()
        made += jstrace.trace(model, list(part), sizes=SIZES, **{"replace": "mean"} | options | told)
        seconds = (time.perf_counter() - start) / max(1, len(part))
    return made, seconds


Rows = Sequence[dict[str, Any]]
"""Of a table: dicts of one set of columns."""


def figure(curves: Rows) -> Figure:
    """Mean TV against size: a panel for each judge, a line for each score."""
    drawn, names = Figure(figsize=(13, 5), layout="constrained"), list(dict.fromkeys(row["score"] for row in curves))
    colors = {name: f"C{number}" for number, name in enumerate(name for name in names if name not in FOREIGN)}
    colors |= {name: colors.get(score, "black") for name, score in FOREIGN.items()}  # as what is told
    for axes, judge in zip(drawn.subplots(1, len(JUDGES), sharey=True), JUDGES, strict=True):
        for name in names:
            rows = [row for row in curves if (row["score"], row["carried"]) == (name, judge)]
            if rows:
                sizes, tv = zip(*((float(row["size"]), float(row["mean_tv"])) for row in rows), strict=True)
                axes.plot(sizes, tv, label=f"{name} (n = {rows[0]['inputs']})", color=colors[name], marker=".",
                          ls="--" if name in FOREIGN else "-")  # fmt: skip
        axes.set(xscale="log", xlabel="size (share of all edges)", ylim=(0, 1), title=f"ablated edges carry: {judge}")
    drawn.axes[0].set_ylabel("mean TV")
    drawn.legend(*drawn.axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return drawn


def figure_of_costs(curves: Rows, seconds: Rows) -> Figure:
    """Mean TV under means at a tenth of the edges against seconds a text."""
    under_means = [row for row in curves if (row["carried"], float(row["size"])) == ("mean", 0.1)]
    at = {row["score"]: float(row["mean_tv"]) for row in under_means}
    drawn = Figure(figsize=(6, 4.2), layout="constrained")
    axes = drawn.subplots()
    for number, row in enumerate(seconds):
        axes.plot(float(row["seconds"]), at[row["score"]], "o", color=f"C{number}", label=row["score"])
    axes.set(
        xscale="log", xlabel="seconds a text (scores and search)", ylabel="mean TV at 10% under means", ylim=(0, 1)
    )
    axes.legend(fontsize=8)
    return drawn


def measure(model: Model, texts: Sequence[str], asked: Any, width: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each score TV by judge ``[N, Z]``, the make-up of its traces, and seconds a text."""
    own = np.stack([prediction(model, text) for text in texts])
    others = np.roll(own[: asked.foreign], -1, axis=0)
    plans: dict[str, tuple[dict[str, Any], np.ndarray, Sequence[str]]]
    plans = {name: (options, own, JUDGES) for name, options in SCORES.items()}
    for name, score in FOREIGN.items():
        plans[name] = ({"score": score, "target": others}, others, ("mean",))
    for name in asked.scores:
        options, targets, judges = plans[name]
        count = asked.foreign if name in FOREIGN else asked.rounds if name in SLOW else len(texts)
        traces, seconds = traced(model, texts[:count], options)
        tv = {judge: judged(model, traces, targets[:count], judge, width) for judge in judges}
        made = makeup_of([one.composition() for one in traces], SIZES)
        at = SIZES.index(0.1)
        told = ", ".join(f"{judge} {found[:, at].mean():.3f}" for judge, found in tv.items())
        sys.stderr.write(f"{name}: {seconds:.2f} s a text, TV at 10% {told}\n")
        sys.stderr.flush()
        yield name, {"tv": tv, "makeup": made, "seconds": seconds}


def written_all(folder: Path, name: str, found: dict[str, Any]) -> None:
    """Tables and figures, with one score measured anew."""
    rows = [
        {"score": name, "carried": judge, "size": size, "inputs": len(tv), "mean_tv": mean, "low": low, "high": high}
        for judge, tv in found["tv"].items()
        for size, mean, low, high in zip(SIZES, *means_of(tv), strict=True)
    ]
    order = [*SCORES, *FOREIGN]
    curves = merged(folder / "curves.csv", rows, order)
    merged(folder / "makeup.csv", [{"score": name, **row} for row in found["makeup"]], order)
    taken = [] if name in FOREIGN else [{"score": name, "seconds": found["seconds"]}]
    seconds = merged(folder / "seconds.csv", taken, order)
    figure(curves).savefig(folder / "curves.png", dpi=110)
    figure_of_costs(curves, seconds).savefig(folder / "costs.png", dpi=110)


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    for name, count in (("rows", 48), ("rounds", 24), ("foreign", 12)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--scores", nargs="*", default=[*SCORES, *FOREIGN], choices=[*SCORES, *FOREIGN])
    asked = parser.parse_args()
    jstrace.enable_cache()
    model = jstrace.load(asked.model, dtype=asked.dtype)
    assert model.tokenizer is not None
    texts = [text for text in texts_of(asked.data) if len(model.tokenizer.encode(text)) <= asked.width][: asked.rows]
    asked.out.mkdir(parents=True, exist_ok=True)
    seconds = {}
    with padded_to(asked.width):
        for name, one in measure(model, texts, asked, asked.width):
            seconds[name] = one["seconds"]
            written_all(asked.out, name, one)
    device = jax.devices()[0].device_kind
    about = {"device": device, "dtype": asked.dtype, "rows": len(texts), "seconds": seconds}
    print(json.dumps({"benchmark": "scores compared", **about}))


if __name__ == "__main__":
    main()
