"""Batches: how many inputs go into one call, what happens when memory runs out, and what the estimates are worth."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from experiments.benchmarks import fits
from jstrace.loading import describe
from jstrace.method import graph
from jstrace.method.conditions import Condition, Plan
from jstrace.models import (
    PRESETS,
    Decoder,
    EdgeTree,
    InputError,
    Model,
    ModelConfig,
    make_mesh,
    param_shardings,
    platforms,
    shapes,
    weight_bytes,
)
from jstrace.pipeline import footprint, masked, stages
from jstrace.pipeline.ask import Ask
from jstrace.scale import batching, memory
from tests.conftest import TINY

SHAPE = dataclasses.replace(
    TINY, n_layers=6, n_heads=8, n_kv_heads=4, head_dim=16, d_model=128, d_mlp=384, vocab_size=2048
)
SIZES = tuple(np.linspace(0.1, 0.9, 9).tolist())


L1 = (("l1", "zero"),)


def four(width: int) -> int:
    return 4 if width < 256 else 1


def test_batches_hold_one_bucket_and_every_input_once() -> None:
    lengths = dict(enumerate([3] * 9 + [20, 600, 600]))
    calls: list[tuple[int, int]] = []

    def run(members: list[int], n_rows: int) -> list[int]:
        calls.append((len(members), n_rows))
        assert len({batching.bucket(lengths[i]) for i in members}) == 1
        return [10 * i for i in members]

    found = {
        i: r
        for members, results in batching.in_batches(lengths, four, run)
        for i, r in zip(members, results, strict=True)
    }
    assert found == {i: 10 * i for i in range(12)}
    assert calls == [(4, 4), (4, 4), (1, 1), (1, 1), (1, 1), (1, 1)]


def test_devices_share_the_inputs_of_a_call() -> None:
    """As many rows for each device, or a divisor of the devices; never more padding than that takes."""
    assert [batching.call_rows(n, 1) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 8]
    assert [batching.call_rows(n, 4) for n in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]
    assert [batching.call_rows(n, 6) for n in (2, 4, 5, 7)] == [2, 6, 6, 12]
    calls: list[tuple[int, int]] = []

    def run(members: list[int], n_rows: int) -> list[int]:
        calls.append((len(members), n_rows))
        return members

    found = [
        i
        for members, _ in batching.in_batches(dict.fromkeys(range(11), 5), lambda _: 2, run, n_devices=4)
        for i in members
    ]
    assert found == list(range(11))
    assert calls == [(8, 8), (3, 4)]


def test_out_of_memory_halves_what_each_device_has() -> None:
    rows: list[int] = []

    def run(members: list[int], n_rows: int) -> list[int]:
        rows.append(n_rows)
        if n_rows > 1:
            raise MemoryError
        return members

    with pytest.warns(RuntimeWarning):
        list(batching.in_batches(dict.fromkeys(range(16), 5), lambda _: 4, run, n_devices=4))
    assert rows[:4] == [16, 8, 4, 1]
    assert len(rows) == 3 + 16


def test_several_hosts_do_not_try_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(MemoryError):
        list(batching.in_batches({0: 3, 1: 3}, four, _running_out(0, MemoryError())))


def _running_out(above: int, error: Exception) -> Callable[[list[int], int], list[int]]:
    def run(members: list[int], n_rows: int) -> list[int]:
        if n_rows > above:
            raise error
        return members

    return run


NO_MEMORY = (
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB"),
    jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 5662867360 bytes."),
    jax.errors.JaxRuntimeError("INTERNAL: std::bad_alloc"),
    MemoryError(),
)
"""What JAX raises, on devices and on a CPU."""


@pytest.mark.parametrize("error", NO_MEMORY)
def test_out_of_memory_halves_the_batch_with_a_message(error: Exception) -> None:
    with pytest.warns(RuntimeWarning, match=r"with 4 inputs of 8 tokens in one call; going on with 2"):
        found = list(batching.in_batches(dict.fromkeys(range(5), 3), four, _running_out(2, error)))
    assert [members for members, _ in found] == [[0, 1], [2, 3], [4]]
    with pytest.warns(RuntimeWarning), pytest.raises(type(error)):
        list(batching.in_batches(dict.fromkeys(range(5), 3), four, _running_out(0, error)))


def test_other_errors_are_not_retried() -> None:
    run = _running_out(0, jax.errors.JaxRuntimeError("INTERNAL: no"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(batching.in_batches({0: 3, 1: 3}, four, run))


def test_what_does_not_fit_is_told_with_the_mesh_that_does() -> None:
    """The published shapes on chips of 16 GB; the estimate of one device is all weights and one input."""
    config, plan = PRESETS["Qwen/Qwen3-14B-Base"], Plan()
    ask = Ask(plan.sources, plan.cases, plan.sizes)
    room = int(15.75 * 2**30)
    assert footprint.model_sizes(config, 8) == [1, 2, 4, 8]
    assert footprint.model_sizes(PRESETS["Qwen/Qwen2.5-7B"], 8) == [1, 2, 4]
    with pytest.raises(InputError, match=r"take some 29.7 GB of each device, which has 16.9; --mesh data=4,model=2"):
        footprint.check_fits(config, 40, ask, 2, room, n_devices=8, over=1)
    with pytest.raises(InputError, match=r"; take more devices, or --dtype bfloat16"):
        footprint.check_fits(config, 40, ask, 4, room, n_devices=2, over=2)
    footprint.check_fits(config, 40, ask, 2, room, n_devices=8, over=2)


def test_weights_of_a_device_are_those_of_the_shardings() -> None:
    """Heads and widths divided, few key/value heads not."""
    for name in ("Qwen/Qwen2.5-7B", "microsoft/phi-4"):
        config = dataclasses.replace(PRESETS[name], n_layers=1)
        placed = jax.tree.leaves(param_shardings(config, make_mesh(data=2, model=4)))
        wanted = jax.tree.leaves(shapes(config, jnp.dtype("bfloat16")))
        own = [2 * math.prod(one.shard_shape(each.shape)) for one, each in zip(placed, wanted, strict=True)]
        assert weight_bytes(config, 2, 4) == sum(own)


class Flights:
    """Calls that note when they start and end, and fail where they are told to."""

    def __init__(
        self, *, in_start: Sequence[int] = (), in_end: Sequence[int] = (), error: Exception | None = None
    ) -> None:
        """Numbers of the starts, and of the waits, that run out of memory, or raise another error; from 1."""
        self._error = error or MemoryError()
        self.told: list[tuple[str, list[int]]] = []
        self.most, self._flying = 0, 0
        self._fails = {"start": list(in_start), "end": list(in_end)}
        self._counts = {"start": 0, "end": 0}

    def _note(self, what: str, members: list[int]) -> None:
        self.told.append((what, members))
        self._counts[what] += 1
        if self._counts[what] in self._fails[what]:
            raise self._error

    def start(self, members: list[int], _: int) -> Callable[[], list[int]]:
        self._note("start", members)
        self._flying += 1
        self.most = max(self.most, self._flying)

        def finish() -> list[int]:
            self._flying -= 1
            self._note("end", members)
            return [10 * index for index in members]

        return finish

    def run(self, *parts: Mapping[int, int], **options: Any) -> list[tuple[list[int], list[int]]]:
        return list(batching.Calls(lambda _: 2, self.start, ahead=lambda: True, **options).of(parts))


def results(*members: list[int]) -> list[tuple[list[int], list[int]]]:
    return [(each, [10 * index for index in each]) for each in members]


def test_a_call_starts_before_the_last_one_has_ended() -> None:
    """Across parts, too; two at most are in flight, and a new length waits for its size."""
    flights = Flights()
    assert flights.run({0: 3, 1: 3, 2: 3}, {3: 3, 4: 20}) == results([0, 1], [2], [3], [4])
    first, second, third, last = [0, 1], [2], [3], [4]
    steps = [("start", first), ("start", second), ("end", first), ("start", third), ("end", second), ("end", third)]
    assert flights.told == [*steps, ("start", last), ("end", last)]
    assert flights.most == 2


@pytest.mark.parametrize("fails", [{"in_start": [2]}, {"in_end": [1]}, {"in_end": [2]}])
def test_memory_that_does_not_hold_two_calls(fails: dict[str, list[int]]) -> None:
    """It is one at a time from there on: nothing is lost, twice or smaller."""
    flights = Flights(**fails)
    with pytest.warns(RuntimeWarning, match="2 inputs of 8 tokens in one call and another in flight"):
        assert flights.run(dict.fromkeys(range(8), 3)) == results([0, 1], [2, 3], [4, 5], [6, 7])
    assert flights.told[-4:] == [("start", [4, 5]), ("end", [4, 5]), ("start", [6, 7]), ("end", [6, 7])]


def test_what_fails_alone_is_halved_while_the_rest_goes_on() -> None:
    """The second call fails beside another, and again alone."""
    flights = Flights(in_start=[2, 3])
    with pytest.warns(RuntimeWarning, match=r"another in flight|going on with 1"):
        assert flights.run(dict.fromkeys(range(6), 3)) == results([0, 1], [2], [3], [4], [5])


def test_a_single_input_is_judged_alone() -> None:
    """One that does not fit beside another may fit by itself; else it is the caller's."""
    for in_start, expected in (([2], results([0], [1], [2])), ([2, 3], [([0], [0]), ([1], [-1]), ([2], [20])])):
        flights, judged = Flights(in_start=in_start), []

        def unfit(members: list[int], _: Exception, judged: list[list[int]] = judged) -> list[int]:
            judged.append(members)
            return [-1]

        calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
        with pytest.warns(RuntimeWarning, match="another in flight"):
            found = list(calls.of([dict.fromkeys(range(3), 3)]))
        assert found == expected
        assert judged == [[1]] * (len(in_start) - 1), "in company nothing is judged"


