"""The mesh that each of the paper's ten models needs on slices of TPUs, by the compiler's word.

Command: ``python experiments/benchmarks/fits.py`` (an hour or more on two CPU cores; needs libtpu, as
compile_for_tpu.py). A line of JSON for each model, slice and length goes into experiments/results/fits-tpu.jsonl as it
comes; what is there already is not compiled again, so it goes on where it was stopped. ``--table`` prints what is there
as the table of experiments/results/benchmarks/README.md, and marks what was not compiled as an estimate.

For each it compiles ``score`` and ``evaluate`` with one input for each device along ``data``, on the smallest ``model``
that holds them by the estimate (``pipeline.footprint.device_bytes``), and on twice as many devices where the compiler
says that it does not fit.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.benchmarks import compile_for_tpu

SLICES = ("v5e:2x4", "v5p:2x2x1", "v6e:2x4")
TOKENS = (55, 512)
PROGRAMS = ("score", "evaluate")
RESULTS = Path(__file__).parents[1] / "results" / "fits-tpu.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """What was compiled, the meshes that did not fit among them."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def fits(found: dict[str, Any]) -> bool:
    """Whether arguments, temporaries and results of every program are within the chip's memory."""
    return all("refused" not in one and peak(one) <= found["memory_bytes"] for one in found["programs"].values())


def peak(program: dict[str, Any]) -> int:
    """Bytes of a device that a program asks for."""
    return sum(program[f"{part}_bytes"] for part in ("argument", "temp", "output"))


def meshes_for(config: Any, tokens: int, n_devices: int, memory: float) -> Iterator[tuple[int, int]]:
    """Sizes of ``model`` with the estimate of each, from the smallest that fits by the estimate on."""
    from jstrace.method.plans import Plan
    from jstrace.models.platforms import assumed
    from jstrace.pipeline.footprint import device_bytes, model_sizes
    from jstrace.pipeline.records import Ask

    plan = Plan()
    ask = Ask(plan.sources[:1], plan.cases[:1], plan.sizes)
    for over in model_sizes(config, n_devices):
        with assumed("tpu"):
            estimate = device_bytes(config, tokens, ask, 2, over=over)
        if estimate <= memory:
            yield over, estimate


def compiled(name: str, topology: str, tokens: int) -> Iterator[dict[str, Any]]:
    """A record for each mesh that was tried; the last one fits, if any does."""
    import jax.numpy as jnp

    from jstrace.loading import describe

    config, devices = describe(name), compile_for_tpu.devices_of(topology)
    memory = compile_for_tpu.MEMORY[devices[0].device_kind] * 2**30
    for over, estimate in meshes_for(config, tokens, len(devices), memory):
        n_data = len(devices) // over
        words = f"data={n_data},model={over}"
        mesh = compile_for_tpu.mesh_on(devices, words)
        call = compile_for_tpu.Call.of(config, tokens, n_data, jnp.dtype("bfloat16"), devices[0], mesh)
        programs = {one: compile_for_tpu.measured(functools.partial(call.lowered, one), mesh, None) for one in PROGRAMS}
        about = {"model": name, "topology": topology, "tokens": tokens, "mesh": words, "inputs": n_data}
        found = {**about, "dtype": "bfloat16", "memory_bytes": memory, "estimate_bytes": estimate, "programs": programs}
        yield found
        if fits(found):
            return


def table(records: list[dict[str, Any]]) -> Iterator[str]:
    """Rows of Markdown: the smallest mesh of each model by length and slice, with GB of a device; bold if compiled."""
    from jstrace.loading import describe
    from jstrace.models import PRESETS

    there = {(one["model"], one["topology"], one["tokens"]): one for one in records if fits(one)}
    kinds = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    yield "| model | " + " | ".join(f"{tokens} tokens, {slice_}" for tokens in TOKENS for slice_ in SLICES) + " |"
    yield "|---" * (1 + len(TOKENS) * len(SLICES)) + "|"
    for name in PRESETS:
        cells = []
        for tokens in TOKENS:
            for topology in SLICES:
                kind, _, shape = topology.partition(":")
                n_devices = math.prod(map(int, shape.split("x")))
                if found := there.get((name, topology, tokens)):
                    cells.append(f"**{found['mesh']}, {max(map(peak, found['programs'].values())) / 1e9:.1f}**")
                    continue
                memory = compile_for_tpu.MEMORY[kinds[kind]] * 2**30
                over, estimate = next(meshes_for(describe(name), tokens, n_devices, memory))
                cells.append(f"data={n_devices // over},model={over}, {estimate / 1e9:.1f}")
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Compile what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", metavar="NAME")
    parser.add_argument("--topologies", nargs="*", default=list(SLICES))
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there, and estimates of the rest")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(read(options.out))))
        return
    compile_for_tpu.prepare(options.topologies[0])
    from jstrace.models import PRESETS
    from jstrace.scale.machine import versions

    for tokens in options.tokens:
        for topology in options.topologies:
            for name in options.models or PRESETS:
                there = [(one["model"], one["topology"], one["tokens"]) for one in read(options.out)]
                if (name, topology, tokens) in there:
                    continue
                for found in compiled(name, topology, tokens):
                    with options.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps({**found, "versions": versions()}) + "\n")
                    print(name, topology, tokens, found["mesh"], "fits" if fits(found) else "does not fit", flush=True)


if __name__ == "__main__":
    main()
