"""What calls after the first compile: nothing, where texts, numbers and names alone are others.

JAX tells of every program that it compiles or finds on disk: those of the stages, and the small ones between them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

import jstrace
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.linear import initial
from jstrace.models import Decoder, Model, Replacement, make_mesh, param_shardings
from jstrace.scale import memory
from tests.conftest import TINY, tiny_params

EVENT = "/jax/core/compile/backend_compile_duration"
CONFIG = dataclasses.replace(TINY, vocab_size=89, n_layers=2)
"""No other test's: whatever ran before, none of the stages is compiled for it."""
SIZES = (0.1, 0.3, 0.6)
SCORE, EXTRACT, EVALUATE = "score_batch", "extract_program", "_evaluate"

Compiled = Callable[[], list[str]]


def ids(seed: int, n_tokens: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, n_tokens)


REFERENCE = [ids(seed, 8) for seed in range(2)]


@pytest.fixture
def compiled() -> Iterator[Compiled]:
    """The names of the programs that were compiled since it was asked last."""
    names: list[str] = []

    def listen(event: str, *_: Any, **facts: Any) -> None:
        if event == EVENT:
            names.append(facts["fun_name"].removeprefix("jit(").removesuffix(")"))

    def since() -> list[str]:
        found, names[:] = names[:], []
        return found

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield since
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Decoder(CONFIG, tiny_params(CONFIG)))


def both(model: Model, inputs: Any, **how: Any) -> Any:
    """A trace and its evaluation."""
    found = jstrace.trace(model, inputs, **{"sizes": SIZES} | how)
    jstrace.evaluate(model, found)
    return found


@pytest.fixture(scope="module")
def first(model: Model) -> jstrace.Trace:
    return both(model, ids(0))


