"""Runs with planted numbers, written as ``jstrace run`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.method.graph.composition import compose
from jstrace.method.naming import RANDOM
from jstrace.method.plans import Plan
from jstrace.models import EdgeTree
from jstrace.pipeline import Input, Invalid, Outcome
from jstrace.pipeline.evaluation import Evaluation
from jstrace.runs import folder as run_folder
from jstrace.runs import manifest, parts, schema
from jstrace.runs.control import Foreign
from jstrace.runs.data import Data, Row
from jstrace.runs.parts import Part
from jstrace.runs.rows import Entry, part_tables
from jstrace.runs.schema import NOTHING, Extras
from tests.conftest import TINY
from tests.stand_ins import Letters

SIZES = (1e-4, 1e-3, 1e-2, 0.1, 0.5)
PLAN = Plan(ablations=("all", "residual+mlp"), baselines=("random", "inverse"), sizes=SIZES)
N_TOKENS, N_EDGES = 4, 3 * (3 * 4 + 4 * 10)


def falling(height: float) -> np.ndarray:
    """A curve of TV whose density grows with its height, zero at the full graph."""
    return np.asarray([height] * 3 + [height / 2, height / 4, 0.0], np.float32)


def evaluation_of(height: float, entropy: float, inverse: bool, ablate: str) -> Evaluation:
    tv = falling(height)[::-1].copy() if inverse else falling(height)
    order = np.arange(6)[:, None] >= np.arange(12)[None] / 3 + 1
    return Evaluation(
        sizes=SIZES, tv=tv, kl=tv, nucleus=order, nucleus_unordered=order, top_token=np.zeros(6, np.int32),
        entropy=np.full(6, entropy, np.float32), surprisal=np.full(6, 2 * entropy, np.float32),
        rank=np.ones(6, np.int32), density=None if inverse else float(np.trapezoid(tv, np.log10([*SIZES, 1.0]))),
        full_tokens=np.zeros(3, np.int32), full_probs=np.full(3, 0.2, np.float32), ablate=ablate, inverse=inverse,
    )  # fmt: skip


def strata_of(rng: np.random.Generator, least: int) -> EdgeTree:
    shape, maps = (3, N_TOKENS), (3, 4, N_TOKENS, N_TOKENS)
    return EdgeTree(*(rng.integers(least, 6, s).astype(np.uint8) for s in (shape, maps, shape, shape)))


def write_run(
    parent: Path,
    name: str,
    heights: np.ndarray,
    entropies: np.ndarray,
    *,
    plan: Plan = PLAN,
    texts: list[str] | None = None,
    invalid: tuple[int, ...] = (),
    first: int = 0,
    least: list[int] | None = None,
    save_strata: bool = False,
    foreign: np.ndarray | None = None,
    extras: Extras = NOTHING,
    columns: list[dict[str, Any]] | None = None,
    pairs: list[tuple[str, str]] | None = None,
    about: dict[str, Any] | None = None,
    random: np.ndarray | None = None,
    repeats: Sequence[np.ndarray | None] | np.ndarray | None = None,
    flops: bool = False,
) -> Path:
    """A run with given heights of curves and entropies; its folder.

    ``foreign``: TV of the control, ``[N, controlled curves, predictions, Z + 1]``, NaN for inputs that have none;
    ``columns`` of the table of inputs that ``extras`` bring; ``pairs`` and variants; more ``about`` the model;
    heights of the curves of ``random`` traces, where they are others; TV of ``repeats``, ``[N, R, curves, Z + 1]``, or
    None for an input without; whether operations are known.
    """
    folder, rng = parent / name, np.random.default_rng(0)
    given = [Row(text) for text in (texts or [f"text {n}" for n in range(len(heights))])]
    given = [row._replace(pair=p, variant=v) for row, (p, v) in zip(given, pairs, strict=True)] if pairs else given
    config = manifest.configuration(plan, Data("d", tuple(given), ()), save_strata=save_strata, extras=extras)
    config |= {"model": name[:1], "tokens": ""}
    facts: dict[str, Any] = {
        "model": {"name": f"models/{name}", "dtype": "float32", "config": {"n_layers": 3, "n_heads": 4}},
        "data": {"name": "planted", "rows": len(given) // max(1, extras.generate), "corpus_tokens": 9},
        "conditions": [case.name for case in plan.cases],
        "sources": [source.name for source in plan.sources],
        "nucleus_levels": [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99],
    }
    facts["model"] |= about or {}
    hardware = {"devices": 1, "device": "cpu", "cpu": "some"}
    folder.mkdir()
    added = (*extras.columns, *(["pairs"] if pairs else []), *(["flops"] if flops else []))
    wanted = schema.schemas(plan, save_strata=save_strata, added=added)
    run_folder.opened(folder, config, facts, {"versions": {"jax": "1"}, "hardware": hardware}, list(wanted))
    entries = []
    for n, (height, entropy) in enumerate(zip(heights, entropies, strict=True)):
        evaluations = tuple(
            evaluation_of(
                random[n] if random is not None and case.source.score in RANDOM else height,
                entropy,
                case.condition.inverse,
                case.condition.ablate,
            )
            for case in plan.cases
        )
        strata = tuple(strata_of(rng, least[n] if least else 0) for _ in plan.sources)
        tokens = np.arange(N_TOKENS, dtype=np.int32)
        shares = tuple(compose(one, len(plan.sizes), TINY) for one in strata)
        outcome = Outcome(tokens, N_EDGES, strata, evaluations, compositions=shares)
        found = Invalid("planted") if n in invalid else outcome
        control = None if foreign is None or np.isnan(foreign[n]).any() else Foreign((n, n), foreign[n])
        own = dict(columns[n]) if columns else {}
        own |= {"pair": given[n].pair, "variant": given[n].variant} if pairs else {}
        again = None if repeats is None else repeats[n]
        entries.append(Entry(first + n, given[n], Input(tokens), found, control, again, own))
    made = part_tables(entries, plan, wanted, word=Letters().token, count=lambda token: 7 + token)
    parts.write_part(folder, Part(first, first + len(given) - 1), made, manifest.mark_of(config))
    return folder


def heights_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 1.0, n)
