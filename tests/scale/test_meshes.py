"""Several devices give what one gives: inputs and sizes over ``data``, weights over ``model``; one host and two."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import jstrace
from jstrace.method.conditions import ABLATIONS, Condition
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import counts
from jstrace.method.plans import BASELINES, Plan
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.gradients import ShareTimesGradient
from jstrace.method.search import extraction
from jstrace.models import Decoder, InputError, Model, make_mesh, param_shardings
from jstrace.pipeline import Driver, Input, Outcome, masked, stages
from jstrace.pipeline.records import Ask
from jstrace.scale import batching, hosts, meshes
from tests.conftest import TINY, family_config, tiny_params

SIZES = tuple(np.linspace(0.05, 0.95, 10).tolist())
CONFIG = dataclasses.replace(TINY, vocab_size=98)


L1 = (("l1", "zero"),)


def model_on(mesh: Mesh | None, family: str = "llama") -> Model:
    config = dataclasses.replace(family_config(family), vocab_size=98)
    params = tiny_params(config)
    return Model(Decoder(config, params if mesh is None else jax.device_put(params, param_shardings(config, mesh))))


def inputs(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, CONFIG.vocab_size, 5 + n % 4) for n in range(count)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_eight_devices_equal_one(family: str) -> None:
    """Four inputs, on the mesh one for each device along ``data``."""
    one, many = model_on(None, family), model_on(make_mesh(data=4, model=2), family)
    assert many.fingerprint() == one.fingerprint()
    expected, got = (jstrace.trace(model, inputs(4), sizes=SIZES) for model in (one, many))
    for a, b in zip(expected, got, strict=True):
        chex.assert_trees_all_equal(a.strata, b.strata, strict=True)
    for left, right in zip(jstrace.evaluate(one, expected), jstrace.evaluate(many, got), strict=True):
        np.testing.assert_allclose(right.tv, left.tv, atol=1e-5)
        np.testing.assert_array_equal(right.top_token, left.top_token)


@pytest.mark.parametrize(
    ("family", "data", "model", "options"),
    [
        ("llama", 8, 1, {}),
        ("llama", 3, 2, {"inverse": True}),
        ("qwen2", 1, 2, {"pre_softmax": True}),
        ("gpt_neox", 4, 2, {"inverse": True}),
    ],
)
def test_sizes_over_devices(family: str, data: int, model: int, options: dict[str, Any]) -> None:
    """One input: eleven or twelve rows do not divide over eight or three devices."""
    one, many = model_on(None, family), model_on(make_mesh(data=data, model=model), family)
    trace = jstrace.trace(one, inputs(1)[0], sizes=SIZES)
    expected = jstrace.evaluate(one, trace, next_token=5, **options)
    got = jstrace.evaluate(many, trace, next_token=5, **options)
    for field in ("tv", "kl", "entropy", "surprisal"):
        np.testing.assert_allclose(getattr(got, field), getattr(expected, field), atol=2e-5, err_msg=field)
    for field in ("nucleus", "top_token", "rank", "full_tokens"):
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field), err_msg=field)


def through(model: Model, plan: Plan, rows: dict[int, np.ndarray]) -> dict[int, Any]:
    """What the driver makes of inputs."""
    given = {index: Input(row, next_token=5) for index, row in rows.items()}
    driver = Driver(model, Ask(plan.sources, plan.cases, plan.sizes))
    return {index: found for batch in driver.batches(given) for index, found in batch.items()}


@pytest.mark.parametrize(("data", "model", "count"), [(4, 2, 3), (2, 1, 2)])
def test_a_run_on_a_mesh(data: int, model: int, count: int) -> None:
    """All cases of a batch in one call, with sizes shared out where inputs do not fill the devices."""
    plan = Plan(("l1", "l2"), ABLATIONS, BASELINES, sizes=SIZES)
    rows = dict(enumerate(inputs(count)))
    expected, got = (through(model_on(mesh), plan, rows) for mesh in (None, make_mesh(data=data, model=model)))
    for index in rows:
        one, many = expected[index], got[index]
        assert isinstance(one, Outcome)
        assert isinstance(many, Outcome)
        for left, right in zip(one.evaluations, many.evaluations, strict=True):
            assert left.density == pytest.approx(right.density, abs=1e-4)
            np.testing.assert_allclose(right.tv, left.tv, atol=2e-5)
            np.testing.assert_array_equal(right.rank, left.rank)


def batch_on(mesh: Mesh | None, n_rows: int, width: int = 8) -> tuple[Any, Any]:
    """A padded batch on its devices: tokens and lengths, and the edges of each trace."""
    texts = inputs(n_rows)
    cuts = batching.filled([counts(SIZES, full_graph.n_edges(CONFIG, len(text))) for text in texts], n_rows)
    return meshes.placed((batching.padded(texts, width, n_rows), cuts), mesh)


def shard_shape(array: jax.Array) -> tuple[int, ...]:
    shapes = {shard.data.shape for shard in array.addressable_shards}
    assert len(shapes) == 1
    return shapes.pop()


def predicted(mesh: Mesh, *batch: Any) -> jax.Array:
    """Logits as the evaluation makes them, before it measures them."""
    each, both = PartitionSpec(meshes.INPUTS), PartitionSpec(meshes.INPUTS, meshes.SIZES)
    specs = (PartitionSpec(), each, each, each, PartitionSpec(meshes.SIZES))
    return jax.jit(meshes.manual(masked.predicted, meshes.divided(mesh, batch[1].shape[0]), specs, both))(*batch)


def test_shapes_of_shards() -> None:
    """Parameters over ``model``, scores, strata and logits over ``data``; logits' vocabulary over ``model`` too."""
    mesh = make_mesh(data=4, model=2)
    decoder = model_on(mesh).decoder
    weights = decoder.layers.weights()
    layers, width = CONFIG.n_layers, CONFIG.d_model
    assert shard_shape(weights["q"]) == (layers, width, CONFIG.n_heads // 2, CONFIG.head_dim)
    assert shard_shape(weights["k"]) == (layers, width, CONFIG.n_kv_heads // 2, CONFIG.head_dim)
    assert shard_shape(weights["down"]) == (layers, CONFIG.d_mlp // 2, width)
    assert shard_shape(decoder.embed[...]) == (CONFIG.vocab_size // 2, width)
    (tokens, lengths), cuts = batch_on(mesh, 8)
    assert shard_shape(tokens) == (2, 8)
    (score,), _ = stages.score_batch(decoder, tokens, lengths, 0, scorings=L1, replacements={}, mesh=mesh)
    strata = stages.extract_batch(score, cuts, lengths, parallel=False, frozen=(), mesh=mesh)
    for leaf in (score.mlp, strata.mlp, strata.residual_attn):
        assert shard_shape(leaf) == (2, layers, 8)
    assert shard_shape(strata.attn)[0] == 2
    ranges = Condition().ranges(3)
    logits = predicted(mesh, decoder, tokens, lengths, strata, ranges)
    assert shard_shape(logits)[:2] == (2, 4)
    assert shard_shape(logits)[2] in (49, 98)
    (tokens, lengths), cuts = batch_on(mesh, 1)  # one input: every device has all of it and a quarter of the sizes
    strata = jax.tree.map(lambda leaf: np.asarray(leaf)[:1], strata)
    logits = predicted(mesh, decoder, tokens, lengths, strata, ranges)
    assert shard_shape(logits)[:2] == (1, 1)


@pytest.mark.parametrize(("data", "model"), [(2, 2)])
def test_large_groups_on_a_mesh(data: int, model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random scores with a pool for three edges: the program on arrays of all edges, frozen components first."""
    monkeypatch.setattr(extraction, "pool_capacity", lambda n_slots: 3)
    options = {"sizes": SIZES, "score": "random", "seed": 7, "frozen": ("residual", "mlp")}
    one, many = (
        jstrace.trace(model_on(mesh), inputs(3), **options)  # type: ignore[call-overload]
        for mesh in (None, make_mesh(data=data, model=model))
    )
    for a, b in zip(one, many, strict=True):
        chex.assert_trees_all_equal(a.strata, b.strata, strict=True)


@pytest.mark.parametrize(
    ("family", "data", "model", "count"),
    [("llama", 4, 2, 4), ("gpt_neox", 4, 2, 1), ("llama", 8, 1, 1)],
)
def test_gradients_and_replacements_on_a_mesh(family: str, data: int, model: int, count: int) -> None:
    """Inputs over devices, or the sizes of one, with weights whole and divided: as on one device."""
    one, many = model_on(None, family), model_on(make_mesh(data=data, model=model), family)
    reference = [np.arange(12), np.arange(30, 50), np.arange(60, 75)]
    rows, score = inputs(count), jstrace.Rounds(cuts=2, name="two")
    expected, got = (
        jstrace.trace(each, rows, sizes=SIZES, score=score, replace="mean", reference=reference) for each in (one, many)
    )
    for a, b in zip(expected, got, strict=True):
        for (_, left), (_, right) in zip(a.scores.items(), b.scores.items(), strict=True):
            # Rounds add up logarithms of gradients, and a cut may fall on the other side of an edge.
            assert np.isclose(right, left, rtol=1e-2, atol=1e-2).mean() > 0.98
    for name in ("mean", "resample"):
        options = {"replace": name, "reference": reference}
        lefts, rights = jstrace.evaluate(one, expected, **options), jstrace.evaluate(many, expected, **options)
        for left, right in zip(lefts, rights, strict=True):
            np.testing.assert_allclose(right.tv, left.tv, atol=1e-4)


def test_hosts_that_a_mesh_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="leaves out all devices of process 1"):
        make_mesh(data=2)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a slice."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "tpu"


def test_groups_lie_within_slices() -> None:
    """Whatever the order of devices; ``data`` goes over slices, equally."""
    chips: Any = [Chip(n, n % 2) for n in range(8)]
    found = make_mesh(data=4, model=2, devices=chips).devices
    assert [{chip.slice_index for chip in group} for group in found] == [{0}, {0}, {1}, {1}]
    assert [chip.slice_index for chip in make_mesh(data=2, devices=chips).devices.ravel()] == [0, 1]
    cards = [dataclasses.replace(chip, platform="gpu") for chip in chips]  # whose slices are hosts
    assert make_mesh(data=1, model=8, devices=cards).devices.shape == (1, 8)
    for data, model in ((1, 2), (1, 8), (3, 2)):
        with pytest.raises(InputError, match="does not divide over 2 slices of 4 devices"):
            make_mesh(data=data, model=model, devices=chips)


def test_meshes_made_by_hand() -> None:
    found = np.asarray(jax.devices()[:4])
    for mesh, message in (
        (Mesh(found.reshape(2, 2), ("model", "data")), "in that order"),
        (Mesh(found.reshape(2, 2), ("data", "size")), "in that order"),
        (Mesh(np.asarray([]).reshape(0, 1), ("data", "model")), "a mesh of 0 devices"),
    ):
        with pytest.raises(InputError, match=message):
            param_shardings(CONFIG, mesh)
    with pytest.raises(InputError, match="2 devices, 1 of them different"):
        make_mesh(data=2, devices=[found[0], found[0]])


# --- what crosses the axes -------------------------------------------------------------------------------------------

_NAMES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
_COLLECTIVE = re.compile(rf"= (.+?) ({_NAMES})[\w-]*\((.*)")


_PAIRS = r"\[4,2\]<=\[8\]|\{\{0,1\},\{2,3\},\{4,5\},\{6,7\}\}|mesh\['axis_0'=4,[^\]]*'(axis_\d)'=2[^\]]*\] \{'\2'\}"
"""The three ways in which XLA writes the groups of two of a 4 x 2 mesh."""


def collectives(compiled: jax.stages.Compiled) -> list[tuple[str, str, str]]:
    """Shape, operation and the rest of the line of every collective in the compiled program."""
    lines = [line for line in (compiled.as_text() or "").splitlines() if re.search(rf" ({_NAMES})(-start)?\(", line)]
    found = [_COLLECTIVE.search(line) for line in lines]
    assert all(found)
    return [(match[1], match[2], match[3]) for match in found if match]


def is_one_bit(found: tuple[str, str, str]) -> bool:
    """Whether extraction's pool sufficed for every input."""
    return found[:2] == ("pred[]", "all-reduce")


def is_within_pairs(rest: str) -> bool:
    """Whether a collective, of which this is the rest of the line, is within the groups of two of a 4 x 2 mesh."""
    groups = re.search(rf"replica_groups=({_PAIRS})", rest)
    pairs = re.search(r"source_target_pairs=\{([\d,{}]+)\}", rest)
    within = pairs and all(int(a) // 2 == int(b) // 2 for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[0]))
    return bool(groups or within)


def programs(mesh: Mesh, n_rows: int) -> dict[str, jax.stages.Compiled]:
    decoder = model_on(mesh).decoder
    (tokens, lengths), cuts = batch_on(mesh, n_rows)
    how = {"scorings": (("l1", "zero"),), "mesh": mesh}
    scored = stages.score_batch.lower(decoder, tokens, lengths, 0, replacements={}, **how).compile()
    (score,), _ = scored(decoder, tokens, lengths, 0, replacements={})
    extracted = stages.extract_program.lower(score, cuts, lengths, parallel=False, frozen=(), mesh=mesh).compile()
    strata, _ = extracted(score, cuts, lengths)
    nexts = meshes.placed(np.zeros(n_rows, np.int32), mesh)
    options = {"n_sizes": len(SIZES), "cases": ((0, Condition()),), "mesh": mesh}
    evaluated = masked.lowered(decoder, tokens, lengths, (strata,), nexts, **options).compile()
    return {"score": scored, "extract": extracted, "evaluate": evaluated}


def test_nothing_crosses_the_data_axis() -> None:
    """Weak scaling: with an input for each device no collective at all, but for one bit, and equal memory on each."""
    memory: dict[str, set[int]] = {}
    for data in (1, 2, 8):
        mesh = make_mesh(data=data)
        for name, compiled in programs(mesh, data).items():
            crossing = [found for found in collectives(compiled) if not is_one_bit(found)]
            assert not crossing, (name, data, crossing)
            found = compiled.memory_analysis()
            assert found is not None
            memory.setdefault(name, set()).add(found.temp_size_in_bytes)
    for name, sizes in memory.items():
        assert max(sizes) <= 1.1 * min(sizes) + 4096, (name, sizes)


def test_collectives_stay_within_model_groups() -> None:
    """On a mesh of 4 x 2 devices are numbered in pairs that share inputs: every collective is within those."""
    for name, compiled in programs(make_mesh(data=4, model=2), 8).items():
        found = [one for one in collectives(compiled) if not is_one_bit(one)]
        assert found or name == "extract", "weights are divided, so sums must cross the model axis"
        assert name != "extract" or len(found) <= 1, "extraction gathers the scores of heads once, if at all"
        for shape, operation, rest in found:
            assert is_within_pairs(rest), (name, shape, operation, rest[-300:])


def fit(mesh: Mesh, n_rows: int) -> jax.stages.Compiled:
    """Scores by gradient: one step of a fit, whose backward passes and sums over all edges are those of any step."""
    (tokens, lengths), _ = batch_on(mesh, n_rows)
    scoring = Fitted(steps=1, start=ShareTimesGradient(), name="one"), "zero"
    how = {"scorings": (scoring,), "replacements": {}, "mesh": mesh}
    return stages.score_batch.lower(model_on(mesh).decoder, tokens, lengths, 0, **how).compile()


def test_no_input_of_a_fit_waits_for_another() -> None:
    """With an input for each device no collective; nor does a prediction that the control is told have one."""
    mesh = make_mesh(data=8)
    assert collectives(fit(mesh, 8)) == []
    decoder, ((tokens, lengths), _) = model_on(mesh).decoder, batch_on(mesh, 8)
    assert collectives(stages.predict_batch.lower(decoder, tokens, lengths, mesh=mesh).compile()) == []


def test_the_gradient_of_a_fit_stays_within_model_groups() -> None:
    """On a mesh of 4 x 2 its sums cross ``model`` alone, as those of the forward pass do."""
    found = collectives(fit(make_mesh(data=4, model=2), 4))
    assert any(operation == "all-reduce" for _, operation, _ in found), "weights are divided"
    for one in found:
        assert is_within_pairs(one[2]), one


def test_sizes_bring_only_logits_together() -> None:
    """One input on four devices: the full graph's prediction and the measures cross, neither weights nor strata."""
    mesh = make_mesh(data=4)
    found = collectives(programs(mesh, 1)["evaluate"])
    assert any(operation == "all-reduce" for _, operation, _ in found), "the full graph's logits"
    for shape, operation, _ in found:
        sizes = [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in re.findall(r"\[([\d,]*)\]", shape)]
        assert max(sizes) <= 12 * 12, (shape, operation)  # measures: rows times nucleus levels; V is 98


# --- words -----------------------------------------------------------------------------------------------------------


def test_meshes_in_words() -> None:
    assert dict(meshes.parse_mesh("data=4,model=2").shape) == {"data": 4, "model": 2}
    assert dict(meshes.parse_mesh(" model=2 , data=all").shape) == {"data": 4, "model": 2}
    assert dict(meshes.parse_mesh("model=2").shape) == {"data": 1, "model": 2}
    for text in (
        "",
        "data",
        "data=",
        "data=x",
        "size=2",
        "data=2,data=2",
        "data=-1",
        "model=all",
        "data=²",
        "data=" + "9" * 5000,
    ):
        with pytest.raises(InputError, match="expected such as"):
            meshes.parse_mesh(text)
    for text in ("data=0", "data=9", "data=all,model=0", "data=all,model=9", "data=all,model=3"):
        with pytest.raises(InputError, match=r"positive sizes|needs|do not divide into groups"):
            meshes.parse_mesh(text)


def test_hosts_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(**_: Any) -> None:
        raise RuntimeError("coordinator_address should be defined\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", lost)
    with pytest.raises(InputError, match=r"did not start together \(coordinator_address should be defined\)"):
        hosts.start_distributed()


@pytest.mark.parametrize(
    ("address", "count", "number", "message"),
    [
        ("127.0.0.1", "2", "0", "expected host:port"),
        ("127.0.0.1:port", "2", "0", "expected host:port"),
        (None, "2", "0", "which is not set"),
        ("127.0.0.1:8000", "two", "0", "expected numbers"),
        ("127.0.0.1:8000", "2", None, "expected numbers"),
        ("127.0.0.1:8000", "2", "2", "expected numbers"),
        ("127.0.0.1:8000", "2", "-1", "expected numbers"),
        ("127.0.0.1:8000", "9" * 20, "0", "expected numbers"),
    ],
)
def test_words_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, address: str | None, count: str | None, number: str | None, message: str
) -> None:
    """Refused here: JAX would end the process without a word of Python."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("JAX was asked"))
    for name, value in (("COORDINATOR_ADDRESS", address), ("NUM_PROCESSES", count), ("PROCESS_ID", number)):
        if value is None:
            monkeypatch.delenv(f"JAX_{name}", raising=False)
        else:
            monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(InputError, match=message):
        hosts.start_distributed()


def test_a_divided_mesh_keeps_the_order_of_devices() -> None:
    mesh = make_mesh(data=4, model=2)
    for n_rows, shape in ((8, (4, 1, 2)), (1, (1, 4, 2)), (6, (2, 2, 2))):
        found = meshes.divided(mesh, n_rows)
        assert found.devices.shape == shape
        assert found.devices.ravel().tolist() == mesh.devices.ravel().tolist()
