"""Edge scores from gradients in the mask: attribution, its integral, and rounds of it (section 8 of the method).

An edge with vector x and mask m carries ``m x + (1 - m) r``, so the gradient in m is the first-order effect of the edge
against what replaces it: attribution patching, with one backward pass for all edges.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from jstrace.method.graph import full_graph
from jstrace.method.measure.metrics import Metric
from jstrace.method.scores.measured import Norm, normalised
from jstrace.models import Decoder, EdgeTree, InputError, Replacement, clean_forward, masked_forward

LEAST_SHARE = -14.0
"""Of the logarithms of shares and of the first gradient: what is smaller is as good as zero."""
LEAST_GRADIENT = -20.0
"""Of the logarithms of later gradients."""
_TINY = 1e-30


class Pass(NamedTuple):
    """One input, with what its edges are replaced by and the prediction that is to be kept."""

    decoder: Decoder
    tokens: Int[Array, "T"]
    length: Int[Array, ""] | int
    replace: Replacement | None
    target: Float32[Array, "*A V"] | None = None
    """Log-probabilities of the prediction to keep; the model's own by default."""
    others: Int[Array, "N"] | None = None
    """Tokens of other texts, at least as many as the input's, where replacements are drawn from their states."""
    seed: Int[Array, ""] | int = 0
    """Of what a score draws."""
    metric: Metric | None = None
    """What gradients are taken of, in the place of the predicted token's logit and of KL."""
    answer: Int[Array, "A"] | None = None
    """Tokens after the last A tokens, which are outputs; logits and the target are ``[A, V]`` then."""
    relevance: bool = False
    """Whether gradients are those of relevance propagation (``masked_forward``)."""

    @property
    def n_outputs(self) -> int:
        """A, the outputs of the graph."""
        return 1 if self.answer is None else self.answer.shape[-1]

    @property
    def rows(self) -> int | None:
        """Of logits, where they have an axis of outputs."""
        return None if self.answer is None else self.n_outputs

    def slots(self) -> EdgeTree:
        """Which slots are edges."""
        return full_graph.edge_slots(
            self.decoder.config, self.tokens.shape[0], self.length, n_outputs=self.n_outputs
        )  # fmt: skip

    def logits(self, mask: EdgeTree) -> Float32[Array, "*A V"]:
        """The prediction under a soft mask; only the residual stream is kept for its backward pass."""
        return masked_forward(
            self.decoder, self.tokens, mask, replace=self.replace, length=self.length, remat=True, n_outputs=self.rows,
            relevance=self.relevance,
        )  # fmt: skip

    def asked(self, logits: Float32[Array, "*A V"], token: Int[Array, ""] | int) -> Float32[Array, ""]:
        """What gradients are of: the metric, the logits of the answer, each at its output, or a token's logit."""
        if self.metric is not None:
            return self.metric(logits)
        if self.answer is not None:
            return jnp.sum(jnp.take_along_axis(logits, self.answer[:, None], axis=-1))
        return logits[token]


@runtime_checkable
class GradientScore(Protocol):
    """An edge score that needs whole passes of its own rather than one edge's vector; hashable, compared by value.

    Examples:
      >>> isinstance(jstrace.RelP(), jstrace.GradientScore)
      True
    """

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """Scores of every edge, float32; what stands in slots that are no edge is not read."""
        ...


def as_floats(slots: EdgeTree) -> EdgeTree:
    """A mask as floats, for gradients in it."""
    return jax.tree.map(lambda slot: slot.astype(jnp.float32), slots)


def logit_gradient(forward: Pass, mask: EdgeTree, token: Int[Array, ""] | int) -> EdgeTree:
    """d logit of a token / d mask, or of all of an answer's; where there is a metric, d metric / d mask."""
    return jax.grad(lambda mask: forward.asked(forward.logits(mask), token))(mask)


def loss_gradient(forward: Pass, mask: EdgeTree, target: Float32[Array, "*A V"]) -> EdgeTree:
    """d KL(target || prediction) / d mask, of a target in log-probabilities; where there is a metric, that of it."""

    def asked(mask: EdgeTree) -> Array:
        logits = forward.logits(mask)
        return kl(target, logits) if forward.metric is None else forward.metric(logits)

    return jax.grad(asked)(mask)


def kl(target: Float32[Array, "*A V"], logits: Float32[Array, "*A V"]) -> Float32[Array, ""]:
    """KL(target || softmax(logits)) in nats, of a target in log-probabilities: the mean over outputs."""
    probs = jnp.exp(target)
    divergence = jnp.sum(jnp.where(probs > 0, probs * (target - jax.nn.log_softmax(logits)), 0.0))
    return divergence if target.ndim == 1 else divergence / target.shape[0]


def integrated_gradients(forward: Pass, steps: int, token: Int[Array, ""] | int) -> EdgeTree:
    """The gradient of a token's logit averaged along m from 0 to 1, by midpoints, signed.

    Its sum over all edges is the logit of the full graph less that of the empty mask, up to the rule's error.
    """
    slots = as_floats(forward.slots())

    def step(summed: EdgeTree, m: Array) -> tuple[EdgeTree, None]:
        gradient = logit_gradient(forward, jax.tree.map(lambda slot: slot * m, slots), token)
        return jax.tree.map(jnp.add, summed, gradient), None

    middles = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
    summed, _ = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, slots), middles)
    return jax.tree.map(lambda leaf: leaf / steps, summed)


