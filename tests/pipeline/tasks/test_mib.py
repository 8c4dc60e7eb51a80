"""Areas by hand, and the graph that MIB's circuit track reads."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jstrace
from jstrace.models import InputError, Model
from jstrace.pipeline.tasks import mib
from tests.conftest import SIZES, TINY, family_config

pytestmark = pytest.mark.quick


def test_areas_by_hand() -> None:
    """Of (0.1, 0.5), (0.3, 1.2), (1, 1): 0.2 * 0.85 + 0.7 * 1.1, and 0.2 * 0.35 + 0.7 * 0.1."""
    sizes, recovered = (0.1, 0.3, 1.0), (0.5, 1.2, 1.0)
    assert jstrace.cpr(sizes, recovered) == pytest.approx(0.94)
    assert jstrace.cmd(sizes, recovered) == pytest.approx(0.14)
    assert jstrace.cpr((0, 1), (1, 1)) == 1
    assert jstrace.cmd((0, 1), (1, 1)) == 0


@pytest.mark.parametrize(
    ("sizes", "recovered"),
    [((1.0,), (1.0,)), ((0.1, 0.2), (1.0,)), ((0.2, 0.1), (0, 1)), ((1, 50, 100), (0, 1, 1))],
)
def test_bad_areas(sizes: tuple[float, ...], recovered: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="expected as many of both"):
        jstrace.cpr(sizes, recovered)


def test_the_graph_of_a_circuit(reader: Model, pairs: list[jstrace.Pair]) -> None:
    circuit = jstrace.task(reader, pairs[:1], score="gradient", sizes=SIZES)
    found = json.loads(json.dumps(circuit.to_mib(size=0.3)))
    assert found["cfg"] == {"n_layers": 3, "n_heads": 4, "d_model": 16, "parallel_attn_mlp": False}
    assert found["edges"] == {}
    nodes = found["nodes"]
    assert [*nodes][:7] == ["input", "a0.h0", "a0.h1", "a0.h2", "a0.h3", "m0", "a1.h0"]
    assert [*nodes][-1] == "logits"
    assert nodes["input"] == {"in_graph": True}
    inside = {name for name, node in nodes.items() if node["in_graph"]} - {"input", "logits"}
    assert len(inside) == 4 == int(0.3 * 15)
    assert nodes["m1"]["score"] == pytest.approx(float(circuit.components[1, 4]))
    best = sorted((node["score"] for node in nodes.values() if "score" in node), reverse=True)[:4]
    assert sorted((nodes[name]["score"] for name in inside), reverse=True) == best
    assert circuit.to_mib(2) == circuit.to_mib(size=0.3)
    for bad in ({"k": 4}, {"size": 0.31}, {}, {"k": 1, "size": 0.3}):
        with pytest.raises(InputError, match="expected an index below 4"):
            circuit.to_mib(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_edges_of_a_graph(family: str) -> None:
    """Every output into every later input, of which heads have three; parallel MLPs read no head of their layer."""
    config, shares = family_config(family), np.arange(15, dtype=np.float64).reshape(3, 5)
    found = mib.graph(config, shares, shares > 6, edges=True)["edges"]
    heads, layers = TINY.n_heads, TINY.n_layers
    before = [1 + layer * (heads + 1) for layer in range(layers)]
    own = 0 if config.parallel else heads
    assert len(found) == sum(count * 3 * heads + count + own for count in before) + 1 + layers * (heads + 1)
    assert found["a0.h3->a1.h2<k>"] == {"score": 3.0, "in_graph": False}
    assert found["m1->logits"] == {"score": 9.0, "in_graph": True}
    assert ("a1.h2->m1" in found) != config.parallel
    assert "a1.h2->a1.h3<q>" not in found
    assert found["input->m2"]["in_graph"]
