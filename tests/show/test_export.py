"""Traces as files for other programs: what these read is the graph of ``trace.to_networkx``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import jstrace
from jstrace.models import Decoder, InputError, Model
from jstrace.show.export import FORMATS
from jstrace.show.text import text_of
from tests.conftest import SIZES, TINY, family_config, tiny_params
from tests.stand_ins import HOSTILE, Hostile

pytestmark = pytest.mark.quick

networkx = pytest.importorskip("networkx")
MORE = ("\\x00", "back\\slash", "\ud800", "\r\n", "", "  ", "\ufffe", "(p=0.5)", "\u0e01é")
"""What looks escaped, halves of pairs, line ends, white space alone, no character at all."""


class Tokenizer(Hostile):
    def token(self, token_id: int) -> str:
        return (*HOSTILE, *MORE)[token_id % (len(HOSTILE) + len(MORE))]


@pytest.fixture(scope="module", params=["llama", "gpt_neox"])
def model(request: pytest.FixtureRequest) -> Model:
    config = family_config(request.param)
    return Model(Decoder(config, tiny_params(config)), Tokenizer())


@pytest.fixture(scope="module")
def trace(model: Model) -> jstrace.Trace:
    return jstrace.trace(model, "seventeen letters", sizes=SIZES)


def plain(value: str) -> str:
    """The token of GraphML, as docs/analysis.md reads it."""
    return value.encode("latin-1", "backslashreplace").decode("unicode-escape")


def facts(graph: Any, *, named: bool) -> tuple[list[Any], list[Any]]:
    """Nodes and edges in one order, nodes of files by level and token."""

    def place(node: Any) -> Any:
        return tuple(map(int, node.split(":"))) if named else node

    names = ("kind", "layer", "head", "score", "stratum")
    nodes = sorted((place(node), data["token"], data["position"]) for node, data in graph.nodes(data=True))
    edges = [(place(one), place(two), *(data.get(name) for name in names)) for one, two, data in graph.edges(data=True)]
    return nodes, sorted(edges, key=repr)


def test_whole_texts_are_those_of_the_trace(trace: jstrace.Trace, tmp_path: Path) -> None:
    """Not what the texts of its tokens give when they are joined; of traces that have none they are."""
    one = dataclasses.replace(trace, text="日本 <b>\n")
    jstrace.export(one, tmp_path / "a.json", "neuronpedia", 1)
    assert json.loads((tmp_path / "a.json").read_text())["metadata"]["prompt"] == "日本 ‹b›⏎"
    assert "日本" in jstrace.view(one).html
    assert (text_of(one), text_of(dataclasses.replace(trace, text=None))) == (one.text, "".join(trace.words))


@pytest.mark.parametrize("k", range(5))
def test_graphml_is_the_graph(trace: jstrace.Trace, k: int, tmp_path: Path) -> None:
    """With tokens that XML cannot hold."""
    jstrace.export(trace, tmp_path / "a.graphml", "graphml", k)
    content = (tmp_path / "a.graphml").read_bytes()
    graph = networkx.read_graphml(tmp_path / "a.graphml", force_multigraph=True)
    for _, data in graph.nodes(data=True):
        data["token"] = plain(data.get("token") or "")
    assert facts(graph, named=True) == facts(trace.to_networkx(k), named=False)
    assert graph.is_directed()
    assert (graph.graph["k"], graph.graph["size"]) == (k, [*trace.sizes, 1.0][k])
    assert graph.graph["edges"] == graph.number_of_edges()
    assert b"<script>" not in content
    assert not any(byte in content for byte in (b"\x00", b"\x07", b"\r"))


@pytest.mark.parametrize("k", range(5))
def test_json_is_the_graph(trace: jstrace.Trace, k: int, tmp_path: Path) -> None:
    jstrace.export(trace, tmp_path / "a.json", "json", size=[*trace.sizes, 1.0][k])
    text = (tmp_path / "a.json").read_bytes().decode("ascii")
    found = json.loads(text)
    graph = networkx.node_link_graph(found, edges="edges")
    assert facts(graph, named=True) == facts(trace.to_networkx(k), named=False)
    assert found["graph"]["token_texts"] == list(trace.token_texts or ())
    for node in found["nodes"]:
        assert node["id"] == f"{node['level']}:{node['position']}"
        assert (node["kind"] == "embedding") == (node["level"] == 0) == (node["layer"] is None)
    last = max(found["nodes"], key=lambda node: node["level"])
    assert last["layer"] == trace.config.n_layers - 1


def test_parquet_has_every_edge(trace: jstrace.Trace, tmp_path: Path) -> None:
    jstrace.export(trace, tmp_path / "a.parquet", "parquet", 1)
    table, edges = parquet.read_table(tmp_path / "a.parquet"), trace.edges(1)
    for name, column in edges.columns().items():
        wanted = [None if name == "head" and value < 0 else value for value in column.tolist()]
        assert table[name].to_pylist() == wanted, name
    assert table["size"].to_pylist() == [trace.sizes[stratum] for stratum in edges.stratum]
    nodes = set(trace.to_networkx(1))
    for end in ("source", "target"):
        assert set(zip(table[f"{end}_level"].to_pylist(), table[end].to_pylist(), strict=True)) <= nodes
        texts = [(trace.token_texts or ())[position] for position in table[end].to_pylist()]
        shown = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
        assert table[f"{end}_token"].to_pylist() == shown
    told = json.loads(table.schema.metadata[b"jstrace"])
    assert (told["k"], told["n_edges"], told["token_texts"]) == (1, trace.n_edges, list(trace.token_texts or ()))


def test_parquet_holds_every_text_once(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary with a text in it twice leaves as many bytes unwritten in the page, and the file at random."""
    written: list[Any] = []
    monkeypatch.setattr(parquet, "write_table", lambda table, *args, **kwargs: written.append(table))
    trace = jstrace.trace(model, np.array([5, 3, 5, 5, 3]), sizes=SIZES)
    assert len(set(trace.token_texts or ())) == 2
    jstrace.export(trace, tmp_path / "a.parquet", "parquet", 2)
    for column in (written[0][name].combine_chunks() for name in ("source_token", "target_token")):
        texts = column.dictionary.to_pylist()
        assert len(texts) == len(set(texts))


