"""What fitted traces keep, what the same fits can be told to say, and where they lie: tables and figures.

Command: ``python experiments/fitted_figures.py DATA.tsv FITS OUT`` (SmolLM2 in float32: ten minutes on two CPU cores).

FITS is what ``experiments/fitted_traces.py`` wrote. Every trace is judged by ``jstrace.evaluate`` at all 26 sizes,
from what it was fitted to; L1, rounds and the learned scorer are traced and judged beside it. OUT gets ``judged.jsonl``
(a line for each trace and judge; what it has is not judged again), ``curves.csv``, ``selectivity.csv``,
``makeup.csv``, ``overlap.csv``, ``seconds.csv`` and ``fitted.png``. The last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.fitted_traces import FOREIGN, KINDS, shuffled
from experiments.inputs import makeup_of, prediction, texts_of, unseen, written
from experiments.paraphrases import PAIRS
from jstrace.method.graph.sizes import SIZES
from jstrace.models import EDGE_KINDS, EdgeTree, Model
from jstrace.reports.statistics import means_of

JUDGES = {
    "means": ("mean", "five", "zero"), "unpolished": ("mean",), "seed": ("mean",),
    "short": ("mean",), "shuffled": ("mean",),
    "zeros": ("zero", "mean"), "random": ("five", "mean"), "pairs": ("mean",),
    "random-told": ("five",), "random-long": ("five",), "random-large": ("five",), "random-longer": ("five",),
}  # fmt: skip
CHEAPER = ("l1", "l1*gradient", "rounds", "learned")
SHOWN = (0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2)
Record = dict[str, Any]


class Fits:
    """The traces of a folder of fits, with what they belong to."""

    def __init__(self, folder: Path, texts: list[str], model: Model) -> None:
        self.folder, self.texts, self.trained = folder, texts, model

    @functools.cached_property
    def shuffled(self) -> Model:
        """The model whose weights were shuffled."""
        return shuffled(self.trained)

    def model(self, kind: str) -> Model:
        """That a kind was fitted to."""
        return self.shuffled if KINDS[kind].shuffled else self.trained

    def text(self, kind: str, number: int) -> str:
        """Of a fit."""
        return [text for pair in PAIRS for text in pair][number] if KINDS[kind].pairs else self.texts[number]

    def target(self, kind: str, number: int, told: str) -> np.ndarray | None:
        """Probabilities that a fit was told; None for its own."""
        if told == "own":
            return None
        return prediction(self.trained, self.text(kind, number) if told == "trained" else self.texts[int(told)])

    def about(self, kind: str) -> dict[str, Any]:
        """Seconds, device and options of a kind."""
        with np.load(self.folder / f"{kind}.npz") as held:
            found: dict[str, Any] = json.loads(str(held["about"]))
        return found

    def names(self, kind: str) -> list[tuple[int, str]]:
        """Number and target of every fit of a kind."""
        path = self.folder / f"{kind}.npz"
        if not path.exists():
            return []
        with np.load(path) as held:
            pairs = {tuple(name.split("/")[:2]) for name in held.files if "/" in name}
        return sorted((int(number), told) for number, told in pairs)

    def trace(self, kind: str, number: int, told: str = "own", *, on: int | None = None) -> Any:
        """The trace of a fit, or its masks on another text of as many tokens: ranked by the stratum, which has as many
        edges as its size."""
        with np.load(self.folder / f"{kind}.npz") as held:
            strata = EdgeTree(**{edges: held[f"{number}/{told}/{edges}"] for edges in EDGE_KINDS})
        scores = jax.tree.map(lambda stratum: np.float32(len(SIZES)) - stratum.astype(np.float32), strata)
        text = self.text(kind, number if on is None else on)
        return jstrace.Trace.from_scores(self.model(kind), text, scores, score="fitted", order="score")

    def told(self, kind: str, told: str) -> dict[int, Any]:
        """Traces of a kind that were told the same, by number."""
        return {number: self.trace(kind, number, told) for number, each in self.names(kind) if each == told}


def tv_of(model: Model, texts: list[str], trace: Any, judge: str, target: Any = None) -> list[float]:
    """TV by size."""
    replace = unseen(model, texts, len(trace.tokens)) if judge == "five" else judge
    tv = jstrace.evaluate(model, trace, replace=replace, target=target).tv[:-1]
    return [round(float(one), 4) for one in tv]


def judged(fits: Fits, done: set[tuple[Any, ...]]) -> Iterator[Record]:
    """Records of all traces that are not there yet."""
    for kind, judges in JUDGES.items():
        for number, told in fits.names(kind):
            wanted = [j for j in (judges if told == "own" else judges[:1]) if (kind, number, told, j) not in done]
            if not wanted:
                continue
            trace, target = fits.trace(kind, number, told), fits.target(kind, number, told)
            for judge in wanted:
                tv = tv_of(fits.model(kind), fits.texts, trace, judge, target)
                yield {"kind": kind, "number": number, "told": told, "judge": judge, "tv": tv}


def crossed(fits: Fits, done: set[tuple[Any, ...]]) -> Iterator[Record]:
    """The trace of a text on its paraphrase, and on another text of as many tokens."""
    found = fits.told("pairs", "own")
    for number, trace in found.items():
        same = [i for i, one in found.items() if len(one.tokens) == len(trace.tokens) and i // 2 != number // 2]
        for told, other in (("paraphrase", number ^ 1), ("another", same[0] if same else None)):
            if other is not None and ("pairs", number, told, "mean") not in done:
                tv = tv_of(fits.trained, fits.texts, fits.trace("pairs", number, on=other), "mean")
                yield {"kind": "pairs", "number": number, "told": told, "judge": "mean", "tv": tv}


def cheaper(fits: Fits, rows: Sequence[int], done: set[tuple[Any, ...]]) -> Iterator[Record]:
    """The scores that are not fitted, on the same rows."""
    for name in CHEAPER:
        for row in rows:
            if (name, row, "own", "mean") not in done:
                trace = jstrace.trace(fits.trained, fits.texts[row], score=name, replace="mean")
                tv = tv_of(fits.trained, fits.texts, trace, "mean")
                yield {"kind": name, "number": row, "told": "own", "judge": "mean", "tv": tv}


def curves(records: Iterable[Record]) -> dict[tuple[str, str, str], np.ndarray]:
    """TV ``[N, Z]`` by kind, what was told and judge; foreign rows together, in the order of the numbers."""
    found: dict[tuple[str, str, str], list[tuple[int, list[float]]]] = {}
    for one in records:
        told = "foreign" if one["told"].isdigit() else one["told"]
        found.setdefault((one["kind"], told, one["judge"]), []).append((one["number"], one["tv"]))
    return {key: np.asarray([tv for _, tv in sorted(rows, key=lambda row: row[0])]) for key, rows in found.items()}


def selectivity_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Selectivity of fits under means by size: over all foreign targets, and for each."""
    tv = {(one["told"], one["number"]): np.asarray(one["tv"])
          for one in records if (one["kind"], one["judge"]) == ("means", "mean")}  # fmt: skip
    targets = [told for told in map(str, FOREIGN) if any(each == told for each, _ in tv)]
    numbers = [number for told, number in tv if told == "own" and all((each, number) in tv for each in targets)]
    out = []
    for name, chosen in {"all": targets, **{told: [told] for told in targets}}.items():
        rows = np.asarray([np.mean([tv[told, n] for told in chosen], axis=0) - tv["own", n] for n in numbers])
        mean, low, high = means_of(rows)
        for k, size in enumerate(SIZES):
            columns = (("selectivity", mean), ("low", low), ("high", high))
            shown = {column: round(float(x[k]), 4) if np.isfinite(x[k]) else None for column, x in columns}
            out.append({"foreign": name, "size": size, "inputs": len(rows), **shown})
    return out


