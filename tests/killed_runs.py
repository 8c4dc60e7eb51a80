"""Runs a dataset in child processes that are killed at random moments, and says what the kills left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.method.plans import Plan
from jstrace.models import Decoder, Model
from jstrace.models.params import shapes
from jstrace.runs.data import Data, Row
from jstrace.runs.parts import parts_of
from jstrace.runs.runner import run  # with all that it needs, before the children are made
from tests.conftest import TINY
from tests.stand_ins import Letters

PLAN = Plan(ablations=("all", "residual+mlp"), baselines=("inverse",), sizes=(0.05, 0.3))
DATA = Data("letters", tuple(Row(chr(97 + n % 20) * (3 + n % 4), "x") for n in range(150)), ("corpus",))
KILLS = 10


def work(out: Path, programs: Path, weights: Path) -> None:
    """One run, in parts of a single input."""
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    tree = jax.tree.structure(shapes(TINY, jnp.dtype("float32")))
    with np.load(weights) as leaves:
        params = jax.tree.unflatten(tree, [*map(jnp.asarray, leaves.values())])
    run(Model(Decoder(TINY, params), Letters()), DATA, out, PLAN, part_inputs=1)


def killed(out: Path, programs: Path, weights: Path, more: int, delay: float) -> str:
    """Start a run and kill it ``delay`` seconds after it has written so many parts; how it ended."""
    before = len(parts_of(out, "inputs"))
    child = os.fork()
    if child == 0:
        try:
            work(out, programs, weights)
        except BaseException:  # never back into what the parent does
            traceback.print_exc()
        os._exit(0)
    while len(parts_of(out, "inputs")) < before + more and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    time.sleep(delay)
    try:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        return "finished"
    return "killed" if os.WIFSIGNALED(status) else "finished"


def main() -> None:
    """Ten kills; the last run is left to finish."""
    out, programs, weights = map(Path, sys.argv[1:])
    draw, ends = random.Random(0), []
    for _ in range(KILLS):
        ends.append(killed(out, programs, weights, draw.randrange(6), draw.uniform(0.0, 0.06)))
    parts = len(parts_of(out, "inputs"))
    work(out, programs, weights)
    sys.stdout.write(json.dumps({"ends": ends, "parts_before_the_last": parts}) + "\n")


if __name__ == "__main__":
    main()
