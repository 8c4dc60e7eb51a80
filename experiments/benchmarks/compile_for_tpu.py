"""The programs of jstrace compiled for a TPU slice, without one: time to compile, memory, FLOPs, collectives, scatters.

Command: ``python experiments/benchmarks/compile_for_tpu.py --topology v5e:2x4 --mesh data=4,model=2 --model
Qwen/Qwen3-8B-Base --tokens 55 --inputs 4`` (some minutes on two CPU cores). Needs the compiler of TPUs alone: ``pip
install -e '.[tpu]'``, in an environment of its own, as JAX would look for a TPU whenever it is there.

Nothing is allocated and nothing runs. A row for each program: ``score``, ``extract`` and ``evaluate`` of a call,
``round`` (scores from one round of gradients, with the clean pass and the gradient before it) and ``fit`` (scores from
one step of a fit, with the gradient before it). Bytes are those of one device; FLOPs are those of its matrix products,
turns of loops multiplied where their number is known, so that rows which are skipped count as one block. The last line
is JSON: ``programs: {score: {compile_s, argument_bytes, temp_bytes, ...}, ...}``. Without ``--mesh`` it is one device.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

NAMES = ("score", "extract", "evaluate", "round", "fit")
MEMORY = {"TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}
"""GiB of a chip that the compiler leaves to a program and its arguments, as it says where they do not fit."""
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Without these libtpu asks a server of Google's, JAX looks for a TPU, and one process compiles at a time."""
_ACCELERATOR = {"v4": "v4-8", "v5p": "v5p-8", "v5e": "v5litepod-8", "v6e": "v6e-8"}


MISSING = "libtpu, the compiler of TPUs, is missing: pip install -e '.[tpu]', in an environment of its own"