# --- circuit-tracer and Neuronpedia ---------------------------------------------------------------------------------

SCHEMA: dict[str, dict[str, Any]] = {
    "metadata": {
        "slug": str, "scan": str, "transcoder_list": list, "prompt_tokens": list, "prompt": str,
        "node_threshold": float,
    },
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
    "nodes": {
        "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
        "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
        "influence": float | None, "activation": float | None,
    },
    "links": {"source": str, "target": str, "weight": float},
}  # fmt: skip
"""Fields and types by circuit-tracer's ``frontend/graph_models.py`` (commit d797c82, all that it declares) and the
required ones of Neuronpedia's ``graph-schema.json``, which are among them."""


def check(found: dict[str, Any]) -> None:
    assert list(found) == list(SCHEMA)
    for part, fields in SCHEMA.items():
        for item in found[part] if isinstance(found[part], list) else [found[part]]:
            for name, kind in fields.items():
                assert isinstance(item[name], kind), (part, name, item)


@pytest.mark.parametrize("k", range(5))
def test_attribution_graph(model: Model, trace: jstrace.Trace, k: int, tmp_path: Path) -> None:
    """Fields by the schema; the same nodes and the same sums of scores as the trace, parallel edges being one link."""
    evaluation = jstrace.evaluate(model, trace)
    path = tmp_path / "my graph.json"
    jstrace.export(trace, path, "neuronpedia", k, evaluation=evaluation, model=model, scan="tiny")
    found = json.loads(path.read_text(encoding="ascii"))
    check(found)
    assert (found["metadata"]["slug"], found["metadata"]["scan"]) == ("my-graph", "tiny")
    nodes, graph = {node["node_id"]: node for node in found["nodes"]}, trace.to_networkx(k)
    assert len(nodes) == len(found["nodes"])
    assert len({node["jsNodeId"] for node in nodes.values()}) == len(nodes)
    kinds = [node["feature_type"] for node in found["nodes"]]
    assert (kinds.count("embedding"), kinds.count("logit")) == (len(trace.tokens), 1)
    reached = {node: data for node, data in nodes.items() if data["influence"] is not None}
    assert len(reached) == len(graph)
    assert {node["feature_type"] for node in nodes.values() if node not in reached.values()} <= {"embedding"}
    links = {(link["source"], link["target"]): link for link in found["links"]}
    assert len(links) == len(found["links"]) == len(set(graph.edges()))
    assert {end for ends in links for end in ends} == set(reached)
    assert sum(len(link["components"]) for link in links.values()) == graph.number_of_edges()
    total = sum(score for *_, score in graph.edges(data="score"))
    assert sum(link["weight"] for link in links.values()) == pytest.approx(total)
    (logit,) = (node for node in nodes.values() if node["feature_type"] == "logit")
    assert (logit["feature"], logit["ctx_idx"]) == (evaluation.full_tokens[0], len(trace.tokens) - 1)
    assert logit["token_prob"] == pytest.approx(float(evaluation.full_probs[0]))
    assert logit["clerp"].endswith(f"(p={evaluation.full_probs[0]:.3f})")


