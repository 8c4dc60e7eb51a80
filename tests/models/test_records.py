"""Records that hold arrays have an equality: one bool, whatever they hold."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jstrace
from jstrace.models import Continued, EdgeTree, Model
from jstrace.models.edges import ByValue
from jstrace.pipeline import Input


def dataclasses_of_all_modules() -> dict[str, Any]:
    names = [
        module.name for module in pkgutil.walk_packages(jstrace.__path__, "jstrace.") if "__main__" not in module.name
    ]
    modules = (importlib.import_module(name) for name in names)
    kinds = (one for module in modules for one in vars(module).values() if isinstance(one, type))
    return {f"{one.__module__}.{one.__qualname__}": one for one in kinds if "__dataclass_params__" in vars(one)}


def test_no_dataclass_asks_an_array_for_its_truth() -> None:
    """That is what the equality of dataclasses does, field by field."""
    found = dataclasses_of_all_modules()
    arrays = {
        name
        for name, one in found.items()
        if any(re.search(r"Array\b|ndarray|Params|params", f"{f.type} {f.name}") for f in dataclasses.fields(one))
    }
    assert {"jstrace.models.edges.EdgeTree", "jstrace.pipeline.generation.Generation"} < arrays
    assert sorted(name for name in arrays if found[name].__dataclass_params__.eq) == []


@pytest.fixture(scope="module")
def records(tiny: Model) -> list[tuple[Any, Any, Any]]:
    """Each with an equal one and another."""
    tokens = np.arange(5, dtype=np.int32)
    one, same, other = (jstrace.trace(tiny, tokens, sizes=(0.2,), score=name) for name in ("l1", "l1", "l2"))
    curves = [jstrace.Selectivity((0.2,), np.asarray([0.1, x]), np.zeros((1, 2))) for x in (np.nan, np.nan, 0)]
    words = [jstrace.Generation(tokens, None, 4, np.ones(1, np.float32), (x,), 0.0, 0) for x in (one, same, other)]
    inputs = [Input(tokens, x, (one.strata,)) for x in (1, 1, None)]
    cached = [Continued(jnp.asarray([1, 2]), jnp.asarray([0.5, x])) for x in (jnp.nan, jnp.nan, 1.0)]
    evaluated = [jstrace.evaluate(tiny, one, next_token=x) for x in (3, 3, None)]
    made = [one.composition(), same.composition(), dataclasses.replace(one.composition(), nodes=np.zeros(2, int))]
    trees = [one.scores, jax.tree.map(jnp.asarray, one.scores), other.scores]
    rows = [trees, curves, words, inputs, cached, evaluated, made, [one, same, other]]
    return [(row[0], row[1], row[2]) for row in rows]


def test_equality_is_by_value(records: list[tuple[Any, Any, Any]]) -> None:
    for one, same, other in records:
        assert isinstance(one, ByValue)
        assert (one == same) is True
        assert (one != same) is False
        assert (one == other) is False
        assert (one == 3) is False
        assert one in [other, same]
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)


def test_trees_of_other_shapes_kinds_and_leaves(tiny: Model) -> None:
    mask = tiny.full_mask(4)
    assert mask == jax.tree.map(lambda leaf: leaf.astype(np.float32), mask)
    assert mask != tiny.full_mask(5)
    assert mask != jax.tree.map(lambda leaf: leaf[None], mask)
    assert mask != dataclasses.replace(mask, mlp=None)
    half = jax.tree.map(lambda leaf: jnp.where(leaf, jnp.bfloat16(1), jnp.bfloat16(jnp.nan)), mask)
    assert half == jax.tree.map(jnp.array, half)
    assert EdgeTree(*"abcd") == EdgeTree(*"abcd")
    assert jax.jit(lambda one: jnp.asarray(one == one))(mask)


def test_replacements_are_equal_to_themselves_alone(tiny: Model) -> None:
    one, other = (jstrace.resample_replacement(tiny, np.arange(4)) for _ in range(2))
    assert (one == one, one == other, len({one, other})) == (True, False, 2)
    analyses = [jstrace.analyse(jstrace.trace(tiny, np.arange(4), sizes=(0.5,)), 0) for _ in range(2)]
    assert analyses[0] != analyses[1]
