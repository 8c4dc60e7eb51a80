"""Edge scores fitted by gradient to one input, nested over all sizes (section 8 of the method).

Every edge has a logit, made of its own number and of factors that it shares with others. At every step soft masks of
two sizes are made of the same logits, and Adam follows the gradient of KL(target || masked) in them; the least size
falls while it goes on, so that one order serves all sizes. What is first then is fitted once more by itself, all other
edges ablated: the masks of few edges, which the soft tails of the many blur.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from jstrace.method.scores.budgets import extremes, largest, soft_mask, total
from jstrace.method.scores.gradients import GradientScore, Pass, as_floats, check_count, kl, name_variant
from jstrace.method.scores.rounds import Rounds
from jstrace.method.search.ordering import log_ranks, marked
from jstrace.models import EdgeTree, InputError, Replacement, hidden_states
from jstrace.models.edges import EDGE_KINDS
from jstrace.models.platforms import seeded, usual_promotion

_LIMIT = 80.0
"""Of logits, whose exponents are the scores."""

_POSITIVE = (
    *("smallest", "largest", "scale", "rate", "last_rate", "temperature", "last_temperature", "cap", "fall"),
    *("polish_rate", "polish_temperature"),
)
_NUMBERS = (int, float, np.integer, np.floating)

_MOST = 0.4
"""The most that is drawn, a share of all edges."""
_INSIDE, _LOW, _HIGH = 5.0, 0.5, 4.0
"""The edges that are fitted once more, and the sizes at which they are, in units of the least size."""

_START = Rounds(cuts=10, weight=0.25, last_temperature=0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Logits:
    """What is learned: a number for every edge, and factors that edges share."""

    own: EdgeTree
    factors: dict[str, Array]

    def summed(self) -> EdgeTree:
        """The logit of every edge."""
        if not self.factors:
            return self.own
        f, logits = self.factors, {}
        for kind, own in self.own.items():
            if kind == "attn":
                head = f["head"][:, :, None, None] + f["target"][:, :, :, None] + f["source"][:, :, None, :]
                logits[kind] = own + head + f["layer_source"][:, None, None, :] + f["attn"]
            else:
                logits[kind] = own + f[f"{kind}_layer"][:, None] + f[kind]
        return EdgeTree(**logits)

    @staticmethod
    def of(own: EdgeTree, *, factors: bool) -> _Logits:
        """Factors start at zero."""
        layers, heads, n_tokens = own.attn.shape[:3]
        shapes: dict[str, tuple[int, ...]] = {
            "head": (layers, heads),
            "target": (layers, heads, n_tokens),
            "source": (layers, heads, n_tokens),
            "layer_source": (layers, n_tokens),
        }
        shapes |= dict.fromkeys(EDGE_KINDS, ()) | {f"{kind}_layer": (layers,) for kind in EDGE_KINDS if kind != "attn"}
        return _Logits(own, {name: jnp.zeros(shape) for name, shape in shapes.items()} if factors else {})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fitting:
    """A fit between two steps."""

    own: Float32[Array, "*A V"]
    """Log-probabilities of the model's own prediction."""
    cap: Float32[Array, "*B"]
    logits: _Logits
    moments: Any
    """Adam's."""
    before: EdgeTree | None = None
    """The logits before the polish, once that has begun."""


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Scores fitted to the input: ``2 * (steps + polish)`` forward and backward passes after those of ``start``.

    Where random replacements are asked for (``Pass.others``), every mask has the states of another place of them.

    Examples:
      >>> quick = jstrace.Fitted(steps=2, polish=0, start=jstrace.RelP())
      >>> jstrace.trace(model, text, score=quick).score
      'fitted-steps-2-start-relp-polish-0'
    """

    steps: int = 100
    smallest: float = 0.005
    """Least size, a share of all edges, that is fitted."""
    start: GradientScore = _START
    """The order at the first step."""
    scale: float = 1.2
    """Logits at the first step, for each e-fold of rank."""
    rate: float = 0.15
    last_rate: float = 0.015
    temperature: float = 0.5
    last_temperature: float = 0.1
    largest: float = 0.3
    """Least size at the first step."""
    fall: float = 5.0
    """E-folds by which the least size falls from the first step to the last."""
    cap: float = 8.0
    """Of the KL of one mask, in nats above that of the model's own prediction from what it is told."""
    factors: bool = True
    polish: int = 40
    """Steps in which the first edges, five times the least size, are fitted by themselves at sizes around it."""
    polish_rate: float = 0.05
    """At the first of these steps; a tenth of it at the last."""
    polish_temperature: float = 0.03
    """At the last of these steps."""
    name: str = "fitted"

    alone = True
    """On a CPU inputs are fitted one at a time: what a stop costs is one of them. Accelerators take some together."""
    draws = True
    """Under "resample" it draws other texts' states anew at every step."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
          InputError: with the first of them.
        """
        check_count("steps", self.steps)
        if isinstance(self.polish, bool) or not isinstance(self.polish, int | np.integer) or self.polish < 0:
            raise InputError(f"polish = {self.polish!r:.60}, expected a number of steps, 0 for none")
        for name in _POSITIVE:
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, _NUMBERS) or not 1e-6 <= number <= 1e6:
                raise InputError(f"{name} = {number!r:.60}, expected a positive number")
        if not self.smallest <= self.largest <= 1:
            raise InputError(f"fitted from {self.largest} to {self.smallest}: expected 1 >= largest >= smallest > 0")
        if not isinstance(self.factors, bool):
            raise InputError(f"factors = {self.factors!r:.60}, expected True or False")
        if isinstance(self.start, type) or not callable(getattr(self.start, "edge_scores", None)):
            raise InputError(f"start is {self.start!r:.60}, expected a jstrace.GradientScore")
        name_variant(self, "fitted")

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``; who tells how far it is calls the parts one by one."""
        state = self.advance(forward, self.begin(forward), 0, self.steps)
        if self.polish:
            state = self.advance(forward, self.turn(forward, state), 0, self.polish)
        return self.finish(forward, state)

    @usual_promotion()
    def begin(self, forward: Pass) -> Fitting:
        """Before the first step: the start's order."""
        slots = forward.slots()
        own = jax.nn.log_softmax(forward.logits(as_floats(slots)))
        # From the model's own prediction on: a target further away than the cap would have no gradient, and a control
        # that nothing was told would pass for one that nothing can reach.
        cap = self.cap + kl(own if forward.target is None else forward.target, own)
        first = jax.tree.map(lambda x: self.scale * x, log_ranks(self.start.edge_scores(forward), slots))
        logits = _Logits.of(first, factors=self.factors)
        return Fitting(own, cap, logits, self._rates(polishes=False).init(logits))

    @usual_promotion()
    def advance(self, forward: Pass, state: Fitting, first: Array | int, stop: Array | int) -> Fitting:
        """After the steps from ``first`` to ``stop``, of ``steps``, or past ``turn`` of ``polish``."""
        fit = _Fit.of(forward, state)
        if state.before is None:
            return fit.followed(state, fit.slots, self._rates(polishes=False), self._course(), (first, stop))
        held = self._inside(fit, state.before)
        return fit.followed(state, held, self._rates(polishes=True), self._last_course(), (first, stop))

    @usual_promotion()
    def turn(self, forward: Pass, state: Fitting) -> Fitting:
        """From the last of ``steps`` to before the first of ``polish``."""
        before = state.logits.summed()
        logits = _Logits.of(jax.tree.map(jnp.copy, before), factors=False)  # which a program may write over
        return Fitting(state.own, state.cap, logits, self._rates(polishes=True).init(logits), before)

    @usual_promotion()
    def finish(self, forward: Pass, state: Fitting) -> EdgeTree:
        """The scores. Edges that were polished stay above all others."""
        fit, logits = _Fit.of(forward, state), state.logits.summed()
        if state.before is not None:
            inside = self._inside(fit, state.before)
            outside = jax.tree.map(lambda slot, first: slot & ~first, fit.slots, inside)
            above = extremes(marked(state.before, outside))[1] - extremes(marked(logits, inside))[0]
            lift = jnp.maximum(above + 1, 0)  # none where no edge is outside
            logits = jax.tree.map(lambda first, x, y: jnp.where(first, x + lift, y), inside, logits, state.before)
        edge_logits = jax.tree.map(lambda x, slot: jnp.where(slot, x, 0), logits, fit.slots)
        return jax.tree.map(lambda x: jnp.exp(jnp.clip(x, -_LIMIT, _LIMIT)), edge_logits)

    def _inside(self, fit: _Fit, logits: EdgeTree) -> EdgeTree:
        """The first edges, which are polished."""
        n_inside = jnp.floor(min(1.0, _INSIDE * self.smallest) * fit.n_edges).astype(jnp.int32)
        return largest(marked(logits, fit.slots), jnp.maximum(n_inside, 1))

    def _rates(self, *, polishes: bool) -> Any:
        """Adam at the rates of the steps, or of the polish."""
        steps, polish = (self.rate, self.steps, self.last_rate / self.rate), (self.polish_rate, self.polish, 0.1)
        return optax.adam(optax.cosine_decay_schedule(*(polish if polishes else steps)))

    def _course(self) -> _At:
        """What changes from step to step: the least size falls, and another is drawn above it."""
        done = np.arange(self.steps) / self.steps
        least = np.maximum(self.largest * np.exp(-self.fall * done), self.smallest)
        temperature = self.temperature * (self.last_temperature / self.temperature) ** done
        return _At.of(0, (least, least), (least, np.maximum(least, _MOST)), temperature)

    def _last_course(self) -> _At:
        """The same of the polish: both sizes are drawn around the least."""
        done = np.arange(self.polish) / self.polish
        temperature = self.last_temperature * (self.polish_temperature / self.last_temperature) ** done
        low, high = (np.full(self.polish, min(1.0, times * self.smallest)) for times in (_LOW, _HIGH))
        return _At.of(self.steps, (low, low), (high, high), temperature)