OTHERS: dict[str, Callable[[Model, jstrace.Trace], Any]] = {
    "text": lambda model, _: [both(model, ids(1)), both(model, ids(2, 8)), both(model, ids(3, 1))],
    "ablation": lambda model, trace: jstrace.evaluate(model, trace, ablate="residual+mlp"),
    "sizes": lambda model, _: both(model, ids(0), sizes=(0.2, 0.21, 1.0)),
    "seed": lambda model, _: both(model, ids(0), seed=7),
    "next token": lambda model, trace: [jstrace.evaluate(model, trace, next_token=token) for token in (0, 88)],
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_one_compiles_nothing(model: Model, first: jstrace.Trace, compiled: Compiled, other: str) -> None:
    OTHERS[other](model, first)
    assert compiled() == []


def test_inverse_masks_are_one_program_more(model: Model, first: jstrace.Trace, compiled: Compiled) -> None:
    """They have one row more, as the full graph is none of theirs."""
    jstrace.evaluate(model, first, inverse=True)
    assert compiled() == [EVALUATE]
    jstrace.evaluate(model, first, inverse=True, ablate="residual+mlp", next_token=3)
    assert compiled() == []


def test_replacements_are_one_program_more(model: Model, first: jstrace.Trace, compiled: Compiled) -> None:
    """One for whether anything is replaced; what it is called, and of what it was made, are no part of it."""
    own = jstrace.noise_replacement(model, REFERENCE)
    compiled()
    jstrace.evaluate(model, first, replace=dataclasses.replace(own, name="a"))
    assert stages_of(compiled()) == {EVALUATE: 1}
    for name in ("b", "c"):
        other = Replacement(**jax.tree.map(lambda leaf: leaf + 1, own.arrays()), name=name)
        compiled()
        jstrace.evaluate(model, first, replace=other)
        assert compiled() == []
    jstrace.evaluate(model, first, replace="mean", reference=REFERENCE)
    assert compiled() == []


def stages_of(names: list[str]) -> dict[str, int]:
    """How many programs each stage has."""
    return collections.Counter(name for name in names if name in (SCORE, EXTRACT, EVALUATE))


@pytest.mark.parametrize("kind", [lambda one: one, lambda one: jstrace.Fitted(steps=1, polish=0, start=one)])
def test_scorers_share_a_program(model: Model, first: jstrace.Trace, compiled: Compiled, kind: Any) -> None:
    """Neither numbers of a scorer, or of a fit's start, nor what it or a replacement is called, are a part of it."""
    own = jstrace.noise_replacement(model, REFERENCE)
    one = Scorer(initial(CONFIG, "activations", 7), "activations", name="one")
    numbers = jax.tree.map(lambda leaf: leaf + np.float32(0.5), one.coefficients)
    compiled()
    found = both(model, first.tokens, score=kind(one), score_replace=own)
    assert stages_of(compiled()) == {SCORE: 1}
    again = both(model, first.tokens, score=kind(Scorer(numbers, "activations", name="other")), score_replace=own)
    both(model, ids(1), score=kind(one), score_replace=dataclasses.replace(own, name="mine"))
    assert compiled() == []
    assert any((a != b).any() for a, b in zip(*(jax.tree.leaves(t.scores) for t in (found, again)), strict=True))


@pytest.mark.parametrize("mesh", [None, (2, 2)])
def test_a_fit_is_a_few_programs(compiled: Compiled, mesh: tuple[int, int] | None) -> None:
    """One for each of its parts, however many steps are taken at a time: here three, and what is left."""
    found, params = None if mesh is None else make_mesh(data=mesh[0], model=mesh[1]), tiny_params(CONFIG)
    placed = params if found is None else jax.device_put(params, param_shardings(CONFIG, found))
    score = jstrace.Fitted(steps=41, polish=11, start=jstrace.RelP())
    inputs = [ids(seed) for seed in range(2)]
    model = Model(Decoder(CONFIG, placed))
    compiled()
    jstrace.trace(model, inputs, score=score, sizes=SIZES)
    names = collections.Counter(compiled())
    assert {name: names[name] for name in ("fit_part", SCORE)} == {"fit_part": 4, SCORE: 1}
    jstrace.trace(model, inputs[::-1], score=score, sizes=SIZES, seed=1)
    assert compiled() == []


def test_seeds_share_a_program(model: Model, first: jstrace.Trace, compiled: Compiled) -> None:
    """Random scores have large groups at cuts, for which there is a second extraction, compiled when it is needed."""
    both(model, first.tokens, score="random")
    assert compiled() == [SCORE, EXTRACT]
    for seed in (1, 2, 3):
        both(model, ids(seed), score="random", seed=seed)
    assert compiled() == []


def test_pairs_share_a_program(model: Model, compiled: Compiled) -> None:
    """One for whether there is a counterfactual and a metric; which texts and which words they are is no part of it."""

    def pair(seed: int, *words: int) -> None:
        asked = jstrace.logit_difference(*words)
        both(model, ids(seed), counterfactual=ids(seed + 50), metric=asked, score="gradient")

    pair(0, 1, 2)
    assert stages_of(compiled()).keys() >= {SCORE, EVALUATE}
    pair(1, 3, 4)
    assert compiled() == []


@pytest.mark.usefixtures("first")
def test_lists_of_any_length_share_a_program(model: Model, compiled: Compiled) -> None:
    """On a CPU every input has a call of its own; elsewhere calls have a power of two of rows."""
    for count in range(1, 10):
        both(model, [ids(seed, 9 + seed % 8) for seed in range(count)])
    assert collections.Counter(compiled()) == {SCORE: 1, EXTRACT: 1, EVALUATE: 1}


@pytest.mark.usefixtures("first")
def test_calls_of_several_inputs_have_few_row_counts(
    model: Model, compiled: Compiled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "ON_A_CPU", 4)
    for count in range(1, 10):
        both(model, [ids(seed, 17 + seed % 8) for seed in range(count)])
    assert collections.Counter(compiled()) == {SCORE: 3, EXTRACT: 3, EVALUATE: 3}


@pytest.mark.parametrize("score", ["l1", "random", "gradient", "rounds", jstrace.Fitted(steps=2, polish=1)])
def test_results_do_not_depend_on_company(model: Model, score: Any) -> None:
    """The same strata and measures, to the bit, alone, in a list and in a stream."""
    rows = [ids(seed, n_tokens) for seed, n_tokens in ((0, 7), (1, 8), (2, 5), (3, 12))]
    listed = jstrace.trace(model, rows, score=score, sizes=SIZES)
    alone = [jstrace.trace(model, row, score=score, sizes=SIZES) for row in rows]
    assert listed == alone == [*jstrace.trace_iter(model, rows, score=score, sizes=SIZES, chunk=3)]
    assert jstrace.evaluate(model, listed) == [jstrace.evaluate(model, trace) for trace in alone]
