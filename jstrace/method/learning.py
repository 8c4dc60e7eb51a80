"""Edge scores fitted by gradient to one input, nested over all sizes (section 8 of the method).

Every edge has a logit, made of its own number and of factors that it shares with others. At every step soft masks of
two sizes are made of the same logits, and Adam follows the gradient of KL(target || masked) in them; the least size
falls while it goes on, so that one order serves all sizes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32

from jstrace.method.budgets import soft_mask, total
from jstrace.method.gradients import GradientScore, Pass, Rounds, check_count, full_mask, kl, name_variant
from jstrace.method.ranking import log_ranks
from jstrace.models import EdgeTree, InputError, Replacement, hidden_states
from jstrace.models.edges import EDGE_KINDS

_LIMIT = 80.0
"""Of logits, whose exponents are the scores."""


_POSITIVE = ["smallest", "largest", "scale", "rate", "last_rate", "temperature", "last_temperature", "cap", "fall"]
_NUMBERS = (int, float, np.integer, np.floating)

_START = Rounds(cuts=10, weight=0.25, last_temperature=0.5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Logits:
    """What is learned: a number for every edge, and factors that edges share."""

    own: EdgeTree
    factors: dict[str, Array]

    def summed(self) -> EdgeTree:
        """The logit of every edge."""
        if not self.factors:
            return self.own
        f, found = self.factors, {}
        for kind, own in self.own.items():
            if kind == "attn":
                head = f["head"][:, :, None, None] + f["target"][:, :, :, None] + f["source"][:, :, None, :]
                found[kind] = own + head + f["layer_source"][:, None, None, :] + f["attn"]
            else:
                found[kind] = own + f[f"{kind}_layer"][:, None] + f[kind]
        return EdgeTree(**found)

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


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Scores fitted to the input: ``2 * steps`` forward and backward passes after those of ``start``.

    Where random replacements are asked for (``Pass.others``), every mask has the states of another place of them.
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
    """Of the KL of one mask, in nats."""
    factors: bool = True
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

    def edge_scores(self, one: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        slots = one.slots()
        target = one.target
        if target is None:
            target = jax.nn.log_softmax(one.logits(full_mask(slots)))
        first = jax.tree.map(lambda x: self.scale * x, log_ranks(self.start.edge_scores(one), slots))
        logits = _Logits.of(first, factors=self.factors)
        n_edges = total(full_mask(slots))
        optimiser = optax.adam(optax.cosine_decay_schedule(self.rate, self.steps, self.last_rate / self.rate))

        def loss(logits: _Logits, at: _At, sizes: Float32[Array, "2"], replaced: Any) -> Array:
            values = jax.tree.map(lambda x, slot: jnp.where(slot, x, jnp.nan), logits.summed(), slots)

            def under(size: Array, replace: Replacement | None) -> Array:
                mask = soft_mask(values, jnp.maximum(jnp.floor(size * n_edges), 1), at.temperature)
                return jnp.minimum(kl(target, one._replace(replace=replace).logits(mask)), self.cap)

            shared = None if one.others is None else 0
            return jnp.mean(jax.vmap(under, in_axes=(0, shared))(sizes, replaced))

        def step(state: tuple[_Logits, Any], at: _At) -> tuple[tuple[_Logits, Any], None]:
            logits, moments = state
            sizes, replaced = self._drawn(one, at)
            gradient = jax.grad(loss)(logits, at, sizes, replaced)
            updates, moments = optimiser.update(gradient, moments)
            return (optax.apply_updates(logits, updates), moments), None

        (logits, _), _ = jax.lax.scan(step, (logits, optimiser.init(logits)), self._course())
        found = jax.tree.map(lambda x, slot: jnp.where(slot, x, 0), logits.summed(), slots)
        return jax.tree.map(lambda x: jnp.exp(jnp.clip(x, -_LIMIT, _LIMIT)), found)

    def _drawn(self, one: Pass, at: _At) -> tuple[Float32[Array, "2"], Any]:
        """The least size so far with one above it, and what ablated edges carry under each."""
        size_key, place_key = jax.random.split(jax.random.fold_in(jax.random.key(one.seed), at.index))
        above = jnp.exp(jax.random.uniform(size_key) * jnp.log(0.4 / at.least)) * at.least
        sizes = jnp.stack([at.least, jnp.maximum(above, at.least)])
        if one.others is None:
            return sizes, one.replace
        n_tokens = one.tokens.shape[0]
        places = jax.random.randint(place_key, (2,), 0, one.others.shape[0] - n_tokens + 1)
        others = one.others
        windows = jax.vmap(lambda place: jax.lax.dynamic_slice(others, (place,), (n_tokens,)))(places)
        return sizes, jax.lax.stop_gradient(jax.vmap(lambda window: hidden_states(one.decoder, window))(windows))

    def _course(self) -> _At:
        """What changes from step to step."""
        done = np.arange(self.steps) / self.steps
        least = np.maximum(self.largest * np.exp(-self.fall * done), self.smallest)
        temperature = self.temperature * (self.last_temperature / self.temperature) ** done
        return _At(
            jnp.arange(self.steps), jnp.asarray(least, jnp.float32), jnp.asarray(temperature, jnp.float32)
        )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _At:
    """One step, or all of them on a leading axis."""

    index: Array
    least: Float[Array, "*N"]
    temperature: Float[Array, "*N"]
