"""The page of a trace: what is in it, and what it does in a real browser, where there is one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, InputError, Model
from jstrace.show.page import packed
from tests.conftest import TINY, family_config, tiny_params

HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'`${x}",
    "\u202eback",
    "😀\u200b",
    "\x00\x07\n\t",
    "<!--",
    "\u2028",
    "&lt;",
)


class Hostile:
    """A tokenizer whose tokens are what a page must not take for its own."""

    def encode(self, text: str) -> list[int]:
        return list(range(len(text)))

    def token(self, token_id: int) -> str:
        return HOSTILE[token_id % len(HOSTILE)]

    def save(self, folder: Path) -> None:
        pass


@pytest.fixture
def model() -> Model:
    return Model(Decoder(TINY, tiny_params()), Hostile())


def page_of(model: Model, **options: Any) -> tuple[jstrace.Trace, dict[str, jstrace.Evaluation], str]:
    trace = jstrace.trace(model, "eight ch", **options)
    found = {"zero": jstrace.evaluate(model, trace), "left": jstrace.evaluate(model, trace, ablate="residual+mlp")}
    return trace, found, jstrace.view(trace, found, model=model).html


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
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


# --- in a browser ---------------------------------------------------------------------------------------------------


def k_of(tab: Any) -> int:
    tab.wait_for_timeout(80)
    return int(tab.evaluate("state.k"))


def test_numbers_are_those_of_the_trace(opened: Any, model: Model) -> None:
    trace, evaluations, html = page_of(model)
    tab = opened(html)
    rng = np.random.default_rng(0)
    edges = list(trace.edges(len(trace.sizes)))
    for k in rng.integers(0, 27, 10).tolist():
        tab.evaluate(f"state.k = {k}; changed()")
        assert k_of(tab) == k
        words = tab.inner_text("#prediction")
        assert f"TV {evaluations['zero'].tv[k]:.3f}" in words
        assert f"KL {evaluations['left'].kl[k]:.3f}" in words
        edge = edges[int(rng.integers(0, len(edges)))]
        there = tab.evaluate(
            "([kind, layer, head, target, source]) => { const p = panels[0]; const row = layer * p.n + target;"
            " return kind === 'attn' ? p.attn[(layer * p.heads + head) * p.pairs + p.pair(target, source)]"
            " : { residual_attn: p.residualAttn, residual_mlp: p.residualMlp, mlp: p.mlp }[kind][row]; }",
            [edge.kind, edge.layer, edge.head, edge.target, edge.source],
        )
        assert there == edge.stratum
        shown = tab.evaluate("panels[0].all.reduce((sum, edge) => sum + edge[6], 0)")
        assert shown == len(trace.edges(k)), "every edge of the trace, attention by its number of heads"


def test_keys_links_filters_and_play(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    tab = opened(html, "#k=7&head=1.2&node=3.4")
    assert k_of(tab) == 7
    assert tab.evaluate("[state.head, state.node]") == [[1, 2], [3, 4]]
    only = tab.evaluate(
        "panels[0].all.filter((edge) => edge[0] === 'attn').every((edge) => edge[1] === 1 && edge[6] === 1)"
    )
    assert only
    tab.keyboard.press("Escape")
    tab.keyboard.press("ArrowRight")
    assert k_of(tab) == 8
    assert "k=8" in tab.url
    assert tab.evaluate("[state.head, state.node]") == [None, None]
    tab.focus("#size")
    tab.keyboard.press("End")
    assert k_of(tab) == 26
    assert "full graph" in tab.inner_text("#size-text")
    tab.focus("canvas.graph")
    tab.keyboard.press("ArrowDown")
    assert "reads" in tab.inner_text(".words")
    tab.keyboard.press("Enter")
    assert k_of(tab) == 26
    assert tab.evaluate("state.node") is not None
    tab.click("summary")
    tab.uncheck("#show-attn")
    tab.wait_for_timeout(80)
    assert tab.evaluate("panels[0].all.some((edge) => edge[0] === 'attn')") is False
    tab.click("#play")
    tab.wait_for_timeout(1200)
    assert 0 < k_of(tab) < 26


def test_bad_links_and_narrow_screens(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    tab = opened(
        html, "#k=999&head=9.9&node=-1.2&token=abc", viewport={"width": 360, "height": 700}, color_scheme="dark"
    )
    assert tab.evaluate("[state.head, state.node, state.token]") == [None, None, None]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_hover_and_clicks_say_what_is_there(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    tab = opened(html, "#k=26")
    spot = tab.evaluate(
        "(() => { const p = panels[0], at = p.layout(), box = p.canvas.getBoundingClientRect();"
        " return [box.left + at.x(p.n - 1), box.top + (at.y(0) + at.y(1)) / 2, box.top + at.y(0) + 30]; })()"
    )
    tab.mouse.move(spot[0], spot[1])
    assert "layer 0" in tab.inner_text(".words")
    tab.mouse.click(spot[0], spot[2])
    tab.wait_for_timeout(80)
    assert tab.evaluate("state.token") == 7
    assert tab.evaluate("panels[0].lit.size") > 0
    assert "alert" not in tab.evaluate("document.title") or tab.evaluate("document.scripts.length") == 2


def test_saves_pictures(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    tab = opened(html)
    tab.click("summary")
    with tab.expect_download() as found:
        tab.click("#svg")
    text = Path(found.value.path()).read_text()
    assert text.startswith("<svg")
    assert "<script" not in text


def test_counts_follow_the_slider(opened: Any, model: Model) -> None:
    """However it jumps, to and fro: edges of each head, and pairs of tokens with as many heads as have an edge."""
    trace, _, html = page_of(model)
    tab = opened(html)
    strata = trace.strata.attn
    for k in (26, 3, 20, 19, 0, 26):
        tab.evaluate(f"state.k = {k}; changed()")
        assert k_of(tab) == k
        heads, counted = tab.evaluate("[[...panels[0].headCounts], [...panels[0].counted]]")
        assert heads == (strata <= k).sum((2, 3)).ravel().tolist()
        rows, columns = np.tril_indices(8)
        assert counted == (strata <= k).sum(1)[:, rows, columns].ravel().tolist()


def test_the_strongest_are_kept(opened: Any, model: Model) -> None:
    """Those that enter first, then those of most heads, then by place; and what is not drawn is counted."""
    trace, _, html = page_of(model)
    tab = opened(html, "#k=26")
    rows, columns = np.tril_indices(8)
    strata = trace.strata.attn[:, :, rows, columns]
    least, counted = strata.min(1).ravel(), (strata <= 26).sum(1).ravel()
    order = [place for place in np.lexsort((np.arange(least.size), -counted.astype(int), least)) if least[place] <= 26]
    for most in (1, 7, 40, 60, len(order) - 1, len(order)):
        kept = tab.evaluate(f"[...panels[0].strongest(panels[0].attended(), {most})]")
        assert set(kept) == set(order[:most])
    tab.evaluate("refresh(40)")
    assert (
        tab.inner_text(".panel > p:not([class])")
        == f"The 40 strongest of {len(order)} token pairs with attention are drawn."
    )
    tab.evaluate("state.node = [7, 6]; refresh(1)")
    assert tab.evaluate("panels[0].drawn.filter((edge) => panels[0].lit.has(edge)).length === panels[0].lit.size")


def test_slow_machines_draw_less_while_it_moves(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    tab = opened(html)
    found = tab.evaluate(
        "(() => { let now = 1e6; const after = (gap) => paced(now += gap);"
        " const first = after(1000), slow = Array.from({ length: 20 }, () => after(50)).pop();"
        " const fast = Array.from({ length: 40 }, () => after(16)).pop(); after(50); return [first, slow, fast]; })()"
    )
    assert found == [4000, 500, 4000]
    drawn = "window.most = []; const before = refresh; refresh = (most) => { window.most.push(most); before(most); }; 0"
    tab.evaluate(drawn)
    tab.wait_for_timeout(400)
    assert tab.evaluate("most") == [4000], "all of them once it rests"
