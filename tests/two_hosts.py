"""Two processes that work together over loopback: what each of them does, and how tests start them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jstrace import InputError, Trace
from jstrace.scale.hosts import start_distributed
from jstrace.scale.meshes import parse_mesh


def digest(trace: Trace) -> str:
    """A hash of all strata."""
    return hashlib.sha256(b"".join(leaf.tobytes() for _, leaf in trace.strata.items())).hexdigest()


def ask(what: str) -> None:
    """Compare with the other process what each was asked for; print how that ended."""
    from jstrace.scale.hosts import check_agreed

    start_distributed()
    check_agreed(("the same", 1))
    try:
        check_agreed(("not", what))
    except InputError as error:
        sys.stdout.write(f"{error}\n")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_together(commands: Callable[[int], list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of two devices each, which find each other over loopback."""
    address = f"127.0.0.1:{free_port()}"
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    shared = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2"}
    shared |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_COORDINATOR_BIND_ADDRESS": address}
    running = [
        subprocess.Popen(
            commands(number),
            env=shared | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    return [subprocess.CompletedProcess(p.args, p.returncode, *o) for p, o in zip(running, outputs, strict=True)]


def run_dataset(model: str, data: str, out: str) -> None:
    """Run a dataset together with the other process."""
    first = start_distributed()
    import jstrace
    from jstrace import runs
    from jstrace.method.conditions import Plan
    from jstrace.runs.data import read_data

    loaded = jstrace.load(model, mesh=parse_mesh("data=all"))
    done = runs.run(loaded, read_data(data), out, Plan(sizes=(0.01, 0.1, 0.5)), part_inputs=2)
    sys.stdout.write(json.dumps({"first": first, "computed": done.computed}) + "\n")


def main() -> None:
    """Run on two meshes: weights whole in every process, and divided within it."""
    start_distributed()
    import jax

    import jstrace

    rows, meshes, mark = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8]], [], ""
    for words in ("data=4", "data=2,model=2"):
        model = jstrace.load(sys.argv[1], mesh=parse_mesh(words))
        traces = jstrace.trace(model, rows)
        results = jstrace.evaluate(model, traces)
        strata = [digest(trace) for trace in traces]
        meshes.append({"tv": [result.tv.tolist() for result in results], "strata": strata})
        mark = model.fingerprint()
    sys.stdout.write(json.dumps({"devices": jax.device_count(), "fingerprint": mark, "meshes": meshes}) + "\n")


if __name__ == "__main__":
    main()