def prepare(topology: str) -> None:
    """Set what libtpu reads, before JAX is imported.

    Raises:
      SystemExit: there is no libtpu.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise SystemExit(MISSING)
    kind = topology.partition(":")[0]
    for name, value in (_ENVIRONMENT | {"TPU_ACCELERATOR_TYPE": _ACCELERATOR.get(kind, "v5litepod-8")}).items():
        os.environ.setdefault(name, value)


def devices_of(topology: str, n_slices: int = 1) -> list[Any]:
    """The devices of a slice such as ``v5e:2x4``, or of several.

    Raises:
      InputError: no slice that libtpu knows.
    """
    import jax
    from jax.experimental import topologies

    from jstrace.models import InputError

    try:
        several = {"num_slices": n_slices} if n_slices > 1 else {}
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **several).devices)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology {topology!r}: {str(error).splitlines()[0]}") from error


def mesh_on(devices: list[Any], words: str) -> Any:
    """The mesh of ``--mesh`` on devices that are described; None where there are no words."""
    from jstrace.models import InputError, make_mesh

    if not words:
        return None
    try:
        sizes = {name: int(size) for name, size in (part.split("=") for part in words.split(","))}
    except ValueError as error:
        raise InputError(f"mesh {words!r}: expected such as data=4,model=2") from error
    if not set(sizes) <= {"data", "model"}:
        raise InputError(f"mesh {words!r}: expected such as data=4,model=2")
    return make_mesh(**sizes, devices=devices)


@dataclasses.dataclass(frozen=True)
class Call:
    """The shapes of one call, on their devices."""

    config: Any
    decoder: Any
    tokens: Any
    rows: Any
    """A number an input."""
    cuts: Any
    mesh: Any
    each: Any
    """The sharding of what has an axis of inputs."""

    @staticmethod
    def of(config: Any, n_tokens: int, n_inputs: int, dtype: Any, device: Any, mesh: Any) -> Call:
        """Of ``n_inputs`` texts of ``n_tokens``, on a mesh or a device."""
        import jax
        from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

        from experiments.benchmarks.stages import blank_batch
        from jstrace.models import Decoder, param_shardings, shapes
        from jstrace.scale import meshes

        def put(shape: Any, sharding: Any) -> Any:
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

        batch, params = blank_batch(config, n_inputs, n_tokens, dtype), shapes(config, dtype)
        each: jax.sharding.Sharding = SingleDeviceSharding(device)
        if mesh is None:
            weights = jax.tree.map(lambda _: each, params)
        else:
            each = NamedSharding(meshes.divided(mesh, n_inputs), PartitionSpec(meshes.INPUTS))
            weights = param_shardings(config, mesh)
        decoder = Decoder(config, jax.tree.map(put, params, weights))
        tokens, rows, cuts = (put(leaf, each) for leaf in (batch.tokens, batch.lengths, batch.cuts))
        return Call(config, decoder, tokens, rows, cuts, mesh, each)

    def edges(self, dtype: Any) -> Any:
        """Scores or strata."""
        import jax

        from jstrace.pipeline.compiled import edges_like

        n_inputs, width = self.tokens.shape
        blank = edges_like(self.config, n_inputs, width, dtype)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.each), blank)

    def lowered(self, name: str) -> Any:
        """A program, lowered for the devices that its arguments lie on."""
        from jstrace.models import platforms

        with platforms.assumed("tpu"):
            return self._lowered(name)

    def _lowered(self, name: str) -> Any:
        import jax.numpy as jnp

        from jstrace.method.conditions import Condition
        from jstrace.method.graph.sizes import SIZES
        from jstrace.method.scores.fitted import Fitted
        from jstrace.method.scores.gradients import Gradient
        from jstrace.method.scores.rounds import Rounds
        from jstrace.pipeline import masked, stages

        if name == "extract":
            return stages.extract_program.lower(
                self.edges(jnp.float32), self.cuts, self.rows, parallel=self.config.parallel, frozen=(), mesh=self.mesh,
                platform="tpu",
            )  # fmt: skip
        if name == "evaluate":
            options = {"n_sizes": len(SIZES), "cases": ((0, Condition()),), "mesh": self.mesh, "platform": "tpu"}
            strata = (self.edges(jnp.uint8),)
            return masked.lowered(self.decoder, self.tokens, self.rows, strata, self.rows, **options)
        kinds = {"score": "l1", "round": Rounds(cuts=1), "fit": Fitted(steps=1, polish=0, start=Gradient())}
        return stages.score_batch.lower(
            self.decoder, self.tokens, self.rows, 0, scorings=((kinds[name], "zero"),), replacements={}, mesh=self.mesh
        )


def measured(lower: Callable[[], Any], mesh: Any, keep: Path | None) -> dict[str, Any]:
    """What a program takes; ``keep`` is a file for its text."""
    import jax

    from experiments.benchmarks import hlo

    start = time.perf_counter()
    lowered = lower()
    middle, processor = time.perf_counter(), time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # it refuses temporaries that do not fit, though not arguments
        return {"refused": str(error).splitlines()[0], "compile_s": round(time.perf_counter() - middle, 2)}
    end, processor = time.perf_counter(), time.process_time() - processor
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    if keep is not None:
        keep.write_text(text, encoding="utf-8")
    program = hlo.parsed(text)
    crossing = hlo.collectives(program, {} if mesh is None else dict(mesh.shape))
    return {
        "lower_s": round(middle - start, 2),
        "compile_s": round(end - middle, 2),
        "compile_processor_s": round(processor, 2),
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "flops": hlo.flops(program),
        **hlo.counts(program),
        "collectives": [dataclasses.asdict(one) for one in crossing],
    }


def shown(name: str, found: Mapping[str, Any], memory: float) -> str:
    """One row of the table."""
    if "refused" in found:
        return f"| {name} | {found['compile_s']:.1f} | {found['refused']} |{' |' * 10}"
    whole = sum(found[f"{part}_bytes"] for part in ("argument", "temp", "output"))
    crossing = ", ".join(
        f"{one['number']} {one['kind']} over {one['axes']}, {one['n_bytes'] / 1e6:.1f} MB"
        for one in found["collectives"]
    )
    gigabytes = [f"{found[f'{part}_bytes'] / 1e9:.2f}" for part in ("argument", "temp", "output")]
    loops = [f"{found[kind]} ({found[f'{kind}_in_loops']})" for kind in ("scatters", "sorts")]
    fits = f"{100 * whole / memory:.0f}%"
    seconds = [f"{found[f'compile_{part}s']:.1f}" for part in ("", "processor_")]
    cells = [name, *seconds, *gigabytes, fits, f"{found['flops'] / 1e12:.2f}", *loops]
    cells += [str(found["conditionals"]), f"{found['loops']} ({found['loops_of_unknown_turns']})", crossing or "none"]
    return f"| {' | '.join(cells)} |"


HEADER = (
    "| program | compile, s | of processor time | arguments, GB | temporaries, GB | results, GB | of memory | TFLOP |"
    " scatters (in loops) |"
    " sorts (in loops) | conditionals | loops (of unknown turns) | collectives |\n" + "|---" * 13 + "|"
)


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4", help="such as v5e:2x4, v5p:2x2x1, v6e:2x4")
    parser.add_argument("--slices", type=int, default=1, help="of that topology; data is divided over them")
    parser.add_argument("--mesh", default="", help="such as data=4,model=2; one device without it")
    parser.add_argument("--model", default="Qwen/Qwen3-8B-Base", help="a preset, or a model that is here already")
    parser.add_argument("--tokens", type=int, default=55)
    parser.add_argument("--inputs", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, help="another number of layers, for a quick look")
    parser.add_argument("--programs", nargs="*", default=list(NAMES), choices=NAMES, metavar="NAME")
    parser.add_argument("--hlo", type=Path, help="also write the optimised programs into this folder")
    parser.add_argument("--out", type=Path, help="also write the JSON line here")
    options = parser.parse_args()
    if min(options.tokens, options.inputs, options.slices) < 1:
        parser.error("--tokens, --inputs and --slices are positive")
    prepare(options.topology)
    from jstrace.models import InputError

    try:
        _compile(options)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _compile(options: argparse.Namespace) -> None:
    import jax.numpy as jnp

    from experiments.benchmarks.timing import record
    from jstrace.loading import describe

    config = describe(options.model)
    config = dataclasses.replace(config, n_layers=options.layers) if options.layers else config
    devices = devices_of(options.topology, options.slices)
    mesh, kind = mesh_on(devices, options.mesh), devices[0].device_kind
    call = Call.of(config, options.tokens, options.inputs, jnp.dtype(options.dtype), devices[0], mesh)
    memory, programs = MEMORY.get(kind, math.nan) * 2**30, {}
    if options.hlo:
        options.hlo.mkdir(parents=True, exist_ok=True)
    print(
        f"{kind}, {options.mesh or 'one device'}, {options.model}, {options.inputs} x {options.tokens} tokens\n{HEADER}"
    )
    for name in options.programs:
        keep = options.hlo / f"{name}.txt" if options.hlo else None
        programs[name] = measured(lambda name=name: call.lowered(name), mesh, keep)  # type: ignore[misc]
        print(shown(name, programs[name], memory), flush=True)
    about = {
        name: getattr(options, name) for name in ("topology", "slices", "mesh", "model", "tokens", "inputs", "dtype")
    }
    record("compile-for-tpu", out=options.out, **about, memory_bytes=memory, programs=programs)


if __name__ == "__main__":
    main()
