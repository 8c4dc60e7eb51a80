"""What is counted in programs for TPUs, from texts; and programs compiled for slices, where the compiler is there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import hlo

ROOT = Path(__file__).parents[2]

TEXT = """HloModule jit_f, is_scheduled=true

%max.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %maximum.1 = f32[] maximum(%a, %b)
}

%fused.1 (p.1: bf16[64,4096], p.2: bf16[4096,12288]) -> bf16[64,12288] {
  %p.1 = bf16[64,4096]{1,0:T(8,128)(2,1)} parameter(0)
  %p.2 = bf16[4096,12288]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.1 = bf16[64,12288]{1,0:T(8,128)(2,1)S(1)} convolution(%p.1, %p.2), dim_labels=bf_io->bf
}

%body.1 (state.1: (s32[], f32[8,256,64])) -> (s32[], f32[8,256,64]) {
  %state.1 = (s32[]{:T(128)}, /*index=1*/f32[8,256,64]{2,1,0:T(8,128)}) parameter(0)
  %left.1 = f32[8,256,128]{2,1,0} constant({...})
  %right.1 = f32[8,64,128]{2,1,0} constant({...})
  %convolution.2 = f32[8,256,64]{1,2,0:T(8,128)} convolution(%left.1, %right.1), WINDOW
  %scatter.1 = s32[65536]{0:T(1024)S(1)} scatter(%x, %y, %z), to_apply=%max.1
  %all-reduce.1 = f32[64,32]{1,0} all-reduce(%v), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%max.1
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[8,256,64]{2,1,0}) tuple(%c, %convolution.2)
}

%condition.1 (state.2: (s32[], f32[8,256,64])) -> pred[] {
  %state.2 = (s32[], f32[8,256,64]) parameter(0)
  %constant.1 = s32[]{:T(128)} constant(36)
  %get-tuple-element.1 = s32[]{:T(128)} get-tuple-element(%state.2), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%get-tuple-element.1, %constant.1), direction=LT
}

%while_any.1 (state.3: (pred[])) -> pred[] {
  %state.3 = (pred[]) parameter(0)
  ROOT %get-tuple-element.2 = pred[] get-tuple-element(%state.3), index=0
}

%empty.1 (state.4: (pred[])) -> (pred[]) {
  %state.4 = (pred[]) parameter(0)
  %sort.1 = (f32[1,9]{1,0}, s32[1,9]{1,0}) sort(%i, %j), dimensions={1}, to_apply=%max.1
  ROOT %tuple.2 = (pred[]) tuple(%k)
}

%small.1 (q.1: f32[2,3]) -> f32[2,5] {
  %q.1 = f32[2,3]{1,0} parameter(0)
  %q.2 = f32[3,5]{1,0} constant({...})
  ROOT %dot.1 = f32[2,5]{1,0} dot(%q.1, %q.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%nothing.1 (r.1: f32[2,3]) -> f32[2,5] {
  ROOT %constant.9 = f32[2,5]{1,0} constant({...})
}

ENTRY %main.1 (in.1: bf16[64,4096], in.2: bf16[4096,12288]) -> bf16[64,12288] {
  %in.1 = bf16[64,4096]{1,0} parameter(0)
  %in.2 = bf16[4096,12288]{1,0} parameter(1)
  %while.1 = (s32[]{:T(128)}, f32[8,256,64]{2,1,0}) while(%t), condition=%condition.1, body=%body.1
  %while.2 = (pred[]) while(%u), condition=%while_any.1, body=%empty.1
  %conditional.1 = f32[2,5]{1,0} conditional(%n, %o, %o), branch_computations={%nothing.1, %small.1}
  %all-gather-start.1 = (f32[4]{0}, f32[16]{0}) all-gather-start(%g), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  %all-gather-done.1 = f32[16]{0} all-gather-done(%all-gather-start.1)
  ROOT %fusion.1 = bf16[64,12288]{1,0} fusion(%in.1, %in.2), kind=kOutput, calls=%fused.1
}
""".replace("WINDOW", "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0oi->0bf")


def test_counts_of_a_text() -> None:
    found = hlo.counts(hlo.parsed(TEXT))
    assert found == {
        **{"scatters": 1, "sorts": 1, "conditionals": 1, "loops": 2},
        **{"scatters_in_loops": 1, "sorts_in_loops": 1, "loops_of_unknown_turns": 1},
    }


def test_flops_of_a_text() -> None:
    """Turns are multiplied; a batch written as a spatial axis counts once a place; the larger branch counts."""
    in_loop = 2 * 8 * 256 * 64 * 128
    assert hlo.flops(hlo.parsed(TEXT)) == 2 * 64 * 4096 * 12288 + 36 * in_loop + 2 * 2 * 5 * 3


def test_collectives_of_a_text() -> None:
    """All-gather along data (every second device), all-reduce along model, once a turn."""
    gathered, reduced = hlo.collectives(hlo.parsed(TEXT), {"data": 4, "model": 2})
    assert gathered == hlo.Collective("all-gather", "data", 1, 16 * 4)
    assert reduced == hlo.Collective("all-reduce", "model", 1, 36 * 64 * 32 * 4)


@pytest.mark.parametrize(
    ("written", "axes"),
    [
        ("replica_groups={{0,1,2,3,4,5,6,7}}", {"data", "model"}),
        ("replica_groups={}", {"data", "model"}),
        ("replica_groups=[4,2]<=[8]", {"model"}),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", {"model"}),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", {"data"}),
        ("source_target_pairs={{0,2},{2,0}}", {"data"}),
        ("source_target_pairs={{0,1},{1,0}}", {"model"}),
    ],
)
def test_ways_to_write_groups(written: str, axes: set[str]) -> None:
    assert hlo._crossed(f", {written}, channel_id=1", {"data": 4, "model": 2}) == axes


def test_a_program_of_this_machine() -> None:
    """The text of a compiled program, rather than one written by hand: a product in each of five turns."""

    def f(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, None, length=5)[0]

    text = jax.jit(f).lower(jnp.ones((16, 16))).compile().as_text()
    assert text is not None
    program = hlo.parsed(text)
    assert hlo.counts(program)["loops"] == 1
    assert hlo.flops(program) in (5 * 2 * 16**3, 0)  # 0 where the product is a call of a library


def compiled(*arguments: str, libtpu: bool = True) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; without libtpu even where it is installed."""
    hide = "import sys; sys.modules['libtpu'] = None; " if not libtpu else "import sys; "
    run = f"{hide}from experiments.benchmarks.compile_for_tpu import main; sys.argv[1:] = {arguments!r}; main()"
    known = {name: value for name, value in os.environ.items() if not name.startswith(("XLA", "TPU", "JAX"))}
    return subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, cwd=ROOT, env=known, check=False)


def test_without_libtpu() -> None:
    found = compiled("--topology", "v5e:2x4", libtpu=False)
    assert found.returncode != 0
    assert found.stderr.splitlines() == [
        "libtpu, the compiler of TPUs, is missing: pip install -e '.[tpu]', in an environment of its own"
    ]


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, the compiler of TPUs, is not installed (extra tpu)"
)
TINY = ("--model", "Qwen/Qwen3-8B-Base", "--layers", "2", "--tokens", "16")


