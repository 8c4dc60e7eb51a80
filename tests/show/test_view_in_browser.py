"""The page of a trace in a browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.models import Model
from jstrace.show.page import _filled
from tests.browser import found_by_axe
from tests.show.pages import data_of, held_scores, k_of, page_of


def test_numbers_are_those_of_the_trace(opened: Any, model: Model) -> None:
    trace, evaluations, html = page_of(model)
    tab = opened(html)
    rng = np.random.default_rng(0)
    edges = list(trace.edges(len(trace.sizes)))
    for k in rng.integers(0, 27, 10).tolist():
        tab.evaluate(f"state.k = {k}; changed()")
        assert k_of(tab) == k
        words = tab.inner_text("#prediction")
        assert f"\t{evaluations['zero'].tv[k]:.3f}\t" in words
        assert f"\t{evaluations['left'].kl[k]:.3f}" in words
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


def test_the_band_of_repetitions_is_drawn(opened: Any, model: Model) -> None:
    """Below the line of its curve, and said of every point; a curve without repetitions has none."""
    trace, evaluations, _ = page_of(model)
    plain = evaluations["zero"]
    again = dataclasses.replace(plain, tv_repeats=np.stack([plain.tv, plain.tv / 2]))
    tab = opened(jstrace.view(trace, {"again": again, "plain": plain}, model=model).html)
    assert tab.locator(".curve polygon.band").count() == 1
    points = tab.locator(".curve polygon.band").get_attribute("points").split()
    assert len(points) == 2 * len(plain.tv)
    told = tab.evaluate("[...document.querySelectorAll('.curve title')].map((title) => title.textContent)")
    assert [", repetitions " in words for words in told] == [True] * 27 + [False] * 27
    assert told[0].endswith(f"repetitions {plain.tv[0] / 2:.3f} to {plain.tv[0]:.3f}")


def test_words_of_a_pair_have_room(opened: Any, model: Model) -> None:
    """Two lines of tokens, or in narrow columns one that the graph is tall enough for; names below the curves."""
    other = np.asarray(model.tokenizer.encode("eight ch"))
    other[6] += 1
    tab = opened(page_of(model, counterfactual=other)[2], viewport={"width": 420, "height": 700})
    assert tab.evaluate("panels[0].layout().whole") == (tab.evaluate("panels[0].layout().dx") >= 36)
    narrow = tab.evaluate("(panels[0].canvas.style.width = '240px', refresh(), panels[0].layout())")
    assert not narrow["whole"]
    words = [tab.evaluate(f"panels[0].wordsAt({token}, false)[0]") for token in range(8)]
    assert [" /" in word for word in words] == [token == 6 for token in range(8)]
    below = tab.evaluate("(at => at.height - at.y(0))(panels[0].layout())")
    assert below >= 12 + 5 * max(map(len, words))
    axis = tab.locator(".curve text", has_text="share of all edges").bounding_box()
    names = tab.locator(".curve text", has_text="zero").bounding_box()
    assert names["y"] >= axis["y"] + axis["height"] - 3


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


def test_effects_choose_a_head(opened: Any, model: Model) -> None:
    """The map says the effect under the mouse, and a click shows that head; that of the MLP is no head."""
    trace, effects = jstrace.trace(model, "eight ch"), jstrace.effects(model, "eight ch", by="node")
    tab = opened(jstrace.view(trace, model=model, effects=effects).html)
    box, (layers, columns) = tab.locator("canvas.heads").nth(1).bounding_box(), np.shape(effects.values)
    for column, chosen in ((1, [0, 1]), (columns - 1, [0, 1])):
        x, y = box["x"] + box["width"] * (column + 0.5) / columns, box["y"] + box["height"] * (1 - 0.5 / layers)
        tab.mouse.move(x, y)
        told = tab.inner_text("p.words")
        assert told.startswith("effect of layer 0, " + ("head 1" if column == 1 else "MLP"))
        assert float(told.split(": ")[1]) == pytest.approx(np.asarray(effects.values)[0, column], rel=0.06)
        tab.mouse.click(x, y)
        assert tab.evaluate("state.head") == chosen


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