def test_a_length_that_did_fit_is_tried_again_alone() -> None:
    """Where memory ran out in company alone; the caller raises for a length that is known to fit."""
    flights = Flights(in_start=[2])

    def unfit(_: list[int], error: Exception) -> list[int]:
        raise error

    calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
    with pytest.warns(RuntimeWarning, match="another in flight"):
        assert list(calls.of([dict.fromkeys(range(3), 3)])) == results([0], [1], [2])


def test_what_failed_in_company_is_judged_alone() -> None:
    """Both of two calls in flight fail, and both fit by themselves."""
    flights, unfit = Flights(in_start=[2], in_end=[1]), lambda members, _: [-1 for _ in members]
    calls = batching.Calls(lambda _: 1, flights.start, unfit=unfit, ahead=lambda: True)
    with pytest.warns(RuntimeWarning, match="another in flight"):
        assert list(calls.of([dict.fromkeys(range(3), 3)])) == results([0], [1], [2])


def test_a_size_that_was_too_large_is_not_tried_again() -> None:
    flights = Flights(in_start=[1])
    with pytest.warns(RuntimeWarning, match="going on with 1") as warned:
        assert flights.run({0: 3, 1: 3}, {2: 3, 3: 3}) == results([0], [1], [2], [3])
    assert len(warned) == 1