def test_pruning_takes_smaller_traces(trace: jstrace.Trace, tmp_path: Path) -> None:
    """A page that keeps influence up to (j + 1) / (k + 1) shows the nodes of trace j."""
    jstrace.export(trace, tmp_path / "a.json", "neuronpedia", 3)
    nodes = json.loads((tmp_path / "a.json").read_text())["nodes"]
    for j in range(4):
        kept = [node for node in nodes if node["influence"] is not None and node["influence"] <= (j + 1) / 4]
        assert len(kept) == len(trace.to_networkx(j)) > 0


def test_labels_are_no_markup(model: Model, trace: jstrace.Trace, tmp_path: Path) -> None:
    """circuit-tracer's page puts labels into itself as HTML, and tells a probability by "(p=" after the first quote."""
    jstrace.export(trace, tmp_path / "a.json", "neuronpedia", 4, evaluation=jstrace.evaluate(model, trace), model=model)
    found = json.loads((tmp_path / "a.json").read_text())
    labels = [*(node["clerp"] for node in found["nodes"]), *found["metadata"]["prompt_tokens"]]
    assert not any(letter in label for label in (*labels, found["metadata"]["prompt"]) for letter in "<>")
    assert all(label.isprintable() for label in labels)
    assert len(found["metadata"]["prompt_tokens"]) == len(trace.tokens)


def test_outputs_that_were_not_evaluated(trace: jstrace.Trace, tmp_path: Path) -> None:
    jstrace.export(trace, tmp_path / "a.json", "neuronpedia", 0)
    found = json.loads((tmp_path / "a.json").read_text())
    check(found)
    assert (found["nodes"][-1]["clerp"], found["nodes"][-1]["feature"]) == ('Output "not evaluated" (p=0.000)', -1)
    assert found["metadata"]["scan"] == trace.config.family


@pytest.mark.parametrize("kind", FORMATS)
def test_small_traces(kind: str, tmp_path: Path) -> None:
    """Of no edges, and of one token without a text."""
    small = jstrace.trace(Model(Decoder(TINY, tiny_params())), np.asarray([5], np.int32), sizes=SIZES)
    for k, edges, pairs in ((0, 0, 0), (4, small.n_edges, 6)):
        path = tmp_path / f"{k}.{kind}"
        jstrace.export(small, path, kind, k)
        if kind == "parquet":
            assert parquet.read_table(path).num_rows == edges
        elif kind == "graphml":
            assert networkx.read_graphml(path, force_multigraph=True).number_of_edges() == edges
        elif kind == "json":
            assert len(json.loads(path.read_text())["edges"]) == edges
        else:
            assert len(json.loads(path.read_text())["links"]) == pairs, "one from each level to the next"


def test_what_is_refused(model: Model, trace: jstrace.Trace, tmp_path: Path) -> None:
    evaluation = jstrace.evaluate(model, trace)
    for path, kind, k, options, message in (
        ("a", "gexf", 1, {}, "expected one of graphml, json, parquet, neuronpedia"),
        ("a", "json", 9, {}, "expected 0 to 4"),
        ("a", "json", None, {}, "an index k or a size"),
        ("a", "json", 1, {"evaluation": evaluation}, "json holds no prediction"),
        ("no/a", "json", 1, {}, "there is no folder"),
    ):
        with pytest.raises(InputError, match=message):
            jstrace.export(trace, tmp_path / path, kind, k, **options)
    assert not list(tmp_path.iterdir())
