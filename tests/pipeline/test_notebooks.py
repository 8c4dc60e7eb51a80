"""What notebooks show of traces and evaluations."""

from __future__ import annotations

import dataclasses
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import jstrace
from jstrace.models import Decoder, Model
from tests.conftest import SIZES, TINY, tiny_params
from tests.stand_ins import HOSTILE, Hostile

pytestmark = pytest.mark.quick


PERCENT = [f"{100 * size:g}%" for size in SIZES]


def _visible(text: str) -> str:
    return "".join(x if x.isprintable() else repr(x)[1:-1] for x in text).replace(" ", "·")


class Shown(HTMLParser):
    """Tags, the texts of cells and of tokens; every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {"td": [], "bdi": [], "th": []}
        self.words = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        assert {name for name, _ in attrs} <= {"style", "scope", "aria-hidden"}
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        for tag in self.texts:
            if tag in self.open:
                self.texts[tag][-1] += data


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Decoder(TINY, tiny_params()), Hostile())


@pytest.fixture(scope="module")
def trace(model: Model) -> jstrace.Trace:
    return jstrace.trace(model, "eight ch", sizes=SIZES)


def test_a_trace(trace: jstrace.Trace) -> None:
    """Tokens are text, whatever they are; sizes and edges are those of the trace."""
    found = Shown(trace._repr_html_())
    assert not {"script", "img", "a", "link", "iframe"} & set(found.tags)
    assert len(found.texts["bdi"]) == len(HOSTILE)
    for text, shown in zip(HOSTILE, found.texts["bdi"], strict=True):
        assert shown.isprintable()
        assert shown == _visible(text)
    whole = f"{trace.n_edges:,}"
    cells = [str(cell) for pair in zip(PERCENT, trace.counts, strict=True) for cell in pair]
    assert found.texts["td"] == [*cells, "full", whole]
    assert f"8 tokens, {whole} edges, ranked by l1" in found.words


def test_an_evaluation(model: Model, trace: jstrace.Trace) -> None:
    one = jstrace.evaluate(model, trace, ablate="residual+mlp")
    found = Shown(one._repr_html_())
    assert found.texts["th"] == ["size", "TV", "KL (nats)", "top token"]
    rows = [found.texts["td"][start : start + 4] for start in range(0, 20, 4)]
    for k, (size, tv, kl, top) in enumerate(rows):
        assert size == [*PERCENT, "full"][k]
        assert (tv, kl) == (f"{one.tv[k]:.3f}", f"{one.kl[k]:.3f}")
        assert top == _visible(HOSTILE[one.top_token[k] % len(HOSTILE)]) + (" ✓" if one.agreement[k] else "")
    assert rows[-1][-1].endswith("✓")
    assert f"density {one.density:.3f}" in found.words
    assert "ablated: residual+mlp" in found.words


def test_names_are_text(model: Model, trace: jstrace.Trace) -> None:
    one = dataclasses.replace(trace, score='<b onclick="x">&\x07', token_texts=None)
    found = Shown(one._repr_html_())
    assert '<b onclick="x">&\\x07' in found.words
    assert found.texts["bdi"] == [str(token) for token in trace.tokens]
    broken = jstrace.evaluate(model, trace)
    tv = np.asarray([np.nan, 0.5, 0.3, 0.1, 0.0], np.float32)
    shown = Shown(dataclasses.replace(broken, tv=tv, replace="<mean>", density=None)._repr_html_())
    assert shown.texts["td"][1] == "not finite"
    assert "carrying <mean>" in shown.words


def test_long_texts_are_cut(trace: jstrace.Trace) -> None:
    long = dataclasses.replace(trace, tokens=np.zeros(250, np.int32), token_texts=("x",) * 250)
    found = Shown(long._repr_html_())
    assert len(found.texts["bdi"]) == 200
    assert "and 50 more" in found.words


@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
@pytest.mark.parametrize("background", ["rgb(255, 255, 255)", "rgb(17, 17, 17)"])
def test_readable_in_light_and_dark(model: Model, trace: jstrace.Trace, background: str, tmp_path: Path) -> None:
    """On the notebook's own background every text has the notebook's own colour, and nothing else is painted over."""
    playwright = pytest.importorskip("playwright.sync_api")
    ink = "rgb(0, 0, 0)" if background.startswith("rgb(255") else "rgb(238, 238, 238)"
    body = trace._repr_html_().replace("<details>", "<details open>") + jstrace.evaluate(model, trace)._repr_html_()
    page_text = f'<!doctype html><meta charset="utf-8"><body style="background:{background};color:{ink}">{body}'
    (tmp_path / "page.html").write_text(page_text)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        looks = page.evaluate(
            "[...document.querySelectorAll('body *')].filter(e => e.tagName != 'SPAN')"
            ".map(e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor])"
        )
        browser.close()
    assert looks
    assert {tuple(look) for look in looks} == {(ink, "rgba(0, 0, 0, 0)")}
    assert not re.search(r"url\(|@import", page_text)
