"""One instance of s-Trace on SmolLM2-135M in float32: jstrace against the literal PyTorch pipeline, stage by stage.

Command: ``python experiments/benchmarks/bench_pipeline.py`` (needs torch; about two minutes on two CPU cores).

Both get the same weights and the same text, on as many threads as the machine has cores. Every stage is run once to
warm up (for jstrace that includes compilation, which is reported apart) and then five times; the table shows the median
and the range, the last line is JSON. The two pipelines must agree: equal strata but where scores differ in the last
bits, and TV within 1e-3 at every size. Beside the pipeline stand jstrace's time for each of four instances in one call,
and a plain batched forward of as many sequences as there are sizes in transformers, without masks: what any masked
evaluation on torch has at least to do.

Expected: whole instance 3.5x or more, extraction 20x or more, evaluation 2.5x or more; results/benchmarks has a
measured table.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from experiments.benchmarks import cost_model
from experiments.benchmarks import torch_pipeline as baseline
from experiments.benchmarks.stages import batch_of
from experiments.benchmarks.timing import matrix_rate, record, timed
from jstrace import Model, Trace
from jstrace.convert import read_checkpoint
from jstrace.method.graph.sizes import SIZES
from jstrace.models import Decoder

TEXT = (
    "The closest relative of the common lobster is found on the other side of the ocean, and although the two species"
    " look very much alike, they are rarely seen in the same waters, because their ranges hardly overlap. The two"
)
IN_A_BATCH = 4
Stages = dict[str, dict[str, float]]


def torch_stages(checkpoint: Any, tokens: list[int]) -> tuple[Stages, tuple[np.ndarray, ...], np.ndarray]:
    """The baseline's stages, its strata and its TV curve."""
    model, ids = baseline.build_model(checkpoint.config, checkpoint.params), torch.tensor(tokens)

    def whole() -> torch.Tensor:
        _, scores = baseline.clean_scores(model, ids)
        return baseline.evaluate(model, ids, baseline.extract(scores, SIZES), len(SIZES))

    with torch.inference_mode():
        _, scores = baseline.clean_scores(model, ids)
        strata = baseline.extract(scores, SIZES)
        tv = whole().numpy()  # and every page of the weights has been touched
        stages = {
            "clean+scores": timed(lambda: baseline.clean_scores(model, ids)),
            "extraction": timed(lambda: baseline.extract(scores, SIZES)),
            "evaluation": timed(lambda: baseline.evaluate(model, ids, strata, len(SIZES))),
            "whole instance": timed(whole),
        }
        return stages, strata, tv


def plain_forward(checkpoint: Any, tokens: list[int]) -> dict[str, float]:
    """Transformers' own forward pass of one sequence for each size and the full graph, in one batch, without masks."""
    model = baseline.build_model(checkpoint.config, checkpoint.params)
    batch = torch.tensor([tokens] * (len(SIZES) + 1))
    with torch.inference_mode():
        return timed(lambda: model(batch, logits_to_keep=1, use_cache=False).logits)


def jstrace_stages(model: Model, tokens: list[int]) -> tuple[Stages, Trace, np.ndarray]:
    """The same stages through the compiled functions that ``jstrace.trace`` and ``jstrace.evaluate`` drive."""
    alone = batch_of(model.decoder, [tokens])
    scores = alone.score()
    strata = alone.extract(scores)
    jax.clear_caches()
    stages = {
        "clean+scores": timed(alone.score),
        "extraction": timed(lambda: alone.extract(scores)),
        "evaluation": timed(lambda: alone.evaluate(strata)),
    }
    trace = jstrace.trace(model, tokens)
    result = jstrace.evaluate(model, trace)
    # The public calls: fingerprint, transfers, readable objects and all.
    stages["whole instance"] = timed(lambda: jstrace.evaluate(model, jstrace.trace(model, tokens)).tv)
    stages["whole instance"]["first"] = sum(
        stages[name]["first"] for name in ("clean+scores", "extraction", "evaluation")
    )
    batch = batch_of(model.decoder, [tokens[n:] + tokens[:n] for n in range(IN_A_BATCH)])
    stages["in a batch of four"] = {name: seconds / IN_A_BATCH for name, seconds in timed(batch.whole).items()}
    return stages, trace, result.tv


def peak_memory() -> float:
    """Peak resident memory of ``jstrace trace``, in GB, in a process of its own."""
    code = "import sys; sys.argv = ['jstrace', 'trace', sys.argv[1]]; from jstrace.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, TEXT], check=True, stdout=subprocess.DEVNULL)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9


def show(theirs: Stages, ours: Stages) -> dict[str, float]:
    """Print the table; return the ratios of the medians."""
    ratios = {}
    print("| stage | PyTorch, s | jstrace, s | ratio | jstrace's first run, s |")
    print("|---|---|---|---|---|")
    for name, b in ours.items():
        a = theirs.get(name, theirs["whole instance"])
        ratios[name] = a["median"] / b["median"]
        cells = (f"{x['median']:.3f} ({x['min']:.3f} to {x['max']:.3f})" for x in (a, b))
        print(f"| {name} | {' | '.join(cells)} | {ratios[name]:.1f}x | {b['first']:.2f} |")
    return ratios


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    memory = peak_memory()
    checkpoint = read_checkpoint("smollm2", dtype=jnp.dtype("float32"))
    assert checkpoint.tokenizer is not None
    tokens = checkpoint.tokenizer.encode(TEXT)
    theirs, strata, torch_tv = torch_stages(checkpoint, tokens)
    ours, trace, tv = jstrace_stages(Model(Decoder(checkpoint.config, checkpoint.params)), tokens)
    differing = sum(int((a != b).sum()) for (_, a), b in zip(trace.strata.items(), strata, strict=True))
    assert differing < 1e-3 * trace.n_edges, f"{differing} strata differ"
    assert np.abs(tv - torch_tv).max() < 1e-3, "the curves differ"
    ratios = show(theirs, ours)
    print(f"peak memory of `jstrace trace`: {memory:.2f} GB; {differing} of {trace.n_edges} strata differ")
    forward = plain_forward(checkpoint, tokens)
    ratios["evaluation against a plain forward"] = forward["median"] / ours["evaluation"]["median"]
    print(
        f"plain batched forward of {len(SIZES) + 1} sequences in transformers: {forward['median']:.3f} s"
        f" ({forward['min']:.3f} to {forward['max']:.3f}), {ratios['evaluation against a plain forward']:.2f}x"
        " jstrace's evaluation"
    )
    record(
        "pipeline",
        out=options.out,
        model="SmolLM2-135M-Instruct (dequantised Q4_1), float32",
        tokens=len(tokens),
        edges=trace.n_edges,
        torch=theirs | {"plain forward": forward},
        jstrace=ours,
        ratio=ratios,
        live=dataclasses.asdict(cost_model.live_of([trace])),
        matrix_rate=matrix_rate(jnp.float32, 1024),
        peak_memory_gb=memory,
        strata_differing=differing,
        tv_difference=float(np.abs(tv - torch_tv).max()),
        torch_version=torch.__version__,
    )


if __name__ == "__main__":
    main()
