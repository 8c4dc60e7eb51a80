"""The host's share of a run: of its time, how much has no computation in flight; on forced devices of a CPU.

Command: ``python experiments/benchmarks/bench_host.py`` (some minutes on two CPU cores). Eight devices of one CPU, with
the first layers of SmolLM2 on each; inputs of the built-in reference go through ``jstrace.runs.run`` twice: the first
time compiles, the second is measured.

A computation is in flight from the call that starts it until its last output is ready, which a thread of its own
waits for; the calls are those of the stages (scores, extraction, evaluation). The host's share is what the union of
these intervals leaves of the time between the first call and the end of the run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


class Flights:
    """When computations were in flight."""

    def __init__(self) -> None:
        self._started: queue.SimpleQueue[tuple[float, Any] | None] = queue.SimpleQueue()
        self._found: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        import jax

        while (one := self._started.get()) is not None:
            start, outputs = one
            jax.block_until_ready(outputs)
            self._found.append((start, time.perf_counter()))

    def noted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A stage whose computations are watched."""

        @functools.wraps(call)
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            outputs = call(*arguments, **options)
            self._started.put((start, outputs))
            return outputs

        return run

    @contextlib.contextmanager
    def of(self, module: Any, *names: str) -> Iterator[None]:
        """Watch functions of a module."""
        before = {name: getattr(module, name) for name in names if hasattr(module, name)}
        for name, call in before.items():
            setattr(module, name, self.noted(call))
        try:
            yield
        finally:
            for name, call in before.items():
                setattr(module, name, call)

    def __enter__(self) -> Flights:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.put(None)
        self._thread.join()

    def spans(self) -> list[tuple[float, float]]:
        """The union of all intervals, in order."""
        return union(self._found)


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Intervals as few, in order, that do not overlap."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def measured(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a run, of them without a computation in flight, and the longest such gap."""
    from jstrace.pipeline import masked, stages

    with (
        Flights() as flights,
        flights.of(stages, "score_batch", "extract_program", "compose_batch"),
        flights.of(masked, "evaluate_batch"),
    ):
        run()
        end = time.perf_counter()
    spans = flights.spans()
    whole = end - spans[0][0]
    edges = [*(span[0] for span in spans[1:]), end]
    gaps = [max(0.0, start - stop) for start, (_, stop) in zip(edges, spans, strict=True)]
    return {"seconds": whole, "idle": sum(gaps), "share": sum(gaps) / whole, "gaps": len(gaps), "longest": max(gaps)}


def model_on_mesh(words: str, n_layers: int) -> Any:
    """SmolLM2 with its first layers alone, on a mesh."""
    import jax

    import jstrace
    from jstrace.models import Decoder, Model, param_shardings
    from jstrace.scale.meshes import parse_mesh

    whole, mesh = jstrace.load("smollm2"), parse_mesh(words)
    config, params = dataclasses.replace(whole.config, n_layers=n_layers), dict(whole.decoder.params())
    params["layers"] = {name: leaf[:n_layers] for name, leaf in params["layers"].items()}
    return Model(Decoder(config, jax.device_put(params, param_shardings(config, mesh))), whole.tokenizer)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--part-inputs", type=int, default=32, help="of a part; results of one are written at its end")
    parser.add_argument("--save-strata", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"
    from experiments.benchmarks.timing import record
    from jstrace import runs
    from jstrace.pipeline.reference import built_in_reference
    from jstrace.runs.data import Data, Row

    model = model_on_mesh(f"data={options.devices}", options.layers)
    rows = tuple(Row(text) for text in built_in_reference()[: options.inputs])
    data = Data("reference", rows, tuple(row.text for row in rows))

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            runs.run(
                model, data, Path(folder) / "run", save_strata=options.save_strata, part_inputs=options.part_inputs
            )

    run()
    found = measured(run)
    print(
        f"{len(rows)} inputs in {found['seconds']:.1f} s; no computation in flight for {found['idle']:.2f} s in"
        f" {found['gaps']:.0f} gaps, the longest {found['longest']:.2f} s: {100 * found['share']:.1f}%"
    )
    about = {
        "devices": options.devices,
        "layers": options.layers,
        "inputs": len(rows),
        "part_inputs": options.part_inputs,
        "save_strata": options.save_strata,
    }
    record("host", out=options.out, **about, **found)


if __name__ == "__main__":
    main()
