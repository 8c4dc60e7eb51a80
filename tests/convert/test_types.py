"""Every further ``model_type`` against transformers, on tiny models that share their shapes, and so their programs."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jstrace
from jstrace.convert.hf.config import described, json_fields
from jstrace.convert.hf.registry import CLASSES, FAMILIES, UNSUPPORTED
from jstrace.convert.hf.wrappers import WRAPPERS
from jstrace.models import EdgeTree, InputError, Model
from tests import hf_models, hf_types, oracle
from tests.conftest import ROOT
from tests.hf_types import TYPES

LENGTHS, LONGEST, OF_ORACLE = (1, 13, 40), 40, 5
BOUND = 1e-5
"""On log-probabilities, of which transformers' are computed in double precision."""


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model, Any]:
    folder = tmp_path_factory.mktemp("model")
    torch_model = hf_types.make(TYPES[request.param], folder)
    return folder, jstrace.load(folder), torch_model


@pytest.mark.parametrize("made", TYPES, indirect=True)
def test_log_probabilities(request: pytest.FixtureRequest, made: tuple[Path, Model, Any]) -> None:
    """As transformers has them, and the full graph keeps all of the prediction."""
    _, model, torch_model = made
    kind = TYPES[request.node.callspec.params["made"]]
    torch_model = copy.deepcopy(torch_model).double() if kind.double else torch_model
    for n_tokens in LENGTHS:
        tokens = np.random.default_rng(n_tokens).integers(3, 45, n_tokens)
        expected = hf_types.theirs(torch_model, tokens)
        found = hf_types.logits(hf_types.alike(model), tokens, hf_types.everything(model.config, LONGEST), LONGEST)
        plain, masked = map(hf_types.log_softmax, found)
        assert np.ptp(expected) > 1, "a prediction that says something"
        np.testing.assert_allclose(plain, expected, atol=BOUND)
        assert 0.5 * np.abs(np.exp(plain) - np.exp(masked)).sum() < 1e-6


@pytest.mark.parametrize("made", [name for name, kind in TYPES.items() if kind.flagged], indirect=True)
def test_edges_and_masks_equal_the_oracle(made: tuple[Path, Model, Any]) -> None:
    """Of types with arithmetic of their own: edges sum to every node, and logits under soft masks are the oracle's."""
    _, model, _ = made
    tokens = np.random.default_rng(7).integers(3, 45, OF_ORACLE)
    literal = oracle.Literal(model.config, jax.device_get(model.decoder.params()), tokens)
    for node, edges, constants, whole in literal.nodes():
        np.testing.assert_allclose(sum(edges.values()) + constants, whole, atol=1e-9, err_msg=str(node))
    drawn = np.random.default_rng(8)
    for share in (0.5, 0.9):
        blank = hf_types.everything(model.config, LONGEST)
        mask = jax.tree.map(lambda leaf: np.float32(drawn.random(leaf.shape) < share) * np.float32(0.8), blank)  # noqa: B023
        _, masked = hf_types.logits(hf_types.alike(model), tokens, mask, LONGEST)
        own = {name: leaf[..., :OF_ORACLE] for name, leaf in mask.items()}
        expected = literal.masked(EdgeTree(**own | {"attn": own["attn"][..., :OF_ORACLE, :]}))
        np.testing.assert_allclose(masked, expected, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("made", TYPES, indirect=True)
def test_fields_of_other_types(made: tuple[Path, Model, Any]) -> None:
    """Whatever stands in a config, it is read or refused in a line; that what was read is one that JSON can hold."""
    folder, model, _ = made
    fields = json_fields(folder)
    inner = fields.get("text_config", {})
    for name in [*fields, *inner]:
        for value in (None, -1, 0, 2**31, 1e308, "text", [], [1], {}, {"a": 1}, True):
            changed = fields | ({name: value} if name in fields else {"text_config": inner | {name: value}})
            try:
                config = described(changed, where="here").config
            except InputError:
                continue
            json.dumps(dataclasses.asdict(config), allow_nan=False)
    assert described(fields, where="here").config == model.config


@pytest.mark.parametrize("made", ["glm4", "falcon", "bloom", "xglm", "granite", "gpt_oss", "mixtral"], indirect=True)
def test_derived_weights_on_a_mesh(made: tuple[Path, Model, Any]) -> None:
    """Every device makes its own part of what is listed, scaled, filled in or put through a norm."""
    folder, model, _ = made
    divided = jstrace.load(folder, mesh=jstrace.make_mesh(model=2))
    jax.tree.map(np.testing.assert_array_equal, divided.decoder.params(), model.decoder.params())
    assert len(divided.decoder.params()["layers"]["q"].sharding.device_set) == 2


def test_every_type_is_compared() -> None:
    """Of all that load: there is a tiny model of it, and a class that warns of code which computes something else."""
    compared = {kind.model_type for kind in TYPES.values()} | {*hf_models.TYPE_OF.values()}
    outer = {kind for kind, wrapper in WRAPPERS.items() if {*wrapper.inner} & {*FAMILIES}}
    inner = {"qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "qwen3_5_text", "qwen3_5_moe_text"}
    assert compared == (FAMILIES.keys() | outer) - inner
    assert FAMILIES.keys() | WRAPPERS.keys() <= CLASSES.keys()
    assert not UNSUPPORTED.keys() & FAMILIES.keys()


def test_the_page_of_types() -> None:
    """Every type that is read has a row on the page, with what it needs, and every one that is known to be refused."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]
    read = {row[0].strip("`"): row[1:] for row in rows if len(row) == 5}
    assert read.keys() == {kind.model_type for kind in TYPES.values()} | {*hf_models.TYPE_OF.values()}
    for name, (_, needs, error, state) in read.items():
        assert state == "traced"
        assert float(error) < BOUND
        wanted = [kind.needs for kind in TYPES.values() if kind.model_type == name]
        assert {part for each in wanted for part in each.split("; ")} <= {*needs.split("; ")}, name
    refused = {name.strip("`"): row[1] for row in rows if len(row) == 2 for name in row[0].split(", ")}
    assert refused == UNSUPPORTED
