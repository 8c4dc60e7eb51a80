"""Batches: how many inputs go into one call, and what happens when memory runs out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import pytest

from jstrace.method.plans import Plan
from jstrace.models import PRESETS, InputError, make_mesh, param_shardings, shapes, weight_bytes
from jstrace.pipeline import footprint
from jstrace.pipeline.records import Ask
from jstrace.scale import batching

pytestmark = pytest.mark.quick


def in_batches(
    lengths: Mapping[int, int],
    most: Callable[[int], int],
    run: Callable[[list[int], int], list[int]],
    *,
    n_devices: int = 1,
) -> Iterator[tuple[list[int], list[int]]]:
    """Inputs in calls whose results are there when they start."""

    def start(members: list[int], n_rows: int) -> Callable[[], list[int]]:
        results = run(members, n_rows)
        return lambda: results

    return batching.Calls(most, start, n_devices=n_devices).of([lengths])


def four(width: int) -> int:
    return 4 if width < 256 else 1


def test_batches_hold_one_bucket_and_every_input_once() -> None:
    lengths = dict(enumerate([3] * 9 + [20, 600, 600]))
    calls: list[tuple[int, int]] = []

    def run(members: list[int], n_rows: int) -> list[int]:
        calls.append((len(members), n_rows))
        assert len({batching.bucket(lengths[i]) for i in members}) == 1
        return [10 * i for i in members]

    found = {i: r for members, results in in_batches(lengths, four, run) for i, r in zip(members, results, strict=True)}
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
        i for members, _ in in_batches(dict.fromkeys(range(11), 5), lambda _: 2, run, n_devices=4) for i in members
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
        list(in_batches(dict.fromkeys(range(16), 5), lambda _: 4, run, n_devices=4))
    assert rows[:4] == [16, 8, 4, 1]
    assert len(rows) == 3 + 16


def test_several_hosts_do_not_try_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(MemoryError):
        list(in_batches({0: 3, 1: 3}, four, _running_out(0, MemoryError())))


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
        found = list(in_batches(dict.fromkeys(range(5), 3), four, _running_out(2, error)))
    assert [members for members, _ in found] == [[0, 1], [2, 3], [4]]
    with pytest.warns(RuntimeWarning), pytest.raises(type(error)):
        list(in_batches(dict.fromkeys(range(5), 3), four, _running_out(0, error)))


def test_other_errors_are_not_retried() -> None:
    run = _running_out(0, jax.errors.JaxRuntimeError("INTERNAL: no"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(in_batches({0: 3, 1: 3}, four, run))


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