def programs(*arguments: str) -> dict[str, Any]:
    found = compiled(*TINY, *arguments)
    assert found.returncode == 0, found.stderr
    record = json.loads(found.stdout.splitlines()[-1])
    assert record["versions"]["jax"]
    return record["programs"]


@needs_libtpu
def test_programs_for_one_device() -> None:
    """No scatter and no sort inside a loop, and nothing that all rows of a size would have to be copied for."""
    found = programs("--programs", "score", "evaluate")
    assert set(found) == {"score", "evaluate"}
    for name, one in found.items():
        assert one["compile_s"] > 0, name
        assert one["argument_bytes"] > 1e9, name
        assert one["flops"] > 1e9, name
        assert (one["scatters"], one["sorts"], one["conditionals"]) == (0, 0, 0), name
        assert one["collectives"] == [], name


@needs_libtpu
def test_programs_for_a_slice() -> None:
    """Sums cross the model axis, and the predictions once; the stages of a sort would cross it each."""
    for name, one in programs("--mesh", "data=4,model=2", "--inputs", "4", "--programs", "score", "evaluate").items():
        assert {found["axes"] for found in one["collectives"]} == {"model"}
        kinds = {found["kind"]: found["number"] for found in one["collectives"]}
        assert set(kinds) <= {"all-reduce", "all-gather"}, name
        assert kinds.get("all-gather", 0) <= 1, name


@needs_libtpu
def test_programs_for_two_slices() -> None:
    """Between slices goes what goes along data: whether extraction is complete, and nothing else."""
    mesh = ("--slices", "2", "--mesh", "data=8,model=2", "--inputs", "8")
    found = programs(*mesh, "--programs", "score", "extract", "evaluate")
    for name in ("score", "evaluate"):
        assert {one["axes"] for one in found[name]["collectives"]} == {"model"}, name
    (bit,) = found["extract"]["collectives"]
    assert (bit["kind"], bit["number"]) == ("all-reduce", 1)
    assert bit["n_bytes"] <= 512, "a bit, in a register's width"


@needs_libtpu
def test_extraction_for_one_device() -> None:
    """One scatter at its end, and no sort at all."""
    (one,) = programs("--programs", "extract").values()
    assert (one["scatters"], one["scatters_in_loops"], one["sorts"], one["conditionals"]) == (1, 0, 0, 0)


@needs_libtpu
def test_attention_of_long_inputs() -> None:
    """Of 1,024 queries under 27 masks and 32 heads, the logits alone would take 3.6 GB in float32."""
    (one,) = programs("--tokens", "1024", "--programs", "evaluate").values()
    assert one["temp_bytes"] < 3e9


@needs_libtpu
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--topology", "v5e:3x3"), "topology 'v5e:3x3'"),
        (("--mesh", "data=5,model=3"), "needs 15 devices, there are 8"),
        (("--mesh", "data"), "expected such as data=4,model=2"),
        (("--mesh", "devices=4"), "expected such as data=4,model=2"),
        (("--mesh", "data=2,model=3"), "does not divide"),
    ],
)
def test_what_makes_no_sense(words: tuple[str, ...], message: str) -> None:
    found = compiled(*TINY, *words)
    assert found.returncode == 2
    assert message in found.stderr
    assert len(found.stderr.splitlines()) == 1
