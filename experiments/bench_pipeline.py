"""One instance of s-Trace on SmolLM2: the literal PyTorch pipeline, stage by stage.

Command: ``python experiments/bench_pipeline.py``
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import torch
import torch_pipeline as baseline

from jstrace.convert import read_checkpoint

TEXT = (
    "The closest relative of the common lobster is found on the other side of the ocean, and although the two species"
    " look very much alike, they are rarely seen in the same waters, because their ranges hardly overlap. The two"
)
SIZES = tuple(m * 10.0**e for e in (-5, -4) for m in (1, 2, 4, 8))
SIZES += (1e-3, 1.2e-3, 1.4e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 1e-2, 2e-2, 4e-2, 6e-2, 8e-2, 1e-1, 2e-1, 4e-1, 6e-1, 8e-1)
REPEATS = 5


def timed(function: Callable[[], Any]) -> dict[str, float]:
    """Median and range of ``REPEATS`` runs, in seconds, after one warm-up."""
    function()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def main() -> None:
    """Time the three stages and the whole of the baseline."""
    torch.set_num_threads(2)
    checkpoint = read_checkpoint("smollm2", dtype=jnp.dtype("float32"))
    assert checkpoint.tokenizer is not None
    tokens = torch.tensor(checkpoint.tokenizer.encode(TEXT))
    model = baseline.build_model(checkpoint.config, checkpoint.params)
    with torch.inference_mode():
        _, scores = baseline.clean_scores(model, tokens)
        strata = baseline.extract(scores, SIZES)
        print([round(float(tv), 4) for tv in baseline.evaluate(model, tokens, strata, len(SIZES))])
        stages = {
            "clean+scores": timed(lambda: baseline.clean_scores(model, tokens)),
            "extraction": timed(lambda: baseline.extract(scores, SIZES)),
            "evaluation": timed(lambda: baseline.evaluate(model, tokens, strata, len(SIZES))),
        }
    print(json.dumps({"tokens": len(tokens), "torch": stages}))


if __name__ == "__main__":
    main()
