"""Two processes that work together over loopback: what each of them does, and how tests start them.

All that the library does on two hosts is done by one pair of processes, as starting them takes most of the time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jstrace import InputError, Trace
from jstrace.cli.progress import interruptible
from jstrace.scale.hosts import check_agreed, start_distributed, together
from jstrace.scale.meshes import parse_mesh
from tests.compiling import QUICK

ROWS = ([3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8])
MESHES = ("data=4", "data=2,model=2")
SIZES = (0.01, 0.05, 0.3, 0.7)


@dataclasses.dataclass(frozen=True)
class Work:
    """What two processes are given, and what each of them told."""

    model: Path
    data: Path
    shared: Path
    """The folder of a run of both."""
    own: tuple[Path, Path]
    """A folder of a run for each."""
    told: tuple[dict[str, Any], ...] = ()


def digest(trace: Trace) -> str:
    """A hash of all strata."""
    return hashlib.sha256(b"".join(leaf.tobytes() for _, leaf in trace.strata.items())).hexdigest()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_together(commands: Callable[[int], list[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of two devices each, which find each other over loopback."""
    address = f"127.0.0.1:{free_port()}"
    flags = f"--xla_force_host_platform_device_count=2 {QUICK}"
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


def done(work: Work, *, again: bool = False) -> Work:
    """The work as two processes did it; ``again`` are the runs alone, by two others."""
    given = list(map(str, (work.model, work.data, work.shared, *work.own)))
    command = [sys.executable, "-m", "tests.two_hosts", "again" if again else "all", *given]
    ended = run_together(lambda _: command)
    assert [run.returncode for run in ended] == [0, 0], [run.stderr[-2000:] for run in ended]
    return dataclasses.replace(work, told=tuple(json.loads(run.stdout.splitlines()[-1]) for run in ended))


# --- in each process ------------------------------------------------------------------------------------------------


def refused(what: str) -> str:
    """Compare with the other process what each was asked for; how that ended."""
    check_agreed(("the same", 1))
    try:
        check_agreed(("not", what))
    except InputError as error:
        return str(error)
    return ""


def stopped(number: int) -> list[str]:
    """How each process ends where the second fails, exits or is interrupted in a step, or the first while it waits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a test in the background of a shell ignores

    def ended(step: Callable[[], Any]) -> str:
        try:
            return str(together(step))
        except BaseException as error:
            return f"{type(error).__name__}: {error}"

    def fails(error: BaseException) -> Callable[[], str]:
        def step() -> str:
            if number == 1:
                raise error
            return "done"

        return step

    def waits() -> str:
        if number == 1:
            time.sleep(2)
        else:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        return "done"

    steps = [fails(error) for error in (ValueError("no"), KeyboardInterrupt(), SystemExit(3))]
    found = [ended(step) for step in (*steps, waits, lambda: "done")]
    with interruptible():  # the handler of the command
        return [*found, ended(waits), ended(lambda: "done")]


def numbers(source: str) -> dict[str, Any]:
    """Traces and evaluations on two meshes: weights whole in every process, and divided within it."""
    import jstrace

    meshes, mark = [], ""
    for words in MESHES:
        model = jstrace.load(source, mesh=parse_mesh(words))
        traces = jstrace.trace(model, ROWS)
        results = jstrace.evaluate(model, traces)
        strata = [digest(trace) for trace in traces]
        meshes.append({"tv": [result.tv.tolist() for result in results], "strata": strata})
        mark = model.fingerprint()
    return {"fingerprint": mark, "meshes": meshes}


def computed(source: str, data: str, out: str, seconds: float) -> int:
    """Run a dataset, or go on where it stopped, by a clock that ticks so far at each look: inputs computed."""
    import jstrace
    from jstrace import runs
    from jstrace.method.plans import Plan
    from jstrace.runs import saving

    ticks = itertools.count()
    saving.clock = lambda: seconds * next(ticks)

    model, rows, plan = jstrace.load(source, mesh=parse_mesh("data=all")), runs.read_data(data), Plan(sizes=SIZES)
    return runs.run(model, rows, out, plan, part_inputs=2).computed


def foreign(source: str, data: str) -> list[list[int]]:
    """The rows whose predictions each input is told, which every host chooses by itself."""
    import jstrace
    from jstrace import runs
    from jstrace.method.plans import Plan
    from jstrace.pipeline.replacing import Replacing
    from jstrace.runs.control import Control

    model, rows = jstrace.load(source, mesh=parse_mesh("data=all")), runs.read_data(data).rows
    control = Control(model, Plan(("gradient",), sizes=SIZES, selectivity=2), rows, Replacing(model))
    return [list(control.others(index)) for index in range(len(rows))]


def main() -> None:
    """Everything, for one line of JSON."""
    what, source, data, shared, *own = sys.argv[1:]
    start_distributed()
    import jax

    number = jax.process_index()
    told = {} if what == "again" else {"refused": refused(str(number)), "stopped": stopped(number), **numbers(source)}
    told |= {} if what == "again" else {"foreign": foreign(source, data)}
    told |= {
        "devices": jax.device_count(),
        "shared": computed(source, data, shared, 1e-3),
        "own": computed(source, data, own[number], (40.0, 70.0)[number]),  # hosts whose clocks differ
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