def makeup(name: str, made: Sequence[Any]) -> list[dict[str, Any]]:
    """What traces are made of, with what attention reads: means over inputs."""
    rows = makeup_of([one.composition() for one in made], SIZES)
    for k, row in enumerate(rows):
        sink, last, heads = np.mean([_attention(one, k) for one in made], axis=0)
        row |= {"from_first_token": sink, "into_last_token": last, "in_busiest_tenth_of_heads": heads}
    return [{"trace": name} | rounded(row) for row in rows]


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table with four digits, its size as it is."""
    return {name: round(x, 4) if isinstance(x, float) and name != "size" else x for name, x in row.items()}


def _attention(trace: Any, k: int) -> np.ndarray:
    """Of attention edges the shares from the first token, into the last, and of the busiest tenth of heads."""
    held = trace.mask(k).attn
    n, heads = max(1, held.sum()), np.sort(held.sum(axis=(2, 3)).ravel())[::-1]
    return np.asarray([held[..., 0].sum() / n, held[:, :, -1].sum() / n, heads[: len(heads) // 10].sum() / n])


def overlap(name: str, pairs: Sequence[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Edges that two traces share over those of one, by size: means over pairs."""
    rows = []
    for k, size in enumerate(SIZES):
        shares = []
        for a, b in pairs:
            one, other = (trace.mask(k) for trace in (a, b))
            both = sum(int((getattr(one, edges) & getattr(other, edges)).sum()) for edges in EDGE_KINDS)
            shares.append(both / max(1, a.counts[k]))
        rows.append({"with": name, "size": size, "inputs": len(pairs), "share": round(float(np.mean(shares)), 4)})
    return rows


