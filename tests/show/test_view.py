"""The page of a trace: what is in it, and what it does in a real browser, where there is one."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, InputError, Model
from jstrace.show.page import _filled, _part, digest, packed, scored
from tests.conftest import ROOT, family_config, tiny_params
from tests.show.pages import data_of, flat, held_scores, page_of


def test_holds_the_trace_and_its_curves(model: Model) -> None:
    trace, evaluations, html = page_of(model)
    (panel,) = data_of(html)["traces"]
    assert panel["tokens"] == list(trace.token_texts or ())
    assert panel["counts"] == [*trace.counts.tolist(), trace.n_edges]
    for one, (name, own) in zip(panel["evaluations"], evaluations.items(), strict=True):
        assert one["name"] == name
        np.testing.assert_allclose(one["tv"], own.tv, atol=1e-5)
        np.testing.assert_allclose(one["kl"], own.kl, atol=1e-5)
        assert one["top"] == [model.tokenizer.token(int(token)) for token in own.top_token]


def test_evaluations_of_one_name_are_all_shown(model: Model) -> None:
    trace = jstrace.trace(model, "hello")
    own = jstrace.evaluate(model, trace)
    (panel,) = data_of(jstrace.view(trace, [own, own], model=model).html)["traces"]
    assert [one["name"] for one in panel["evaluations"]] == ["zero, all", "zero, all (2)"]


def test_repetitions_are_a_band(model: Model) -> None:
    """From the lowest to the highest of each size, on the page and in the plot; none without repetitions."""
    trace, evaluations, _ = page_of(model)
    plain = evaluations["zero"]
    again = dataclasses.replace(plain, tv_repeats=np.stack([plain.tv + 0.1, plain.tv - 0.2, plain.tv]))
    (panel,) = data_of(jstrace.view(trace, {"plain": plain, "again": again}, model=model).html)["traces"]
    assert "band" not in panel["evaluations"][0]
    np.testing.assert_allclose(
        panel["evaluations"][1]["band"], np.stack([plain.tv - 0.2, plain.tv + 0.1], 1), atol=1e-5
    )
    (axes,) = jstrace.plot_curves({"plain": plain, "again": again}).axes
    (band,) = axes.collections
    low, high = np.sort(band.get_paths()[0].vertices[:, 1])[[0, -1]]
    assert [low, high] == pytest.approx([plain.tv.min() - 0.2, plain.tv.max() + 0.1], abs=1e-5)


def test_strata_are_read_back() -> None:
    config = family_config("gpt_neox")
    trace = jstrace.trace(Model(Decoder(config, tiny_params(config))), np.arange(6))
    content = np.frombuffer(zlib.decompress(base64.b64decode(packed(dict(trace.strata.items())))), np.uint8)
    rows, columns = np.tril_indices(6)
    strata = trace.strata
    parts = [strata.residual_attn, strata.attn[..., rows, columns], strata.residual_mlp, strata.mlp]
    np.testing.assert_array_equal(content, np.concatenate([np.ravel(part) for part in parts]))


def test_hostile_tokens_are_data(model: Model) -> None:
    _, _, html = page_of(model)
    assert len(re.findall("<script", html)) == 2, "the data and the program"
    assert "alert(1)</script>" not in html
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    for part in (script, style):
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert "unsafe" not in policy[1]
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html), "nothing is fetched"


def test_effects_are_data(model: Model) -> None:
    """The first of two traces has them, to four digits, by layer; heads first, the MLP last."""
    trace, effects = jstrace.trace(model, "eight ch"), jstrace.effects(model, "eight ch", by="node")
    first, second = data_of(jstrace.view([trace, trace], model=model, effects=effects).html)["traces"]
    assert first["effects"]["metric"] == effects.metric_name
    assert isinstance(effects.values, np.ndarray)
    np.testing.assert_allclose(first["effects"]["values"], effects.values, rtol=1e-3)
    effects.values[1, 2] = np.nan
    told = data_of(jstrace.view(trace, model=model, effects=effects).html)["traces"][0]["effects"]["values"]
    assert [row.count(None) for row in told] == [0, 1, 0], "not finite, and the page says so"
    assert "effects" not in second


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t, e: jstrace.view(t, effects=jstrace.effects(m, "hello")), 'those by "node"'),
        (lambda m, t, e: jstrace.view(t, effects=jstrace.effects(m, "hell", by="node")), "of another text"),
        (lambda m, t, e: jstrace.view(t, effects=3), 'those by "node"'),
        (
            lambda m, t, e: jstrace.view(
                t, effects=jstrace.effects(m, "hello", by="node", counterfactual=[60, 61, 62, 63, 64])
            ),
            "no counterfactual prompt",
        ),
        (lambda m, t, e: jstrace.view([t, t, t]), "got 3 of them"),
        (lambda m, t, e: jstrace.view(t, "x"), "evaluation \\? is str"),
        (lambda m, t, e: jstrace.view(t, {"a": 3}), "evaluation a is int"),
        (lambda m, t, e: jstrace.view([t, t], [e]), "each of 2 traces"),
        (lambda m, t, e: jstrace.view([t, jstrace.trace(m, "hi", sizes=(0.5,))]), "as many sizes"),
        (lambda m, t, e: jstrace.view(jstrace.trace(m, "hi", sizes=(0.5,)), e), "has 27 rows, the trace 2"),
    ],
)
def test_bad_arguments(model: Model, call: Callable[..., Any], message: str) -> None:
    trace = jstrace.trace(model, "hello")
    with pytest.raises(InputError, match=message):
        call(model, trace, jstrace.evaluate(model, trace))


def test_scores_are_near(model: Model) -> None:
    trace, _, html = page_of(model)
    (panel,) = data_of(html)["traces"]
    held, own = held_scores(panel), flat(trace.scores)
    edges = flat(trace.strata) < 255
    np.testing.assert_array_equal(np.isfinite(held), edges)
    assert panel["scores"]["error"] == pytest.approx(0.041)
    np.testing.assert_allclose(held[edges], own[edges], rtol=0.046)  # and the three digits of values
    assert held[own == 0].max(initial=0) == 0
    assert panel["scores"]["words"].startswith("Scores (l1): an edge's share")


def test_scores_of_many_edges_and_of_any_sign(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = jstrace.trace(model, "eight ch")
    rng = np.random.default_rng(0)
    scores = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), trace.scores)
    trace = jstrace.Trace.from_scores(model, "eight ch", scores)
    monkeypatch.setattr("jstrace.show.page._SCORED", int(trace.counts[25]))
    (panel,) = data_of(jstrace.view(trace).html)["traces"]
    assert panel["scores"]["last"] == 25
    held, own = held_scores(panel), flat(trace.scores)
    np.testing.assert_array_equal(np.isfinite(held), flat(trace.strata) <= 25)
    known = np.isfinite(held)
    np.testing.assert_allclose(held[known], own[known], rtol=panel["scores"]["error"] + 0.005)
    assert held[known].min() < 0
    assert "order alone" in panel["scores"]["words"]


def test_scores_of_many_magnitudes_have_codes_enough() -> None:
    """From 1e-30 to 1e30, of both signs: rounded further, and said so."""
    rng = np.random.default_rng(0)
    shapes = {"residual_attn": (2, 9), "attn": (2, 3, 9, 9), "residual_mlp": (2, 9), "mlp": (2, 9)}
    scores = {name: rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(-30, 30, shape) for name, shape in shapes.items()}
    found = scored(scores, {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}, [1, 2], "")
    assert len(found["values"]) <= 254
    assert found["values"] == sorted(found["values"], reverse=True)
    codes = np.frombuffer(zlib.decompress(base64.b64decode(found["codes"])), np.uint8)
    rows, columns = np.tril_indices(9)
    own = [scores["residual_attn"], scores["attn"][..., rows, columns], scores["residual_mlp"], scores["mlp"]]
    flat_scores = np.concatenate([np.ravel(part) for part in own])
    np.testing.assert_allclose(np.asarray(found["values"])[codes], flat_scores, rtol=found["error"] + 0.01)
    assert 0.1 < found["error"] < 1


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "gallery").glob("*.html")), ids=lambda path: path.stem)
def test_the_gallery_is_of_today(path: Path) -> None:
    """Its pages are made again when the page changes; docs/view.md has the commands."""
    html = path.read_text()
    assert _filled("", data_of(html)).split("<body>")[0].split("<title>")[0] == html.split("<title>")[0]
    assert digest(_part("view.js")) in html
    assert len(html) < 120_000