@dataclasses.dataclass(frozen=True, eq=False)
class _Fit:
    """What is fitted to."""

    one: Pass
    slots: EdgeTree
    n_edges: Float32[Array, ""]
    target: Float32[Array, "*A V"]
    cap: Float32[Array, ""]

    @staticmethod
    def of(forward: Pass, state: Fitting) -> _Fit:
        """The rest of it is known from the input."""
        slots, target = forward.slots(), state.own if forward.target is None else forward.target
        return _Fit(forward, slots, total(as_floats(slots)), target, state.cap)

    def followed(self, state: Fitting, held: EdgeTree, optimiser: Any, course: _At, span: tuple[Any, Any]) -> Fitting:
        """After some steps along a course, with every edge ablated that is not held."""

        def step(index: Array | int, state: tuple[_Logits, Any]) -> tuple[_Logits, Any]:
            gradient = jax.grad(self._loss)(state[0], held, jax.tree.map(lambda x: x[index], course))
            updates, moments = optimiser.update(gradient, state[1])
            return optax.apply_updates(state[0], updates), moments

        logits, moments = jax.lax.fori_loop(span[0], span[1], step, (state.logits, state.moments))
        return dataclasses.replace(state, logits=logits, moments=moments)

    def _loss(self, logits: _Logits, held: EdgeTree, at: _At) -> Array:
        """KL of the target from the predictions under two masks, in nats, each at most the cap."""
        values = marked(logits.summed(), held)
        sizes, replaced = self._drawn(at)

        def under(size: Array, replace: Replacement | None) -> Array:
            mask = soft_mask(values, jnp.maximum(jnp.floor(size * self.n_edges), 1), at.temperature)
            return jnp.minimum(kl(self.target, self.one._replace(replace=replace).logits(mask)), self.cap)

        shared = None if self.one.others is None else 0
        return jnp.mean(jax.vmap(under, in_axes=(0, shared))(sizes, replaced))

    def _drawn(self, at: _At) -> tuple[Float32[Array, "2"], Any]:
        """Two sizes, and what ablated edges carry under each."""
        forward = self.one
        size_key, place_key = jax.random.split(jax.random.fold_in(seeded(forward.seed), at.index))
        sizes = at.low * jnp.exp(jax.random.uniform(size_key, (2,)) * jnp.log(at.high / at.low))
        if forward.others is None:
            return sizes, forward.replace
        n_tokens = forward.tokens.shape[0]
        places = jax.random.randint(place_key, (2,), 0, forward.others.shape[0] - n_tokens + 1)
        others = forward.others
        windows = jax.vmap(lambda place: jax.lax.dynamic_slice(others, (place,), (n_tokens,)))(places)
        return sizes, jax.lax.stop_gradient(jax.vmap(lambda window: hidden_states(forward.decoder, window))(windows))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _At:
    """One step, or all of them on a leading axis: of two masks the sizes are drawn log-uniform from low to high."""

    index: Array
    low: Float[Array, "*N 2"]
    high: Float[Array, "*N 2"]
    temperature: Float[Array, "*N"]

    @staticmethod
    def of(first: int, low: Any, high: Any, temperature: np.ndarray) -> _At:
        """From steps numbered from ``first`` on and a sequence for each mask."""
        floats = [jnp.asarray(x, jnp.float32) for x in (np.stack(low, -1), np.stack(high, -1), temperature)]
        return _At(first + jnp.arange(len(temperature)), *floats)
