"""``jstrace.train_scorer``: a learned edge score, fitted to what the predictions of texts need (section 8)."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int

from jstrace.method.conditions import NAMES, REPLACEMENTS, SCORE_NAMES, checked_seed
from jstrace.method.graph import full_graph
from jstrace.method.graph.full_graph import edge_slot_count
from jstrace.method.scores import learned as method
from jstrace.method.scores.gradients import Pass, check_count, kl
from jstrace.method.scores.learned import FEATURES, Coefficients, Scorer
from jstrace.models import AnyArray, Decoder, EdgeTree, InputError, Model, Replacement, hidden_states
from jstrace.models.fingerprints import fingerprint
from jstrace.models.memory import free_memory
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.footprint import gradient_bytes
from jstrace.pipeline.inputs import Tokens, listed, token_ids
from jstrace.pipeline.replacing import Reference, named
from jstrace.scale import batching, memory, meshes

LEAST_TEXTS = 4
"""Fewer texts teach a scorer nothing but themselves."""

FitProgress = Callable[[int, int, float | None], None]
"""Called with the steps done, all steps, and the loss of the last one in nats; while features are computed, with the
texts done, all texts and None."""


@dataclasses.dataclass(frozen=True)
class _Course:
    """How a fit goes: what was found to work (docs/scores.md)."""

    steps: int
    rate: float
    largest: float = 0.4
    """Budgets, shares of all edges, are drawn log-uniform between the least so far and this."""
    start: float = 0.3
    """The least budget at the first step."""
    smallest: float = 0.03
    """And at the last."""
    fall: float = 2.4
    """By so many e-folds the least budget falls from the first step to the last."""
    temperature: float = 1.0
    last_temperature: float = 0.2
    cap: float = 30.0
    """Of the KL of one text, in nats; a lower one kills the gradient of a bad start."""

    def at(self, step: int) -> tuple[float, float]:
        """The least budget so far, and the temperature of the masks."""
        done = step / self.steps
        least = max(self.start * math.exp(-self.fall * done), self.smallest)
        return least, self.temperature * (self.last_temperature / self.temperature) ** done

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Adam, whose rate falls to nothing by a cosine."""
        return optax.adam(optax.cosine_decay_schedule(self.rate, self.steps))


class Known(NamedTuple):
    """A text with what does not change while coefficients are fitted; padded."""

    tokens: Int[AnyArray, "*B T"]
    length: Int[AnyArray, "*B"]
    features: tuple[EdgeTree, ...]
    """In float16."""
    target: Float32[AnyArray, "*B V"]
    """Log-probabilities of the full pass."""


