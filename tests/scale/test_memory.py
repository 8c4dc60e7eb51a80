"""What batches make of memory: what is free, and what the estimates of programs are worth."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from experiments.benchmarks import fits
from jstrace.loading import describe
from jstrace.method.conditions import REPLACEMENTS
from jstrace.method.graph import full_graph
from jstrace.method.plans import Plan
from jstrace.models import Model, Replacement, platforms
from jstrace.pipeline import footprint, masked, stages
from jstrace.pipeline.compiled import compiled_bytes, edges_like
from jstrace.pipeline.records import Ask
from jstrace.pipeline.replacing import Replacing
from jstrace.pipeline.resolved import Resolved
from jstrace.scale import memory
from tests.conftest import TINY

SHAPE = dataclasses.replace(
    TINY, n_layers=6, n_heads=8, n_kv_heads=4, head_dim=16, d_model=128, d_mlp=384, vocab_size=2048
)
SIZES = tuple(np.linspace(0.1, 0.9, 9).tolist())


@pytest.mark.usefixtures("four_a_call")
def test_results_survive_a_halved_batch(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public calls: the same results, a message for each stage."""
    inputs = [[1, 2, 3], [4, 5, 6, 7], [8, 9], [1, 3, 5]]
    expected = jstrace.evaluate(tiny, jstrace.trace(tiny, inputs, sizes=SIZES))
    for module, name in ((stages, "score_batch"), (masked, "evaluate_batch")):
        real = getattr(module, name)

        def limited(*args: object, real: Callable = real, **kwargs: object) -> object:
            if len(args[1]) > 2:  # type: ignore[arg-type]
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, limited)
    with pytest.warns(RuntimeWarning, match="going on with 2") as seen:
        got = jstrace.evaluate(tiny, jstrace.trace(tiny, inputs, sizes=SIZES))
    assert len(seen) == 2
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.tv, b.tv, atol=1e-6)


