"""Traces fitted to one input, and the control: the same fits told what the input does not predict.

Command: ``python experiments/fitted_traces.py DATA.tsv FITS`` (SmolLM2 in float32: some minutes on one H100; on two
CPU cores two to four minutes a fit of 200 steps; there are 256 of 100 to 840).

For the first rows of a file of texts it fits traces to their own predictions: under means, there also to those of
three foreign rows of other entropies, without the polish, with another seed and in fewer steps; under states of rows
200 to 259 drawn anew at every step; under nothing; in the model with its weights shuffled; and to pairs of
paraphrases. Under drawn states there are foreign rows, too, and longer fits; some are without the polish (``KINDS``).
FITS gets a file for each kind of fit, with the strata of all its traces (``strata <= k`` is the trace of size k) and
the seconds of the call. Kinds that are there are not made again. ``experiments/fitted_figures.py`` judges them.

``--width`` pads all rows to so many tokens, so that one program serves them all; longer rows are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import padded_to, prediction, texts_of
from experiments.paraphrases import PAIRS
from jstrace.models import EDGE_KINDS, Decoder, Model

FOREIGN = (19, 33, 27)
"""Rows whose predictions are foreign targets: of 0.2, 2.8 and 5.5 nats of entropy."""
DRAWN = slice(200, 260)
SEED = 0


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of fit, and what it is told."""

    score: jstrace.Fitted
    replace: str = "mean"
    seed: int = SEED
    told: tuple[str, ...] = ("own",)
    """ "own", "trained" (the model's prediction before its weights were shuffled), or the number of a row."""
    shuffled: bool = False
    pairs: bool = False
    """Of the paraphrases, rather than of the rows."""


_FOREIGN = tuple(map(str, FOREIGN))
_LONG = jstrace.Fitted(steps=200, smallest=0.002)
_DRAWN = jstrace.Fitted(steps=200, smallest=0.01, polish=0)
KINDS = {
    "means": Kind(_LONG, told=("own", *_FOREIGN)),
    "unpolished": Kind(dataclasses.replace(_LONG, polish=0), told=("own", *_FOREIGN)),
    "seed": Kind(_LONG, seed=1),
    "short": Kind(jstrace.Fitted(steps=100)),
    # Such a model is 18 to 28 nats away from what it is told: under a cap below that there is no gradient.
    "shuffled": Kind(dataclasses.replace(_LONG, cap=100.0), told=("own", "trained"), shuffled=True),
    "zeros": Kind(jstrace.Fitted(steps=150, smallest=0.02, polish=0), "zero"),
    "random": Kind(_DRAWN, "resample"),
    "random-told": Kind(_DRAWN, "resample", told=_FOREIGN),
    "random-long": Kind(jstrace.Fitted(steps=400, smallest=0.01), "resample"),
    "random-large": Kind(jstrace.Fitted(steps=400, smallest=0.02, fall=3.0, rate=0.1), "resample"),
    "random-longer": Kind(jstrace.Fitted(steps=800, smallest=0.01, fall=4.0, rate=0.1), "resample"),
    "pairs": Kind(jstrace.Fitted(), pairs=True),
}


def shuffled(model: Model) -> Model:
    """The model with the entries of every weight matrix in another order, layer by layer; norms stay."""
    draws = np.random.default_rng(SEED)

    def one(path: Any, leaf: Any) -> Any:
        if leaf.ndim < 2 or "norm" in jax.tree_util.keystr(path):
            return leaf
        layers = np.array(leaf)
        if "embed" in jax.tree_util.keystr(path):
            return jax.numpy.asarray(draws.permutation(layers.ravel()).reshape(leaf.shape))
        return jax.numpy.asarray(np.stack([draws.permutation(x.ravel()).reshape(x.shape) for x in layers]))

    decoder: Decoder = jax.tree_util.tree_map_with_path(one, model.decoder)
    return Model(decoder, model.tokenizer)


def targets_of(model: Model, texts: Sequence[str], inputs: Sequence[tuple[str, str]], trained: Model) -> list[Any]:
    """What each input is fitted to; always told, so that one program serves own and foreign targets."""
    known: dict[tuple[str, str], np.ndarray] = {}

    def of(text: str, told: str) -> np.ndarray:
        if told == "own":
            return prediction(model, text)
        return prediction(trained, text if told == "trained" else texts[int(told)])

    for text, told in inputs:
        if (text, told) not in known:
            known[text, told] = of(text, told)
    return [known[one] for one in inputs]


def inputs_of(kind: Kind, texts: Sequence[str], rows: Sequence[int]) -> list[tuple[int, str, str]]:
    """Number, text and target of every fit of a kind: of the rows, or of as many pairs."""
    pairs = PAIRS[: len(rows)]
    chosen = list(enumerate(text for pair in pairs for text in pair)) if kind.pairs else [(r, texts[r]) for r in rows]
    return [(number, text, told) for told in kind.told for number, text in chosen]


def fitted(kind: Kind, trained: Model, texts: Sequence[str], rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Strata of all fits of a kind, as arrays for one file."""
    model = shuffled(trained) if kind.shuffled else trained
    inputs = inputs_of(kind, texts, rows)
    targets = targets_of(model, texts, [(text, told) for _, text, told in inputs], trained)
    given: dict[str, Any] = {"reference": texts[DRAWN]} if kind.replace == "resample" else {}
    together: Any = [text for _, text, _ in inputs]
    start = time.perf_counter()
    traces: Any = jstrace.trace(
        model, together, score=kind.score, replace=kind.replace, seed=kind.seed, target=targets, **given
    )
    seconds = time.perf_counter() - start
    found = {
        f"{number}/{told}/{edges}": getattr(trace.strata, edges)
        for (number, _, told), trace in zip(inputs, traces, strict=True)
        for edges in EDGE_KINDS
    }
    device = jax.devices()[0].device_kind
    about: dict[str, Any] = {"seconds": seconds, "fits": len(inputs), "device": device, "jax": jax.__version__}
    about |= {name: getattr(kind.score, name) for name in ("steps", "smallest", "polish", "rate", "fall", "cap")}
    about |= {"replace": kind.replace, "seed": kind.seed}
    return found | {"about": np.asarray(json.dumps(about))}


def main() -> None:
    """Fit the kinds that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("fits", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    asked = parser.parse_args()
    asked.fits.mkdir(parents=True, exist_ok=True)
    texts, model = texts_of(asked.data), jstrace.load(asked.model)
    assert model.tokenizer is not None
    rows = [row for row in range(asked.rows) if len(model.tokenizer.encode(texts[row])) <= asked.width]
    for name in asked.kinds:
        path = asked.fits / f"{name}.npz"
        if path.exists():
            continue
        with padded_to(24 if KINDS[name].pairs else asked.width):
            found = fitted(KINDS[name], model, texts, rows)
        with path.open("wb") as stream:
            np.savez_compressed(stream, **found)  # type: ignore[arg-type]
        print(name, found["about"], flush=True)


if __name__ == "__main__":
    main()