class _Made(str):
    """A name that ``name_variant`` made, and makes again of a copy with other numbers."""

    __slots__ = ()


def name_variant(score: Any, base: str) -> None:
    """Call a frozen score by what differs from its defaults, unless it has a name of its own."""
    if score.name != base and not isinstance(score.name, _Made):
        return
    differs = [
        (field.name, getattr(score, field.name))
        for field in dataclasses.fields(score)
        if field.name != "name" and getattr(score, field.name) != field.default
    ]
    words = [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{_word(value)}" for name, value in differs]
    object.__setattr__(score, "name", _Made("-".join([base, *words]).replace(".", "_")))


def _word(value: Any) -> str:
    return str(getattr(value, "name", type(value).__name__ if dataclasses.is_dataclass(value) else value))


@dataclasses.dataclass(frozen=True)
class Gradient:
    """|d logit of the predicted token, or metric, / d mask| at the full mask; one forward and one backward pass."""

    name: str = "gradient"

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""

        def predicted(mask: EdgeTree) -> Array:
            logits = forward.logits(mask)
            return forward.asked(logits, jnp.argmax(logits if forward.target is None else forward.target))

        return jax.tree.map(jnp.abs, jax.grad(predicted)(as_floats(forward.slots())))


@dataclasses.dataclass(frozen=True)
class Integrated:
    """|integrated gradients| of the predicted token's logit along all masks from 0 to 1."""

    steps: int = 16
    name: str = "integrated"

    def __post_init__(self) -> None:
        """Refuse what is no number of steps."""
        check_count("steps", self.steps)
        name_variant(self, "integrated")

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        token = jnp.argmax(forward.logits(as_floats(forward.slots())) if forward.target is None else forward.target)
        return jax.tree.map(jnp.abs, integrated_gradients(forward, self.steps, token))


@dataclasses.dataclass(frozen=True)
class ShareTimesGradient:
    """The L1 share times |d top logit / d mask| to a power, at the full mask; two forward passes and one backward."""

    power: float = 0.5
    name: str = "l1*gradient"

    def __post_init__(self) -> None:
        """Name another power."""
        name_variant(self, "l1*gradient")

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        return jax.tree.map(jnp.exp, first_order(forward).combined(self.power))


class FirstOrder(NamedTuple):
    """What one clean pass and one gradient say of every edge, in logarithms, and the prediction to keep."""

    share: EdgeTree
    """log of the L1 share."""
    gradient: EdgeTree
    """log |d top logit / d mask| at the full mask."""
    target: Float32[Array, "*A V"]
    """Log-probabilities."""

    def combined(self, power: float) -> EdgeTree:
        """log share + power * log |gradient|."""
        return jax.tree.map(lambda share, g: share + power * g, self.share, self.gradient)


def log_shares(forward: Pass) -> tuple[EdgeTree, Float32[Array, "*A V"]]:
    """Logarithms of the L1 shares, and the log-probabilities to keep."""
    clean = clean_forward(forward.decoder, forward.tokens, Norm(1), length=forward.length, n_outputs=forward.rows)
    shares = normalised(clean.magnitudes, parallel=forward.decoder.config.parallel)
    target = jax.nn.log_softmax(clean.logits) if forward.target is None else forward.target
    return jax.tree.map(lambda share: log_of(share, LEAST_SHARE), shares), target


def first_order(forward: Pass) -> FirstOrder:
    """Shares and the gradient at the full mask: two forward passes and one backward."""
    shares, target = log_shares(forward)
    gradient = logit_gradient(forward, as_floats(forward.slots()), jnp.argmax(target))
    return FirstOrder(shares, jax.tree.map(lambda g: log_of(g, LEAST_SHARE), gradient), target)


def check_count(name: str, number: Any) -> None:
    """Refuse what is no count.

    Raises:
      InputError: with its name.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise InputError(f"{name} = {number!r}, expected an integer, at least 1")


def log_of(x: Array, least: float) -> Array:
    """log |x|, no less than ``least``."""
    return jnp.maximum(jnp.log(jnp.abs(x) + _TINY), least)


@dataclasses.dataclass(frozen=True)
class RelP:
    """A score from gradients by the backward pass of RelP (arXiv 2508.21258): of ``Gradient``, by default.

    Gradients are those of layer-wise relevance propagation: the scales of norms, attention probabilities and the ratios
    of activations are constants, and gates pass half to each factor.
    Without biases, and under zero ablation, what the edges into a node are given sums to what those out of it are.

    Examples:
      >>> jstrace.trace(model, text, score=jstrace.RelP()).score
      'relp'
    """

    of: GradientScore = dataclasses.field(default=Gradient())
    name: str = "relp"

    def __post_init__(self) -> None:
        """Name those of other scores."""
        name_variant(self, "relp")

    def edge_scores(self, forward: Pass) -> EdgeTree:
        """See ``GradientScore``."""
        return self.of.edge_scores(forward._replace(relevance=True))
