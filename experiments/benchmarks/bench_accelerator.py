"""Throughput on a GPU or TPU: the paper's ten models with random bfloat16 weights, trace and 26 evaluations an input.

Command: ``python experiments/benchmarks/bench_accelerator.py`` (one GPU of 80 GB or more; half an hour for all ten
at 55 tokens).

``--models`` and ``--tokens`` choose; ``--long NAME`` takes 55 to 1,024 tokens of one of them, and ``--torch`` adds the
literal PyTorch pipeline on the same device for that one. ``--analyse`` compiles the programs of all shapes without
allocating them and prints their memory, on any machine.

For each model: weights drawn on the device, the batch from the memory estimate, compiled once, then ``--repeats`` runs.
Shown are inputs/s, the share of the matrix rate measured in the same run (a square bfloat16 product), the share of
extraction, peak memory, and live rows: random weights leave others live than trained ones, and the cost model corrects
for it. After each model a line of JSON has all so far; ``--out`` also writes it to a file.

Expected on an H200: at least 20 inputs/s over the ten at 55 tokens; Qwen3-8B's shape ran at 38.9.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.benchmarks import cost_model
from experiments.benchmarks.stages import Batch, batch_of, blank_batch
from experiments.benchmarks.timing import matrix_rate, record, timed
from jstrace.loading import describe
from jstrace.method.graph.full_graph import edge_slot_count
from jstrace.method.graph.sizes import NO_EDGE, SIZES
from jstrace.models import PRESETS, Decoder, ModelConfig, n_params, random_params
from jstrace.models.platforms import seeded
from jstrace.pipeline import footprint
from jstrace.scale import batching
from jstrace.scale.memory import batch_inputs

DTYPE = jnp.dtype("bfloat16")
LONG = (55, 128, 256, 512, 1024)


def analysed(config: ModelConfig, n_tokens: int) -> dict[str, Any]:
    """Bytes that each stage takes for one input: the weights, the edges that it reads, results and temporaries.

    XLA's CPU backend widens to float32 more than accelerators do: there the programs are compiled in float32, whose
    temporaries are an upper bound, and weights count as bfloat16. Live rows are gathered as on a GPU.
    """
    dtype = jnp.dtype("float32") if jax.default_backend() == "cpu" else DTYPE
    found: dict[str, Any] = {"weights": cost_model.weight_bytes(config, DTYPE.itemsize)}
    width, n_sizes = batching.bucket(n_tokens), len(SIZES)
    edges = {
        "score": 0,
        "extract": 4 * edge_slot_count(config, width),
        "evaluate": edge_slot_count(config, width),
    }
    programs = blank_batch(config, 1, n_tokens, dtype).compiled("gpu")
    for name, program in programs.items():
        m = program.memory_analysis()
        assert m is not None
        found[name] = {
            "scores or strata": edges[name],
            "results": m.output_size_in_bytes,
            "temporaries": m.temp_size_in_bytes,
        }
    found["estimate"] = {
        "trace": footprint.trace_bytes(config, width, n_sizes, DTYPE.itemsize),
        "evaluate": footprint.evaluate_bytes(config, width, n_sizes, DTYPE.itemsize),
    }
    return found


def show_analysis(name: str, n_tokens: int, found: dict[str, Any]) -> None:
    """One row of the table of memory."""
    sums = [sum(found[stage].values()) / 1e9 for stage in ("score", "extract", "evaluate")]
    weights = found["weights"] / 1e9
    cells = [f"{weights:.1f}", *(f"{each:.2f}" for each in sums), f"{weights + max(sums):.1f}"]
    print(f"| {name} | {n_tokens} | {' | '.join(cells)} |", flush=True)


def batch_for(decoder: Decoder, n_tokens: int) -> Batch:
    """As many random inputs as one call takes."""
    c, width = decoder.config, batching.bucket(n_tokens)
    each = max(
        bytes_of(c, width, len(SIZES), DTYPE.itemsize) for bytes_of in (footprint.trace_bytes, footprint.evaluate_bytes)
    )
    n_rows = batch_inputs(decoder, width, each)
    rows = np.random.default_rng(0).integers(0, c.vocab_size, (n_rows, n_tokens))
    return batch_of(decoder, rows.tolist())


def run(decoder: Decoder, n_tokens: int, rate: float, repeats: int) -> dict[str, Any]:
    """Speed and memory of one model at one length."""
    batch = batch_for(decoder, n_tokens)
    n_rows, c = len(batch.lengths), decoder.config
    whole = timed(batch.whole, repeats)
    scores = batch.score()
    score, extract = timed(batch.score, repeats), timed(lambda: batch.extract(scores), repeats)
    live = live_rows(batch, scores)
    flops = cost_model.score_flops(c, n_tokens) + cost_model.evaluate_flops(c, n_tokens, len(batch.sizes), live)
    stats = jax.devices()[0].memory_stats() or {}
    seconds = whole["median"] / n_rows
    return {
        "tokens": n_tokens,
        "inputs_in_a_call": n_rows,
        "inputs_per_s": 1 / seconds,
        "seconds": whole,
        "first_call_s": whole["first"],
        "share_of_matrix_rate": flops / seconds / rate,
        "score_share": score["median"] / whole["median"],
        "extraction_share": extract["median"] / whole["median"],
        "peak_memory_gb": stats.get("peak_bytes_in_use", 0) / 1e9,
        "live": dataclasses.asdict(live),
    }


def live_rows(batch: Batch, scores: Any) -> cost_model.Live:
    """Live shares of the first input, without readable traces."""
    length = int(batch.lengths[0])
    strata = jax.tree.map(lambda leaf: np.asarray(leaf[0]), batch.extract(scores))
    mask = [
        jax.tree.map(lambda s, k=k: s <= k if k < len(batch.sizes) else s != NO_EDGE, strata)
        for k in range(len(batch.sizes) + 1)
    ]
    return cost_model.live_of_masks(jax.tree.map(lambda *leaves: np.stack(leaves), *mask), length)


def torch_seconds(name: str, n_tokens: int) -> dict[str, float]:
    """One instance of the literal PyTorch pipeline on the same device, with random weights of the same shapes."""
    import torch

    from experiments.benchmarks import torch_pipeline as baseline

    model = baseline.random_model(describe(name), torch.device("cuda"), torch.bfloat16)
    tokens = torch.randint(0, describe(name).vocab_size, (n_tokens,), device="cuda")

    def whole() -> Any:
        _, scores = baseline.clean_scores(model, tokens)
        strata = baseline.extract(scores, SIZES)
        found = baseline.evaluate(model, tokens, strata, len(SIZES))
        torch.cuda.synchronize()
        return found.cpu().numpy()

    with torch.inference_mode():
        return timed(whole, repeats=2)


def torch_in_a_process_of_its_own(arguments: list[str]) -> dict[str, float]:
    """What ``torch_seconds`` gives, while this process holds no memory of the device."""
    command = [sys.executable, __file__, *arguments, "--torch-alone"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def main() -> None:
    """Measure or analyse, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(PRESETS), metavar="NAME")
    parser.add_argument("--tokens", type=int, default=55)
    parser.add_argument("--long", metavar="NAME", help="one model at 55 to 1,024 tokens instead")
    parser.add_argument(
        "--torch", action="store_true", help="the literal PyTorch pipeline too, for the model of --long"
    )
    parser.add_argument("--torch-alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--analyse", action="store_true", help="compile only, and print the programs' memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    if options.torch and not options.long:
        parser.error("--torch goes with --long")
    if options.torch_alone:
        print(json.dumps(torch_seconds(options.long, options.tokens)))
        return
    torch_run = torch_in_a_process_of_its_own(sys.argv[1:]) if options.torch else None  # before JAX takes the memory
    # Smaller models first: the peak is that of the process so far.
    names = sorted(options.models, key=lambda name: n_params(describe(name)))
    wanted = [(options.long, n) for n in LONG] if options.long else [(name, options.tokens) for name in names]
    if options.analyse:
        print(
            "| model | tokens | weights, GB | score, GB | extract, GB | evaluate, GB | peak, GB |\n" + "|---" * 7 + "|"
        )
        found = []
        for name, n_tokens in wanted:
            found.append({"model": name, "tokens": n_tokens, **analysed(describe(name), n_tokens)})
            show_analysis(name, n_tokens, found[-1])
        record("accelerator-memory", weights=DTYPE.name, programs=found, speed="unmeasured", out=options.out)
        return
    rate, results = matrix_rate(DTYPE, 8192), []
    decoder, loaded = None, ""
    for name, n_tokens in wanted:
        if name != loaded:
            decoder = None  # before the next one is drawn
            decoder, loaded = (
                Decoder(describe(name), random_params(describe(name), key=seeded(0), dtype=DTYPE)),
                name,
            )
        assert decoder is not None
        results.append({"model": name, **run(decoder, n_tokens, rate, options.repeats)})
        mean = len(results) / sum(1 / row["inputs_per_s"] for row in results)
        print(f"{name}: {results[-1]['inputs_per_s']:.1f} inputs/s, mean so far {mean:.1f}", flush=True)
        record(
            "accelerator", dtype=DTYPE.name, matrix_rate=rate, results=results, mean_inputs_per_s=mean,
            torch=torch_run, out=options.out,
        )  # fmt: skip


if __name__ == "__main__":
    main()
