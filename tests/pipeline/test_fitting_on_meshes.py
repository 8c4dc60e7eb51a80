"""Learned scorers fitted on a mesh: what one device finds, and no sums that devices could take in any order."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model, make_mesh, param_shardings
from jstrace.pipeline import fitting
from tests.conftest import TINY, tiny_params
from tests.stand_ins import Letters

ROWS = [np.random.default_rng(seed).integers(0, 97, 7 + seed % 4) for seed in range(4)]
ASKED: dict[str, Any] = {"features": "activations", "reference": ROWS, "steps": 3}


@pytest.mark.parametrize(("data", "model"), [(1, 2), (2, 2)])
def test_equals_that_of_one_device(tiny: Model, data: int, model: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh, asked = make_mesh(data=data, model=model), list[Any]()
    placed = Model(Decoder(TINY, jax.device_put(tiny_params(), param_shardings(TINY, mesh))), Letters())
    one = jstrace.train_scorer(tiny, ROWS, **ASKED)
    step = fitting._step
    monkeypatch.setattr(fitting, "_step", lambda *given, **how: asked.append((given, how)) or step(*given, **how))
    two = jstrace.train_scorer(placed, ROWS, **ASKED)
    for name, array in one.coefficients.arrays().items():
        np.testing.assert_allclose(two.coefficients.arrays()[name], array, atol=1e-5, err_msg=name)
    assert len(asked) == ASKED["steps"]
    names = sums(step, *asked[0])
    assert len([name for name in names if "closed_call" in name]) > 2, "weights are divided: sums of every layer"
    outside = [name for name in names if "closed_call" not in name]
    assert len(outside) <= data, "the gradient of the mask alone, and that of the coefficients over data"


def sums(step: Any, given: Any, how: Any) -> list[str]:
    """What waits for other devices in the program of a step."""
    flat, tree = jax.tree.flatten(given)
    program = jax.jit(lambda leaves: step(*jax.tree.unflatten(tree, leaves), **how)).lower(flat).compile().as_text()
    return re.findall(r"= .*? (?:all-reduce|all-gather|all-to-all|collective-permute)\(.*op_name=\"(.*?)\"", program)