@pytest.mark.usefixtures("four_a_call")
def test_the_batch_follows_free_memory(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = sum(leaf.nbytes for leaf in tiny.decoder.layers.weights().values()) // TINY.n_layers

    def fitting(free: int | None, each: int = 1000, width: int = 16) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda device: None if free is None else free + 5 * layer // 4 + 2)
        return memory.batch_inputs(tiny.decoder, width, each)

    assert [fitting(free) for free in (None, 10**9, 4900, 2500, 1250, 0)] == [4, 4, 2, 2, 1, 1]


def test_accelerators_take_more_inputs_of_a_gradient_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a call count, not inputs; a CPU fits one at a time."""
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)

    def taken(platform: str, width: int, **options: Any) -> int:
        devices = [types.SimpleNamespace(platform=platform, id=0)]
        sharding = types.SimpleNamespace(addressable_devices=devices)
        decoder: Any = types.SimpleNamespace(embed={...: types.SimpleNamespace(sharding=sharding)})
        return inspect.unwrap(memory.batch_inputs)(decoder, width, 1, **options)  # type: ignore[no-any-return]

    assert [taken("gpu", width) for width in (32, 64, 1024)] == [16, 8, 1]
    assert [taken("gpu", width, n_masks=2) for width in (32, 64, 1024)] == [64, 64, 8]
    assert [taken("tpu", 64, n_masks=2, alone=True), taken("cpu", 8, n_masks=2, alone=True)] == [64, 1]
    assert taken("cpu", 8, n_masks=2) == taken("cpu", 8) == 1


def test_free_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = memory.free_bytes(jax.devices()[0])
    assert found is not None
    assert 2**20 < found < 2**50
    total = memory.total_bytes(jax.devices()[0])
    assert total is not None
    assert total > found
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "nothing\n")
    assert memory.free_bytes(jax.devices()[0]) >= found  # type: ignore[operator]
    assert found < memory.total_bytes(jax.devices()[0]) <= total  # type: ignore[operator]


def test_memory_of_a_machine_counts_its_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\nSwapTotal: 20 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: lines)
    device = jax.devices()[0]
    assert (memory.free_bytes(device), memory.total_bytes(device)) == (60 * 1024, 120 * 1024)


def test_memory_of_a_container_is_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapTotal: 0 kB\n",
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/memory.max": "40960\n",
        "/sys/fs/cgroup/memory.current": "10240\n",
    }
    monkeypatch.setattr(Path, "read_text", lambda path, **_: files.get(str(path), ""))
    device = jax.devices()[0]
    assert (memory.free_bytes(device), memory.total_bytes(device)) == (30 * 1024, 40 * 1024)


def test_room_of_a_mesh_is_that_of_all_its_devices(tiny: Model) -> None:
    """Devices of one machine's memory have it once; others each have their own."""
    devices = jax.devices()[:4]
    sharding = types.SimpleNamespace(addressable_devices=set(devices[:2]), device_set=set(devices))
    decoder = types.SimpleNamespace(embed={...: types.SimpleNamespace(sharding=sharding)})
    room = inspect.unwrap(memory.room_of_all)
    assert room(decoder, lambda device: 100 + device.id) == 200  # two hosts of two devices
    assert room(decoder, lambda device: None) is None
    assert memory.room_of_all(tiny.decoder, lambda device: 100) == 100


def blank(shape: tuple[int, ...], dtype: object = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("width", [32, 256])
def test_estimates_are_those_of_the_compiler(width: int) -> None:
    """Within a factor of two and a half of what they say of the programs, beside weights; not below it by much."""
    found = compiled_bytes(SHAPE, width, jnp.dtype("float32"), n_sizes=len(SIZES))
    assert 0.8 < footprint.trace_bytes(SHAPE, width, len(SIZES), 4) / found["one_trace"] < 2.5
    assert 0.8 < footprint.evaluate_bytes(SHAPE, width, len(SIZES), 4) / found["evaluation"] < 2.5
    assert footprint.gradient_bytes(SHAPE, width, 4) / found["gradient_score"] > 0.8, "rounds take more"


def test_estimates_for_tpus_are_those_of_their_compiler() -> None:
    """Of all that was compiled for slices: within 3%, a copy of a layer's weights on some chips being the most of it,
    and above it for long inputs, whose extraction is not among what was compiled."""
    plan = Plan()
    ask = Ask(plan.sources[:1], plan.cases[:1], plan.sizes)
    records = fits.read(fits.RESULTS)
    assert records
    for one in records:
        over, needed = int(one["mesh"].rpartition("=")[2]), max(map(fits.peak, one["programs"].values()))
        with platforms.assumed("tpu"):
            estimate = footprint.device_bytes(describe(one["model"]), one["tokens"], ask, 2, over=over)
        assert 0.97 < estimate / needed < (1.02 if one["tokens"] < 100 else 1.3), (one["model"], one["mesh"])


def test_a_tpu_has_the_attention_of_some_queries_at_a_time() -> None:
    """As masks are applied there: of long inputs it takes a fraction of what other devices do."""
    on_cpu = footprint.evaluate_bytes(SHAPE, 1024, 26, 2)
    with platforms.assumed("tpu"):
        on_tpu = footprint.evaluate_bytes(SHAPE, 1024, 26, 2)
        short = footprint.evaluate_bytes(SHAPE, masked.N_QUERIES, 26, 2)
    blocks = 3 * 4 * 27 * SHAPE.n_heads * 1024 * (1024 - masked.N_QUERIES)
    assert on_cpu - on_tpu >= 0.9 * blocks
    assert short <= footprint.evaluate_bytes(SHAPE, masked.N_QUERIES, 26, 2)


def test_replacements_are_counted(tiny: Model) -> None:
    """As large as the arrays are: those kept, their copy for a call, and the one that is computed with."""
    replacing, width = Replacing(tiny, [np.arange(1, 40)] * 2), 16

    def counted(*names: str, own: Sequence[Replacement] = ()) -> int:
        return footprint.replacement_bytes(TINY, width, names, tiny.dtype.itemsize, own)

    bytes_of = {name: sum(x.nbytes for x in jax.tree.leaves(replacing.stack(name, width))) for name in REPLACEMENTS}
    assert counted("zero") == bytes_of["zero"] == 0
    assert counted("mean", "mean") == 3 * bytes_of["mean"]
    assert counted("zero", "mean", "resample") == 3 * bytes_of["mean"] + 2.5 * bytes_of["resample"]
    own = replacing.first("resample", width)
    assert own is not None
    assert counted("own", own=[own, own]) == 2.5 * bytes_of["resample"]
    drawn, mean = (footprint.gradient_bytes(TINY, width, 4, "fitted", name) for name in ("resample", "mean"))
    assert drawn - mean == bytes_of["resample"], "the states of two texts"
    walks = jstrace.Rounds(walks=4)
    assert footprint.gradient_bytes(TINY, width, 4, jstrace.RelP(walks)) == footprint.gradient_bytes(
        TINY, width, 4, walks
    )


@pytest.mark.usefixtures("four_a_call")
def test_replacements_leave_room_for_fewer_inputs(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(sizes=SIZES)
    cases = {name: plan.case(replace=name) for name in REPLACEMENTS}
    asks = {name: Ask((case.source,), (case,), SIZES) for name, case in cases.items()}
    tasks = {name: Resolved.of(tiny, asks[name], Replacing(tiny), timed=False) for name in ("zero", "resample")}
    each = footprint.call_bytes(TINY, 16, asks["zero"], 4)
    held = footprint.replacement_bytes(TINY, 16, ["resample"], 4)
    assert held < each
    for room, resampled in ((4 * each, 2), (4 * each + held, 4)):
        monkeypatch.setattr(memory, "_plannable", lambda _, room=room: room)
        assert {name: task.most_inputs(16) for name, task in tasks.items()} == {"zero": 4, "resample": resampled}
    monkeypatch.setattr(memory, "_plannable", lambda _: 8 * each)
    assert [task.two_fit(16) for task in tasks.values()] == [True, False]


def test_a_text_needs_the_larger_stage() -> None:
    for n_tokens, width in ((60, 64), (1000, 1024)):
        traced, lean = (footprint.trace_bytes(SHAPE, width, 26, 4, whole=whole) for whole in (True, False))
        evaluated = footprint.evaluate_bytes(SHAPE, width, 26, 4)
        assert footprint.text_bytes(SHAPE, n_tokens, 26, 4) == max(lean, evaluated)
        assert footprint.text_bytes(SHAPE, n_tokens, 26, 4, whole=True) == max(traced, evaluated)


def test_extraction_needs_few_bytes_a_slot() -> None:
    """A copy of the scores in the order of layers and the strata; keys are made again layer by layer."""
    config = dataclasses.replace(SHAPE, n_layers=48)
    scores = edges_like(config, 1, 192, jnp.float32)
    compiled = stages.extract_program.lower(
        scores, blank((1, len(SIZES))), blank((1,)), parallel=False, frozen=()
    ).compile()
    found = compiled.memory_analysis()
    assert found is not None
    assert found.temp_size_in_bytes < 7 * full_graph.edge_slot_count(config, 192)  # keys of all edges would be 4 more