def edges_tables(fits: Fits, rows: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What traces are made of, and what they share with fitted ones."""
    own = fits.told("means", "own")
    made, shared = makeup("fitted", [*own.values()]), []
    others: dict[str, dict[int, Any]] = {kind: fits.told(kind, "own") for kind in ("zeros", "random", "seed")}
    others |= {f"told row {told}": fits.told("means", str(told)) for told in FOREIGN}
    for name in CHEAPER:
        others[name] = {row: jstrace.trace(fits.trained, fits.texts[row], score=name, replace="mean") for row in rows}
    random = functools.partial(jstrace.trace, fits.trained, score="random", frozen=("residual", "mlp"))
    others["random traces"] = {row: random(fits.texts[row]) for row in rows}
    for name, found in others.items():
        if found:
            made += makeup(name, [*found.values()])
            shared += overlap(name, [(own[number], trace) for number, trace in found.items() if number in own])
    pairs = fits.told("pairs", "own")
    if pairs:
        shared += overlap("its paraphrase's", [(trace, pairs[number ^ 1]) for number, trace in pairs.items()])
    return made, shared


def draw(found: dict[tuple[str, str, str], np.ndarray], control: Sequence[dict[str, Any]]) -> Figure:
    """Left: own and foreign TV with their difference; right: fitted traces beside the cheaper scores."""
    figure = Figure(figsize=(10.4, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    own, foreign = found["means", "own", "mean"], found["means", "foreign", "mean"]
    for rows, color, label in ((own, "#0072b2", "own prediction"), (foreign, "#d55e00", "another text's prediction")):
        left.fill_between(SIZES, *means_of(rows)[1:], color=color, alpha=0.2, linewidth=0)
        left.plot(SIZES, rows.mean(axis=0), color=color, marker=".", label=f"{label} (n = {len(rows)})")
    line = [row["selectivity"] for row in control if row["foreign"] == "all"]  # of the inputs that have all targets
    left.plot(SIZES, line, color="black", linestyle="--", label=f"selectivity (n = {control[0]['inputs']})")
    left.set(
        xscale="log",
        xlabel="edges kept, share of all",
        ylabel="TV from what was fitted to",
        ylim=(0, 1),
        title="fitted traces",
    )
    for name, color in zip(("means", *CHEAPER), ("#0072b2", "#999999", "#56b4e9", "#009e73", "#e69f00"), strict=True):
        if (name, "own", "mean") in found:
            label = "fitted" if name == "means" else name
            right.plot(SIZES, found[name, "own", "mean"].mean(axis=0), color=color, marker=".", label=label)
    right.set(xscale="log", xlabel="edges kept, share of all", title="beside scores that are not fitted")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    return figure


def tables(folder: Path, fits: Fits, records: Sequence[Record], rows: Sequence[int]) -> None:
    """Everything that OUT has beside the records."""
    found = curves(records)
    sizes = [f"{size:g}" for size in SIZES]
    written(folder / "curves.csv", [
        rounded({"fit": kind, "told": told, "judged under": judge, "fits": len(tv),
                 **dict(zip(sizes, tv.mean(axis=0).tolist(), strict=True))})
        for (kind, told, judge), tv in found.items()
    ])  # fmt: skip
    control = selectivity_rows(records)
    written(folder / "selectivity.csv", control)
    made, shared = edges_tables(fits, rows)
    written(folder / "makeup.csv", made)
    written(folder / "overlap.csv", shared)
    about = [(kind, fits.about(kind)) for kind in KINDS if (fits.folder / f"{kind}.npz").exists()]
    kept = ("fits", "steps", "seconds", "device")
    written(
        folder / "seconds.csv", [rounded({"fit": kind, **{name: one[name] for name in kept}}) for kind, one in about]
    )
    draw(found, control).savefig(folder / "fitted.png", dpi=110)


def main() -> None:
    """Judge what is missing, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "fits", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--only-judge", action="store_true", help="write judged.jsonl alone")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    jstrace.enable_cache()
    path, texts = asked.out / "judged.jsonl", texts_of(asked.data)
    fits = Fits(asked.fits, texts, jstrace.load("smollm2"))
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(one["kind"], one["number"], one["told"], one["judge"]) for one in records}
    rows = sorted({number for number, _ in fits.names("means")})
    with path.open("a") as stream:
        for source in (judged(fits, done), crossed(fits, done), cheaper(fits, rows, done)):
            for one in source:
                records.append(one)
                stream.write(json.dumps(one) + "\n")
                stream.flush()
    if not asked.only_judge:
        tables(asked.out, fits, records, rows)
    at = [SIZES.index(size) for size in SHOWN]
    print(json.dumps({"/".join(key): tv.mean(axis=0)[at].round(3).tolist() for key, tv in curves(records).items()}))


if __name__ == "__main__":
    main()
