"""Layers of unlike forms: how they are scanned, stored and divided; the oracle has their arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.method.graph.composition import compose
from jstrace.models import Decoder, InputError, Model, ModelConfig, plain_forward, random_params
from jstrace.models.config import unlike
from jstrace.models.forms import segments
from jstrace.models.generating import continued
from jstrace.models.narrow import Narrow
from jstrace.models.validation import validated
from jstrace.pipeline.tasks.alignment import kept_components
from tests.conftest import SIZES, TINY, family_config, tiny_params

CONFIG = family_config("glm4_moe")


def test_segments() -> None:
    """Runs of alike layers, and patterns that are repeated, hold all layers in order."""
    assert segments((0,) * 3 + (1,) * 58) == (((0,), 3), ((1,), 58))
    assert segments((0, 0, 0, 1) * 12) == (((0, 0, 0, 1), 12),)
    assert segments((0, 1) * 3 + (1, 0)) == (((0, 1), 3), ((1,), 1), ((0,), 1))
    drawn = np.random.default_rng(0)
    for n_layers in range(1, 30):
        forms = tuple(drawn.integers(0, 3, n_layers).tolist())
        assert sum((one.pattern * one.repeats for one in segments(forms)), start=()) == forms


def test_programs_do_not_grow_with_depth() -> None:
    def size(turns: int) -> int:
        config = dataclasses.replace(TINY, n_layers=4 * turns)
        config = unlike(config, ({"d_mlp": 10}, {}), (0, 0, 0, 1) * turns)
        decoder = jax.eval_shape(lambda: Decoder(config, tiny_shaped(config)))
        return len(jax.jit(plain_forward).lower(decoder, jax.ShapeDtypeStruct((4,), jnp.int32)).as_text())

    assert size(8) < 1.05 * size(2)


def tiny_shaped(config: ModelConfig) -> Any:
    return random_params(config, key=jax.random.key(0), dtype=jnp.dtype("float32"))


def test_one_form_is_a_plain_config() -> None:
    assert unlike(TINY, ({"d_mlp": 10}, {"d_mlp": 11}), (1, 1, 1)) == dataclasses.replace(TINY, d_mlp=11)


def test_what_is_counted() -> None:
    """On the device as on the host, and no edge of a head that a layer lacks."""
    model = Model(Decoder(CONFIG, tiny_params(CONFIG)))
    trace = jstrace.trace(model, [5, 6, 7, 8, 9, 10], sizes=SIZES)
    found, expected = trace.composition(), compose(trace.strata, len(SIZES), CONFIG)
    assert found == expected
    assert (found.head_edges[-1, 1] > 0).tolist() == [True, True, False, False]
    assert {edge.head for edge in trace.edges(len(SIZES)) if edge.layer == 1 and edge.kind == "attn"} == {0, 1}
    effects = jstrace.effects(model, trace.tokens, by="node")
    assert (effects.values != 0).tolist()[1] == [True, True, False, False, True]
    kept = kept_components(np.ones((3, 5)), 13, CONFIG)
    assert kept.sum(axis=1).tolist() == [5, 3, 5]


def test_eleven_forms() -> None:
    """Flattening orders names as text; forms are numbers."""
    plain = dataclasses.replace(TINY, n_layers=11)
    config = unlike(plain, [{"rope_switch": 1000 + layer} for layer in range(11)], range(11))
    params = tiny_params(plain)
    apart = {str(at): {name: stack[at : at + 1] for name, stack in params["layers"].items()} for at in range(11)}
    tokens, run = np.arange(5, dtype=np.int32), jax.jit(plain_forward)
    wanted = run(Decoder(plain, params), tokens)
    np.testing.assert_allclose(run(Decoder(config, params | {"layers": apart}), tokens), wanted, atol=1e-5)


def test_going_on_equals_whole_passes() -> None:
    decoder, tokens = Decoder(CONFIG, tiny_params(CONFIG)), np.arange(3, 11, dtype=np.int32)
    found = jax.jit(continued, static_argnames="count")(decoder, tokens, 4, jax.random.key(0), 0.0, count=4)
    whole, run = list(tokens[:4]), jax.jit(plain_forward)
    for _ in range(4):
        padded = np.asarray([*whole, *[0] * (8 - len(whole))], np.int32)
        whole.append(int(run(decoder, padded, length=len(whole)).argmax()))
    assert found.tokens.tolist() == whole[4:]


def test_checkpoints_and_meshes(tmp_path: Path) -> None:
    """Narrow or wide, one device or two: the same weights; a config is what JSON made of it."""
    from jstrace.convert.native import Header, read_header, read_params, write_native

    assert ModelConfig.from_json(json.loads(json.dumps(dataclasses.asdict(CONFIG)))) == CONFIG
    params = tiny_params(CONFIG)
    write_native(tmp_path / "m", params, None, Header(CONFIG, "float32", "", ""))
    assert read_header(tmp_path / "m").config == CONFIG
    places = jstrace.models.param_shardings(CONFIG, jstrace.make_mesh(model=2))
    read = read_params(tmp_path / "m", CONFIG, jnp.dtype("float32"), places)
    chex.assert_trees_all_equal(jax.device_get(read), jax.device_get(params))
    assert read["layers"]["1"]["q"].sharding.shard_shape((1, 16, 2, 8)) == (1, 16, 1, 8)
    narrow = jstrace.load(tmp_path / "m", weights="int8")
    values = narrow.decoder.params()["layers"]["0"]["up"]
    assert isinstance(values, Narrow)
    assert values.shape == params["layers"]["0"]["up"].shape
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(narrow.decoder))
    assert math.isclose(n_bytes, jstrace.models.weight_bytes(CONFIG, 4, narrow="int8"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"form_of": [0, 1]}, TypeError, "form_of"),
        ({"form_of": [0, 2, 0]}, TypeError, "form_of"),
        ({"forms": [[["d_mlp", "wide"]], []]}, TypeError, "d_mlp = 'wide'"),
        ({"forms": [["d_mlp"], []]}, TypeError, "no pairs"),
        ({"forms": [[["colour", 1]], []]}, TypeError, "colour"),
        ({"forms": [[["vocab_size", 5]], []]}, InputError, "vocab_size differs between layers"),
        ({"forms": [[["n_heads", 8]], []]}, InputError, "a layer has 8 heads, expected at most 4"),
        ({"forms": [[["n_kv_heads", 3]], []]}, InputError, "4 query heads do not divide into 3 groups"),
    ],
)
def test_forms_that_are_none(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    fields = dataclasses.asdict(CONFIG) | changes
    with pytest.raises(error, match=message):
        validated(ModelConfig.from_json(fields), "here")


@pytest.mark.parametrize(
    "changes",
    [{"form_of": (0, 1)}, {"form_of": (0, 2, 0)}, {"forms": ()}, {"forms": ((("colour", 1),), ())}],
)
def test_forms_of_ones_own_that_are_none(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="here: forms and form_of"):
        validated(dataclasses.replace(CONFIG, **changes), "here")


def test_gated_deltanet_has_no_window() -> None:
    with pytest.raises(InputError, match="layers without a softmax have no window"):
        validated(dataclasses.replace(family_config("qwen3_next"), window=2), "here")