def test_two_calls_only_where_memory_is_known_to_hold_them() -> None:
    """Of both lengths that would be in flight; and none stays there while the caller computes, unless ``ahead``."""
    flights = Flights()
    flights.run({0: 3, 1: 3, 2: 20, 3: 20, 4: 20, 5: 3}, {6: 3, 7: 20}, two=lambda width: width < 16)
    at = [step for step, _ in flights.told]
    for before, after in itertools.pairwise(flights.told):
        if before[0] == after[0] == "start":
            assert max(*before[1], *after[1]) in (5, 6), "two short ones"
    assert at.count("start") == at.count("end")
    alone = Flights()
    for _ in batching.Calls(lambda _: 2, alone.start).of([dict.fromkeys(range(4), 3)]):
        assert alone.told[-1][0] == "end"


def test_a_stop_loses_nothing_that_is_computed() -> None:
    """What is in flight is waited for before the next call's error goes on."""
    flights, found = Flights(), []

    def start(members: list[int], n_rows: int) -> Callable[[], list[int]]:
        if members == [4, 5]:
            raise KeyboardInterrupt
        return flights.start(members, n_rows)

    results = batching.Calls(lambda _: 2, start, ahead=lambda: True).of([dict.fromkeys(range(8), 3)])
    with pytest.raises(KeyboardInterrupt):
        found.extend(members for members, _ in results)
    assert found == [[0, 1], [2, 3]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_stop_while_the_next_is_read_loses_nothing(error: type[BaseException]) -> None:
    """Reading may take long, and happens while a call is in flight."""
    flights, found = Flights(), []

    def several() -> Iterator[dict[int, int]]:
        yield dict.fromkeys(range(4), 3)
        assert flights.told == [("start", [0, 1]), ("start", [2, 3]), ("end", [0, 1])]
        raise error

    results = batching.Calls(lambda _: 2, flights.start, ahead=lambda: True).of(several())
    with pytest.raises(error):
        found.extend(members for members, _ in results)
    assert found == [[0, 1], [2, 3]]


def stopped(flights: Flights, error: BaseException, *, reading: bool) -> list[list[int]]:
    """What is given before a stop in the third call, or where the second part is read."""
    given: list[list[int]] = []

    def several() -> Iterator[dict[int, int]]:
        yield dict.fromkeys(range(4), 3)
        if reading:
            raise error
        yield dict.fromkeys(range(4, 8), 3)

    def start(members: list[int], n_rows: int) -> Callable[[], list[int]]:
        if members == [4, 5]:
            raise error
        return flights.start(members, n_rows)

    calls = batching.Calls(lambda _: 2, start, ahead=lambda: True)
    with pytest.raises(type(error)) as raised:
        given.extend(members for members, _ in calls.of(several()))
    assert raised.value is error
    return given


@pytest.mark.parametrize("reading", [False, True])
@pytest.mark.parametrize("failure", [MemoryError(), jax.errors.JaxRuntimeError("INTERNAL: no"), InputError("no")])
def test_a_stop_starts_nothing(reading: bool, failure: Exception) -> None:
    """What fails while it is waited for is left, whatever its error is; the stop goes on."""
    flights = Flights(in_end=[2], error=failure)
    assert stopped(flights, KeyboardInterrupt(), reading=reading) == [[0, 1]]
    first, second = [0, 1], [2, 3]
    assert flights.told == [("start", first), ("start", second), ("end", first), ("end", second)]


@pytest.mark.parametrize("reading", [False, True])
def test_a_stop_of_several_hosts_waits_for_nothing(reading: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have been stopped elsewhere, and fetch nothing."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    flights = Flights()
    assert stopped(flights, KeyboardInterrupt(), reading=reading) == [[0, 1]]
    assert flights.told == [("start", [0, 1]), ("start", [2, 3]), ("end", [0, 1])]


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


def test_the_batch_follows_free_memory(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = sum(leaf.nbytes for leaf in tiny.decoder.layers.weights().values()) // TINY.n_layers

    def fitting(free: int | None, each: int = 1000, width: int = 16) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda device: None if free is None else free + 5 * layer // 4 + 2)
        return memory.batch_inputs(tiny.decoder, width, each)

    assert [fitting(free) for free in (None, 10**9, 4900, 2500, 1250, 0)] == [4, 4, 2, 2, 1, 1]
    assert [fitting(None, width=width) for width in (8, 32, 48, 64, 4096)] == [4, 2, 1, 1, 1]


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
    assert taken("cpu", 8, n_masks=2) == taken("cpu", 8) == 4


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


def edges_like(config: ModelConfig, width: int, dtype: object) -> EdgeTree:
    rows = blank((1, config.n_layers, width), dtype)
    return EdgeTree(rows, blank((1, config.n_layers, config.n_heads, width, width), dtype), rows, rows)


def temporary(compiled: jax.stages.Compiled) -> int:
    found = compiled.memory_analysis()
    assert found is not None
    return found.temp_size_in_bytes + found.output_size_in_bytes


@pytest.mark.parametrize("width", [32, 256])
def test_estimates_are_those_of_the_compiler(width: int) -> None:
    """Within a factor of two and a half of what the compiled programs take, beside weights; not below it by much."""
    dtype = jnp.dtype("float32")
    decoder = jax.eval_shape(
        lambda: Decoder(SHAPE, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes(SHAPE, dtype)))
    )
    tokens, one = blank((1, width)), blank((1,))
    scored = stages.score_batch.lower(
        decoder, tokens, one, blank(()), scorings=(("l1", "zero"),), replacements={}
    ).compile()
    scores, strata = edges_like(SHAPE, width, jnp.float32), edges_like(SHAPE, width, jnp.uint8)
    extracted = stages.extract_program.lower(scores, blank((1, len(SIZES))), one, parallel=False, frozen=()).compile()
    held = 4 * graph.edge_slot_count(SHAPE, width)  # extraction reads the scores
    needed = max(temporary(scored), temporary(extracted) + held)
    assert 0.8 < footprint.trace_bytes(SHAPE, width, len(SIZES), 4) / needed < 2.5
    evaluated = masked.evaluate_batch.lower(
        decoder, tokens, one, (strata,), one, n_sizes=len(SIZES), cases=((0, Condition()),)
    ).compile()
    needed = temporary(evaluated) + graph.edge_slot_count(SHAPE, width)
    assert 0.8 < footprint.evaluate_bytes(SHAPE, width, len(SIZES), 4) / needed < 2.5


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


def test_a_text_needs_the_larger_stage() -> None:
    for n_tokens, width in ((60, 64), (1000, 1024)):
        traced, lean = (footprint.trace_bytes(SHAPE, width, 26, 4, whole=whole) for whole in (True, False))
        evaluated = footprint.evaluate_bytes(SHAPE, width, 26, 4)
        assert footprint.text_bytes(SHAPE, n_tokens, 26, 4) == max(lean, evaluated)
        assert footprint.text_bytes(SHAPE, n_tokens, 26, 4, whole=True) == max(traced, evaluated)


def test_extraction_needs_few_bytes_a_slot() -> None:
    """A copy of the scores in the order of layers and the strata; keys are made again layer by layer."""
    config = dataclasses.replace(SHAPE, n_layers=48)
    scores = edges_like(config, 192, jnp.float32)
    compiled = stages.extract_program.lower(
        scores, blank((1, len(SIZES))), blank((1,)), parallel=False, frozen=()
    ).compile()
    found = compiled.memory_analysis()
    assert found is not None
    assert found.temp_size_in_bytes < 7 * graph.edge_slot_count(config, 192)  # keys of all edges would be 4 more
