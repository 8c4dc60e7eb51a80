"""``jstrace.train_scorer``: a learned edge score, fitted to what the predictions of texts need (section 8)."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32

from jstrace.method.conditions import REPLACEMENTS, checked_seed
from jstrace.method.naming import NAMES, SCORE_NAMES
from jstrace.method.scores import linear
from jstrace.method.scores.gradients import Pass, check_count, kl
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.linear import FEATURES, Coefficients
from jstrace.models import AnyArray, Decoder, InputError, Model, Replacement, hidden_states
from jstrace.models.fingerprints import fingerprint
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.course import COURSES, Course, Draw, Known, draws, known_of
from jstrace.pipeline.inputs import Tokens, listed, token_ids
from jstrace.pipeline.progress import FitReport, fit_reported
from jstrace.pipeline.replacing import Reference, named
from jstrace.scale import batching, meshes

LEAST_TEXTS = 4
"""Fewer texts teach a scorer nothing but themselves."""
_DTYPES = ("float32", "bfloat16", "float16")
"""A model whose weights are the same in one of them is the one that the scorer was fitted to."""


def train_scorer(
    model: Model,
    texts: Sequence[Tokens],
    *,
    features: str = "rounds",
    replace: str | Sequence[str] = ("mean", "resample"),
    reference: Reference = None,
    steps: int = 240,
    batch: int = 2,
    seed: int = 0,
    shared: bool = False,
    name: str = "scorer",
    progress: FitReport | bool | None = None,
) -> Scorer:
    """Fit a learned edge score to one model: minimise KL(full || masked) of texts under masks of drawn sizes.

    The masks are soft and sum to the size (``budgets.soft_mask``); sizes fall while it goes on. Features of all texts
    are computed once and held on the host, two bytes for each feature and each edge of the longest text.

    Args:
      model: from ``jstrace.load``.
      texts: texts, or token ids: some thirty of the kind and length that will be traced.
      features: what it reads of an edge: "activations" (one forward pass), "gradient" (also one gradient) or "rounds"
        (also the order that ``Rounds`` finds, and its gradients at some cuts).
      replace: what ablated edges carry: any of "zero", "mean" and "resample" (the states of another place of the
        texts), drawn anew for every text of a step. Features are read under means, or under "zero" where that is all.
      reference: texts that means are made of, instead of those that come with jstrace.
      steps: of Adam.
      batch: texts of one step.
      seed: of all draws.
      shared: one coefficient for all layers and heads, so that the scorer serves any model.
      name: what tables call it.
      progress: True for a bar on standard error, or a function (``FitReport``).

    Examples:
      >>> scorer = jstrace.train_scorer(model, texts, features="activations", steps=2)
      >>> jstrace.trace(model, text, score=scorer).score
      'scorer'

    Raises:
      InputError: too few texts, texts that cannot be tokenised, arguments that make no sense, or a loss that is not
        finite.
    """
    rows, names = _checked_rows(model, texts), checked_names(replace)
    _check_options(features, name, shared, {"steps": steps, "batch": batch})
    if reference is not None and names == ("zero",):
        raise InputError("reference has texts for means: give replace mean or resample, too, or leave reference out")
    mean, longest = _mean(model, reference), max(map(len, rows))
    start = linear.initial(model.config, features, longest, shared=shared)
    course, rng = dataclasses.replace(COURSES[features], steps=steps), np.random.default_rng(checked_seed(seed))
    drawn = draws(rows, batching.bucket(longest), names, course, batch, rng)
    with fit_reported(progress) as report:
        known = known_of(model, rows, features, None if names == ("zero",) else mean, report)
        coefficients = fitted(model, known, start, mean, course, drawn, report)
    marks = () if shared else tuple(fingerprint(model.decoder, jnp.dtype(dtype)) for dtype in _DTYPES)
    return Scorer(coefficients, features, marks, name)


def fitted(
    model: Model,
    known: Sequence[Known],
    start: Coefficients,
    mean: Replacement,
    course: Course,
    drawn: Iterator[tuple[list[int], Draw]],
    report: FitReport | None = None,
) -> Coefficients:
    """Coefficients after all steps; ``drawn`` has the texts of each, and what is drawn for them.

    Raises:
      InputError: the loss, or what was learned, is not finite.
    """
    coefficients = jax.tree.map(np.asarray, start)
    state = jax.tree.map(np.asarray, course.optimiser.init(coefficients))
    for step, (texts, draw) in enumerate(drawn):
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(known[index] for index in texts))
        temperature = np.float32(course.at(step)[1])
        # What is learned is small, and comes from the host at every step: so one program serves all of them.
        coefficients, state, value = meshes.fetched(
            _step(model.decoder, coefficients, state, batch, draw, mean, temperature, course=course, mesh=model.mesh)
        )
        # Where logits are NaN no edge is kept, so that the loss alone could still be a number.
        if not all(np.isfinite(leaf).all() for leaf in (value, *jax.tree.leaves(coefficients))):
            raise InputError(f"step {step} of the fit is not finite; try dtype float32")
        if report is not None:
            report(step + 1, course.steps, float(value))
    return coefficients


@functools.partial(jax.jit, static_argnames=("course", "mesh"))
@usual_promotion()
def _step(
    decoder: Decoder, coefficients: Coefficients, state: Any, known: Known, draw: Draw, mean: Replacement,
    temperature: Float32[AnyArray, ""], *, course: Course, mesh: Mesh | None = None,
) -> tuple[Coefficients, Any, Float32[Array, ""]]:  # fmt: skip
    """One step of Adam over a batch of texts; on a mesh every device along ``data`` takes its own."""
    run = meshes.over_inputs(functools.partial(_learned, cap=course.cap), mesh, draw.others.shape[0])
    values, gradients = run((decoder, coefficients, mean, temperature), known, draw)
    gradient = ravel_pytree(coefficients)[1](jnp.mean(gradients, axis=0))  # as one array: one sum over ``data``
    updates, state = course.optimiser.update(gradient, state)
    return optax.apply_updates(coefficients, updates), state, jnp.mean(values)


def _learned(
    whole: tuple[Decoder, Coefficients, Replacement, Array], known: Known, draw: Draw, *, cap: float
) -> tuple[Float32[Array, "B"], Float32[Array, "B P"]]:
    """The loss of each text, KL(full || masked) in nats, capped, and its gradient in all coefficients."""
    decoder, coefficients, mean, temperature = whole
    wide = mean.spread(draw.others.shape[1])

    def loss(coefficients: Coefficients, known: Known, draw: Draw) -> Array:
        states = hidden_states(decoder, draw.others)
        blend = functools.partial(_blended, draw.shares)
        forward = Pass(decoder, known.tokens, known.length, jax.tree.map(blend, wide, states), known.target)
        features = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), known.features)
        mask = linear.mask(coefficients, forward, features, size=draw.sizes, temperature=temperature)
        # Divided over ``model``, sums of the mask and of the other text's states would not wait for each other. The
        # devices of a CPU take such sums in any order, and with few threads all end up waiting, each in another sum.
        return jnp.minimum(kl(known.target, forward.logits(meshes.whole_along_model(mask))), cap)

    def each(known: Known, draw: Draw) -> tuple[Array, Array]:
        value, gradient = jax.value_and_grad(loss)(coefficients, known, draw)
        return value, ravel_pytree(gradient)[0]

    return jax.vmap(each)(known, draw)


def _blended(shares: Float[Array, "2"], mean: Array, states: Array) -> Array:
    """The means, the states, or nothing."""
    return (shares[0] * mean + shares[1] * states).astype(mean.dtype)


def _checked_rows(model: Model, texts: Any) -> list[np.ndarray]:
    """Token ids of every text."""
    single, rows = listed(model, texts)
    if single or len(rows) < LEAST_TEXTS:
        given = "one text" if single else f"{len(rows)} texts"
        raise InputError(f"{given}: a scorer is fitted to a list of at least {LEAST_TEXTS}")
    return [token_ids(model, row, f"text {index}: ") for index, row in enumerate(rows)]


def _check_options(features: Any, name: Any, shared: Any, counts: Mapping[str, Any]) -> None:
    if features not in FEATURES:
        raise InputError(f"features = {features!r}, expected one of {', '.join(FEATURES)}")
    check_name(name)
    if not isinstance(shared, bool):
        raise InputError(f"shared = {shared!r}, expected True or False")
    for what, count in counts.items():
        check_count(what, count)


def check_name(name: Any) -> None:
    """Refuse what a scorer cannot be called.

    Raises:
      InputError: with what it can.
    """
    if not isinstance(name, str) or not re.fullmatch(NAMES, name) or name in SCORE_NAMES:
        raise InputError(f"name = {name!r:.60}, expected letters, digits and any of _*+-, and no built-in score's name")


def checked_names(replace: Any) -> tuple[str, ...]:
    """What ablated edges carry during a fit: names of replacements, each once.

    Raises:
      InputError: with those there are.
    """
    names = (replace,) if isinstance(replace, str) else replace
    if not isinstance(names, Sequence) or not names or {*names} - {*REPLACEMENTS} or len({*names}) < len(names):
        raise InputError(f"replace = {replace!r}, expected some of {', '.join(REPLACEMENTS)}, each once")
    return tuple(names)


def _mean(model: Model, reference: Reference) -> Replacement:
    """The means, which features are taken under, too."""
    mean = named(model, "mean", reference)[1].first("mean", 0)
    assert mean is not None
    return mean
