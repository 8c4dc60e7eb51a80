"""How fast the page of a trace opens and follows its slider in a real browser, drawn without a graphics card.

    python experiments/benchmarks/bench_view.py  # 60 tokens x 32 layers x 32 heads; --tokens, --layers, --heads

The model has random weights and is narrow, as the page's work depends on tokens, layers and heads alone. The slider
moves by one size in every frame, by input events of the page (frames_per_second), and is dragged with the mouse from
end to end (dragged_per_second: pictures of another size; the driver is waited for at each step, and a page of five
tokens shows how long). Needs playwright and Chromium. experiments/results/benchmarks has the numbers and the
machine; the last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jstrace
from jstrace.models import Decoder, Model, ModelConfig, random_params
from jstrace.models.platforms import seeded

ARGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
COUNT = """() => {
  window.drawn = []; window.seen = [];
  const before = refresh;
  refresh = (most) => {
    const start = performance.now();
    before(most);
    drawn.push(performance.now() - start);
    seen.push(state.k);
  };
}"""
MOVE = """async (seconds) => {
  const slider = document.getElementById("size"), steps = panels[0].sizes.length - 1, start = performance.now();
  let at = 0;
  while (performance.now() - start < 1000 * seconds) {
    at += 1;
    slider.value = Math.abs((at + steps) % (2 * steps) - steps);
    slider.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
  }
  return 1000 * at / (performance.now() - start);
}"""


def model_of(layers: int, heads: int) -> Model:
    """A narrow model of random weights."""
    config = ModelConfig(
        family="llama", vocab_size=500, n_layers=layers, d_model=64, n_heads=heads, n_kv_heads=heads, head_dim=4,
        d_mlp=64, norm_eps=1e-5, rope_theta=10000.0, rope_divisors=None, tied_head=False, max_positions=1024,
    )  # fmt: skip
    params = random_params(config, key=seeded(0), dtype=jnp.dtype("float32"), scale=0.3)
    return Model(Decoder(config, params))


def page_of(tokens: int, layers: int, heads: int, path: Path) -> jstrace.Trace:
    """Write the page of a random text."""
    model = model_of(layers, heads)
    trace = jstrace.trace(model, np.random.default_rng(0).integers(0, 500, tokens))
    curves = jstrace.evaluate(model, trace) if trace.n_edges < 4_000_000 else None
    jstrace.view(trace, curves).save(path)
    return trace


def opening(browser: Any, path: Path) -> float:
    """Seconds until the first picture is there, in a browser that has not seen the page."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    tab = context.new_page()
    start = time.perf_counter()
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=120_000)
    taken = time.perf_counter() - start
    context.close()
    return taken


def dragging(browser: Any, path: Path, seconds: float) -> dict[str, float]:
    """Frames a second while the slider moves, and milliseconds of the page's own work in one."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    tab = context.new_page()
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=120_000)
    box = tab.locator("#size").bounding_box()
    tab.evaluate("state.k = 0; changed()")
    tab.wait_for_timeout(500)
    tab.evaluate(COUNT)
    moved = tab.evaluate(MOVE, seconds)
    drawn = tab.evaluate("drawn")
    tab.evaluate("seen.length = 0")
    tab.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    tab.mouse.down()
    steps, start, end = tab.evaluate("panels[0].sizes.length - 1"), time.perf_counter(), 1
    while time.perf_counter() - start < seconds:  # there and back, a size at each step
        tab.mouse.move(box["x"] + 8 + end * (box["width"] - 16), box["y"] + box["height"] / 2, steps=steps)
        end = 1 - end
    tab.mouse.up()
    taken = time.perf_counter() - start
    seen = tab.evaluate("seen")
    context.close()
    dragged = sum(one != other for one, other in itertools.pairwise(seen)) / taken
    work = {"median_ms": statistics.median(drawn), "most_ms": max(drawn)}
    return {"frames_per_second": moved, "dragged_per_second": dragged, **work}


def main() -> None:
    """Make the page and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tokens", 60), ("layers", 32), ("heads", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--page", type=Path, help="a page that is there already")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = options.page.resolve() if options.page else Path(folder) / "page.html"
        if options.page is None:
            print(page_of(options.tokens, options.layers, options.heads, path))
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGS))
        found: dict[str, Any] = {"kB": path.stat().st_size / 1e3, "chromium": browser.version, "cores": os.cpu_count()}
        found["load"] = os.getloadavg()[0]
        found["open_s"] = statistics.median(opening(browser, path) for _ in range(3))
        found |= dragging(browser, path, options.seconds)
        browser.close()
    print(json.dumps({name: round(value, 2) if isinstance(value, float) else value for name, value in found.items()}))


if __name__ == "__main__":
    main()