class _Draw(NamedTuple):
    """What is drawn for each text of a step."""

    others: Int[AnyArray, "B T"]
    """Tokens of another place of the texts."""
    shares: Float[AnyArray, "B 2"]
    """Of the means and of the other place's states in what ablated edges carry."""
    sizes: Float[AnyArray, "B"]


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
    progress: FitProgress | None = None,
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
      progress: see ``FitProgress``.

    Raises:
      InputError: too few texts, texts that cannot be tokenised, arguments that make no sense, or a loss that is not
        finite.
    """
    rows, names = _checked_rows(model, texts), _checked_names(replace)
    if features not in FEATURES:
        raise InputError(f"features = {features!r}, expected one of {', '.join(FEATURES)}")
    check_name(name)
    if not isinstance(shared, bool):
        raise InputError(f"shared = {shared!r}, expected True or False")
    for what, number in (("steps", steps), ("batch", batch)):
        check_count(what, number)
    course = dataclasses.replace(_COURSES[features], steps=steps)
    mean = _mean(model, reference)
    known = known_of(model, rows, features, None if names == ("zero",) else mean, progress)
    longest = max(map(len, rows))
    start = method.initial(model.config, features, longest, shared=shared)
    draws = _draws(rows, batching.bucket(longest), names, course, batch, np.random.default_rng(checked_seed(seed)))
    found = fitted(model, known, start, mean, course, draws, progress)
    marks = () if shared else tuple(fingerprint(model.decoder, jnp.dtype(each)) for each in _DTYPES)
    return Scorer(found, features, marks, name)


_DTYPES = ("float32", "bfloat16", "float16")
"""A model whose weights are the same in one of them is the one that the scorer was fitted to."""

_COURSES = {
    "activations": _Course(steps=0, rate=0.03),
    "gradient": _Course(steps=0, rate=0.03),
    "rounds": _Course(steps=0, rate=0.03, smallest=0.01, fall=4.0, temperature=0.5, last_temperature=0.15),
}


def known_of(
    model: Model,
    rows: Sequence[np.ndarray],
    features: str,
    replace: Replacement | None,
    progress: FitProgress | None = None,
) -> list[Known]:
    """Features and predictions of texts, all padded to one length, on the host; edges carry ``replace`` meanwhile."""
    width, found = batching.bucket(max(map(len, rows))), list[Known]()
    _check_room(model, rows, width, features)
    each = gradient_bytes(model.config, width, model.dtype.itemsize)
    size = memory.batch_inputs(model.decoder, width, each, n_masks=2, alone=True)
    for start in range(0, len(rows), size):
        tokens, lengths = batching.padded(rows[start : start + size], width, size)
        program = _known_program(model.decoder, tokens, lengths, replace, features=features)
        together = jax.tree.map(np.asarray, Known(tokens, lengths, *program))
        found += [jax.tree.map(lambda leaf, i=i: leaf[i], together) for i in range(len(rows[start : start + size]))]
        _check_finite(found[start:], start)
        if progress is not None:
            progress(len(found), len(rows), None)
    return found


def _check_finite(known: Sequence[Known], first: int) -> None:
    """Refuse features that are not finite.

    Raises:
      InputError: with the number of the text; ``first`` is that of the first of them.
    """
    for index, one in enumerate(known):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one)):
            what = f"text {first + index}: its forward pass or its features are not finite"
            raise InputError(f"{what}; try dtype float32")


def fitted(
    model: Model,
    known: Sequence[Known],
    start: Coefficients,
    mean: Replacement,
    course: _Course,
    draws: Iterator[tuple[list[int], _Draw]],
    progress: FitProgress | None = None,
) -> Coefficients:
    """Coefficients after all steps; ``draws`` has the texts of each, and what is drawn for them.

    Raises:
      InputError: the loss, or what was learned, is not finite.
    """
    coefficients = jax.tree.map(np.asarray, start)
    state = jax.tree.map(np.asarray, course.optimiser.init(coefficients))
    for step, (texts, draw) in enumerate(draws):
        together = jax.tree.map(lambda *leaves: np.stack(leaves), *(known[index] for index in texts))
        temperature = np.float32(course.at(step)[1])
        # What is learned is small, and comes from the host at every step: so one program serves all of them.
        coefficients, state, value = meshes.fetched(
            _step(model.decoder, coefficients, state, together, draw, mean, temperature, course=course, mesh=model.mesh)
        )
        # Where logits are NaN no edge is kept, so that the loss alone could still be a number.
        if not all(np.isfinite(leaf).all() for leaf in (value, *jax.tree.leaves(coefficients))):
            raise InputError(f"step {step} of the fit is not finite; try dtype float32")
        if progress is not None:
            progress(step + 1, course.steps, float(value))
    return coefficients


def _check_room(model: Model, rows: Sequence[np.ndarray], width: int, features: str) -> None:
    """Refuse texts whose features memory cannot hold.

    Raises:
      InputError: with the longest of them, which all are padded to.
    """
    full_graph.check_slots(model.config, width, batching.bucket)
    needed = 2 * len(rows) * method.n_features(features) * edge_slot_count(model.config, width)
    room = free_memory()
    if room is not None and needed > room:
        longest = int(np.argmax([len(row) for row in rows]))
        raise InputError(
            f"features of {len(rows)} texts need {needed / 1e9:.1f} GB, {room / 1e9:.1f} GB are there; all are"
            f" padded to the longest, text {longest} of {len(rows[longest])} tokens"
        )


# --- draws ----------------------------------------------------------------------------------------------------------


def _shuffled(rng: np.random.Generator, n_texts: int) -> Iterator[int]:
    """Every text once, in a new order each time."""
    while True:
        yield from map(int, rng.permutation(n_texts))


def _draws(
    rows: Sequence[np.ndarray],
    width: int,
    names: Sequence[str],
    course: _Course,
    batch: int,
    rng: np.random.Generator,
) -> Iterator[tuple[list[int], _Draw]]:
    """The texts of every step, and what is drawn for them."""
    stream, order = np.concatenate(rows), _shuffled(rng, len(rows))
    stream = np.resize(stream, max(len(stream), 2 * width))
    starts = np.cumsum([0, *map(len, rows)]).tolist()
    for step in range(course.steps):
        texts = [next(order) for _ in range(batch)]
        least, _ = course.at(step)
        sizes = np.exp(rng.uniform(np.log(least), np.log(course.largest), batch))
        drawn = [names[i] for i in rng.integers(0, len(names), batch)]
        shares = np.asarray([[name == "mean", name == "resample"] for name in drawn], np.float32)
        places = [_elsewhere(stream, width, starts[text], starts[text + 1], rng) for text in texts]
        yield texts, _Draw(np.stack(places), shares, sizes.astype(np.float32))


def _elsewhere(stream: np.ndarray, width: int, first: int, end: int, rng: np.random.Generator) -> np.ndarray:
    """Tokens of another place than those from ``first`` to ``end``; of few texts, any place."""
    every = np.arange(len(stream) - width + 1)
    apart = every[(every + width <= first) | (every >= end)]
    at = int(rng.choice(apart if len(apart) else every))
    return stream[at : at + width]


# --- programs -------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="features")
@usual_promotion()
def _known_program(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    replace: Replacement | None,
    *,
    features: str,
) -> tuple[tuple[EdgeTree, ...], Float32[Array, "B V"]]:
    def one(tokens: Array, length: Array) -> tuple[tuple[EdgeTree, ...], Array]:
        found, target = method.features_of(Pass(decoder, tokens, length, replace), features)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float16), found), target

    return jax.vmap(one)(tokens, lengths)


@functools.partial(jax.jit, static_argnames=("course", "mesh"))
@usual_promotion()
def _step(
    decoder: Decoder, coefficients: Coefficients, state: Any, known: Known, draw: _Draw, mean: Replacement,
    temperature: Float32[AnyArray, ""], *, course: _Course, mesh: Mesh | None = None,
) -> tuple[Coefficients, Any, Float32[Array, ""]]:  # fmt: skip
    """One step of Adam over a batch of texts; on a mesh every device along ``data`` takes its own."""
    run = meshes.over_inputs(functools.partial(_learned, cap=course.cap), mesh, draw.others.shape[0])
    values, gradients = run((decoder, coefficients, mean, temperature), known, draw)
    gradient = ravel_pytree(coefficients)[1](jnp.mean(gradients, axis=0))  # as one array: one sum over ``data``
    updates, state = course.optimiser.update(gradient, state)
    return optax.apply_updates(coefficients, updates), state, jnp.mean(values)


def _learned(
    whole: tuple[Decoder, Coefficients, Replacement, Array], known: Known, draw: _Draw, *, cap: float
) -> tuple[Float32[Array, "B"], Float32[Array, "B P"]]:
    """The loss of each text, KL(full || masked) in nats, capped, and its gradient in all coefficients."""
    decoder, coefficients, mean, temperature = whole
    wide = mean.spread(draw.others.shape[1])

    def loss(coefficients: Coefficients, known: Known, draw: _Draw) -> Array:
        states = hidden_states(decoder, draw.others)
        blend = functools.partial(_blended, draw.shares)
        one = Pass(decoder, known.tokens, known.length, jax.tree.map(blend, wide, states), known.target)
        features = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), known.features)
        mask = method.mask(coefficients, one, features, size=draw.sizes, temperature=temperature)
        # Divided over ``model``, sums of the mask and of the other text's states would not wait for each other. The
        # devices of a CPU take such sums in any order, and with few threads all end up waiting, each in another sum.
        return jnp.minimum(kl(known.target, one.logits(meshes.whole_along_model(mask))), cap)

    def each(known: Known, draw: _Draw) -> tuple[Array, Array]:
        value, gradient = jax.value_and_grad(loss)(coefficients, known, draw)
        return value, ravel_pytree(gradient)[0]

    return jax.vmap(each)(known, draw)


def _blended(shares: Float[Array, "2"], mean: Array, states: Array) -> Array:
    """The means, the states, or nothing."""
    return (shares[0] * mean + shares[1] * states).astype(mean.dtype)


# --- checks ---------------------------------------------------------------------------------------------------------


def _checked_rows(model: Model, texts: Any) -> list[np.ndarray]:
    """Token ids of every text."""
    single, rows = listed(model, texts)
    if single or len(rows) < LEAST_TEXTS:
        found = "one text" if single else f"{len(rows)} texts"
        raise InputError(f"{found}: a scorer is fitted to a list of at least {LEAST_TEXTS}")
    return [token_ids(model, row, f"text {index}: ") for index, row in enumerate(rows)]


def check_name(name: Any) -> None:
    """Refuse what a scorer cannot be called.

    Raises:
      InputError: with what it can.
    """
    if not isinstance(name, str) or not re.fullmatch(NAMES, name) or name in SCORE_NAMES:
        raise InputError(f"name = {name!r:.60}, expected letters, digits and any of _*+-, and no built-in score's name")


def _checked_names(replace: Any) -> tuple[str, ...]:
    names = (replace,) if isinstance(replace, str) else replace
    if not isinstance(names, Sequence) or not names or {*names} - {*REPLACEMENTS} or len({*names}) < len(names):
        raise InputError(f"replace = {replace!r}, expected some of {', '.join(REPLACEMENTS)}, each once")
    return tuple(names)


def _mean(model: Model, reference: Reference) -> Replacement:
    """The means, which features are taken under, too."""
    found = named(model, "mean", reference)[1].first("mean", 0)
    assert found is not None
    return found
