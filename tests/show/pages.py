"""Pages of tiny traces, and what is in them."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import numpy as np

import jstrace
from jstrace.models import Model


def page_of(model: Model, **options: Any) -> tuple[jstrace.Trace, dict[str, jstrace.Evaluation], str]:
    trace = jstrace.trace(model, "eight ch", **options)
    found = {"zero": jstrace.evaluate(model, trace), "left": jstrace.evaluate(model, trace, ablate="residual+mlp")}
    return trace, found, jstrace.view(trace, found, model=model).html


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def k_of(tab: Any) -> int:
    tab.wait_for_timeout(80)
    return int(tab.evaluate("state.k"))


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
