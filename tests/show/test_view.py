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

import jax
import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, InputError, Model
from jstrace.show.page import _filled, _part, digest, packed, scored
from tests.browser import found_by_axe
from tests.conftest import ROOT, TINY, family_config, tiny_params

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


def test_the_curve_stands_beside_the_graph(opened: Any, model: Model) -> None:
    """Where there is room and one trace; else below it."""
    _, _, html = page_of(model)
    tab = opened(html, viewport={"width": 1300, "height": 800})
    graph, curve = (tab.locator(name).bounding_box() for name in (".graph", ".curve"))
    assert curve["x"] >= graph["x"] + graph["width"]
    tab.set_viewport_size({"width": 900, "height": 800})
    tab.wait_for_timeout(100)
    graph, curve = (tab.locator(name).bounding_box() for name in (".graph", ".curve"))
    assert curve["y"] >= graph["y"] + graph["height"]
    assert graph["width"] > 800


HOSTILE_LINKS = (
    "#k=1e9",
    "#k=-1&k=3&k=" + "9" * 4000,
    "#k=0x10&head=0.0.0&node=.&token=%00",
    "#%E0%A4%A&=&&&%",
    "#k=NaN&head=Infinity.1&node=__proto__.constructor&token=toString",
    "#<img src=x onerror=alert(1)>&k=<script>alert(1)</script>",
    "#k=%EF%BC%93&head=1%2E2&node=0.0",
    "#" + "head=1.1&" * 5000,
)


def test_hostile_links(opened: Any, model: Model) -> None:
    """Whatever stands after the hash, the page shows a size that there is, and complains of nothing."""
    _, _, html = page_of(model)
    tab = opened(html)
    for link in HOSTILE_LINKS:
        tab.evaluate("link => { location.hash = link; }", link)
        assert 0 <= k_of(tab) <= 26
        head, node, token = tab.evaluate("[state.head, state.node, state.token]")
        assert head is None or (head[0] < 3 and head[1] < 4)
        assert node is None or (node[0] < 8 and node[1] <= 6)
        assert token is None or 0 <= token < 8


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
    assert tab.inner_text(".panel > .note") == f"The 40 strongest of {len(order)} token pairs with attention are drawn."
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


def held_scores(panel: dict[str, Any]) -> np.ndarray:
    """The scores that a page holds, of its edges in their order; NaN where there is none."""
    strata, codes = (
        np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
        for text in (panel["strata"], panel["scores"]["codes"])
    )
    found = np.full(strata.shape, np.nan)
    found[strata <= panel["scores"]["last"]] = np.asarray(panel["scores"]["values"])[codes]
    return found


def flat(tree: Any) -> np.ndarray:
    rows, columns = np.tril_indices(tree.attn.shape[-1])
    return np.concatenate(
        [np.ravel(part) for part in (tree.residual_attn, tree.attn[..., rows, columns], tree.residual_mlp, tree.mlp)]
    )


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


def test_hover_says_scores_and_they_filter(opened: Any, model: Model) -> None:
    trace, _, html = page_of(model)
    held = held_scores(data_of(html)["traces"][0])
    tab = opened(html, "#k=26")
    rows = 8 * trace.config.n_layers
    for kind, index in (("residual_attn", 0), ("residual_mlp", 2), ("mlp", 3)):
        edge = next(edge for edge in trace.edges(26) if edge.kind == kind and edge.target == 7)
        before = np.cumsum([0, rows, rows * trace.config.n_heads * 9 // 2, rows])[index]  # 36 pairs of 8 tokens
        score = held[before + edge.layer * 8 + 7]
        mid = 2 * edge.layer + 1
        levels = {"residual_attn": (mid - 1, mid), "residual_mlp": (mid, mid + 1), "mlp": (mid, mid + 1)}[kind]
        name = "mlp" if kind == "mlp" else "residual"
        tab.evaluate(
            "([name, layer, from, to]) => panels[0].sayEdge(panels[0].all.find((edge) => edge[0] === name"
            " && edge[1] === layer && edge[2] === 7 && edge[3] === from && edge[5] === to))",
            [name, edge.layer, *levels],
        )
        assert f"score ≈ {float(f'{score:.2g}'):g}; enters at" in tab.inner_text(".words")
    tab.click("summary")
    least = float(np.nanmedian(held))
    tab.fill("#least-score", str(least))
    tab.wait_for_timeout(100)
    assert tab.evaluate("panels[0].all.reduce((sum, edge) => sum + edge[6], 0)") == int((held >= least).sum())
    tab.fill("#least-score", "")
    tab.wait_for_timeout(100)
    assert tab.evaluate("panels[0].all.reduce((sum, edge) => sum + edge[6], 0)") == trace.n_edges


def test_pages_without_scores(opened: Any, model: Model) -> None:
    _, _, html = page_of(model)
    data = data_of(html)
    del data["traces"][0]["scores"]
    tab = opened(_filled("no scores", data), "#k=26")
    tab.evaluate("panels[0].sayEdge(panels[0].all.find((edge) => edge[0] === 'attn' && edge[6] > 1))")
    assert "heads" in tab.inner_text(".words")
    assert "≈" not in tab.inner_text(".words")
    assert not tab.is_visible("#least-score")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_pages_for_everybody(opened: Any, model: Model, scheme: str, width: int) -> None:
    trace, curves, _ = page_of(model)
    html = jstrace.view([trace, trace], [curves, curves], model=model, names=["a", "b"]).html
    tab = opened(html, "#k=12&node=7.4", viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.click("summary")
    assert not found_by_axe(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_prints(opened: Any, model: Model) -> None:
    """On light paper, whatever the screen's scheme, with the size in words and nothing to press."""
    _, _, html = page_of(model)
    tab = opened(html, "#k=12", color_scheme="dark")
    assert tab.evaluate("tones.paper") == "#161616"
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("tones.paper") == "#ffffff"
    tab.emulate_media(media="print")
    assert not tab.is_visible("#play")
    assert not tab.is_visible("#size")
    assert tab.inner_text("#size-text") == "0.3%, 1 edge"
    tab.emulate_media(media="screen")
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("tones.paper") == "#161616"


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
