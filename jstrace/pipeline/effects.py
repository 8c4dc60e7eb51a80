"""What single components do: a masked forward without each, exact, or first-order for every edge (section 9)."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from jstrace.errors import did_you_mean
from jstrace.method.conditions import COUNTERFACTUAL, NO_TEXTS
from jstrace.method.frames import frame
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import SIZES
from jstrace.method.measure import metrics
from jstrace.method.questions import Question
from jstrace.method.scores.gradients import Pass, as_floats, logit_gradient
from jstrace.models import (
    AnyArray,
    Decoder,
    EdgeTree,
    InputError,
    Model,
    ModelConfig,
    Replacement,
    hidden_states,
    live_rows,
    masked_forward,
)
from jstrace.models.edges import ByValue
from jstrace.models.platforms import usual_promotion
from jstrace.pipeline.comparing import BatchResult, compared
from jstrace.pipeline.evaluation import check_finite
from jstrace.pipeline.inputs import Tokens, token_words, tokenised
from jstrace.pipeline.pairs import Questions
from jstrace.pipeline.replacing import Reference, Replace, named
from jstrace.scale import batching

if TYPE_CHECKING:
    import pandas as pd

ALL = -1
"""In the place of a head or a token: every one."""
_ROWS = len(SIZES)
"""Components of one call."""

KINDS: dict[str, tuple[str, ...]] = {
    "head": ("layer", "head"),
    "head,target": ("layer", "head", "target"),
    "head,source": ("layer", "head", "source"),
    "mlp": ("layer",),
    "mlp,token": ("layer", "token"),
    "node": ("layer", "component"),
    "edge": (),
}
"""What ``by`` can be, with the axes of its array."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Effects(ByValue):
    """What ablating each component does to a prediction: positive where the component helps the metric.

    Examples:
      >>> list(jstrace.effects(model, text, by="mlp").to_pandas().columns)
      ['layer', 'effect', 'tv']
    """

    values: Float32[np.ndarray, "*X"] | EdgeTree
    """m(full graph) - m(without the component), of the axes ``axes``; of edges an ``EdgeTree`` of gradients."""
    tv: Float32[np.ndarray, "*X"] | None
    """TV between the two predictions; None of gradients."""
    by: str
    axes: tuple[str, ...]
    metric_name: str
    full: float
    """The metric of the full graph."""
    tokens: tuple[str, ...]
    """As text, or ids where there is no tokenizer."""
    replace: str
    counterfactual: tuple[str, ...] | None = None
    """The tokens whose states ablated components carry, as ``tokens``."""

    def to_pandas(self) -> pd.DataFrame:
        """A row for every component, the largest effect first; needs pandas. Effects of edges have none."""
        return frame(self.columns())

    def columns(self) -> dict[str, Any]:
        """The same as columns."""
        if isinstance(self.values, EdgeTree) or self.tv is None:
            raise InputError("effects of edges are an EdgeTree of their own: see Effects.values")
        order = np.argsort(-np.abs(self.values), axis=None, kind="stable")
        places = np.unravel_index(order, self.values.shape)
        columns: dict[str, Any] = dict(zip(self.axes, places, strict=True))
        if "component" in columns:
            last = self.values.shape[1] - 1
            columns["component"] = np.asarray(["mlp" if at == last else f"head {at}" for at in columns["component"]])
        for axis in ("target", "source", "token"):
            if axis in columns:
                columns[f"{axis}_text"] = np.asarray(self.tokens, object)[columns[axis]]
        return columns | {"effect": self.values.ravel()[order], "tv": self.tv.ravel()[order]}

    def __repr__(self) -> str:
        shape = "edges" if isinstance(self.values, EdgeTree) else "x".join(map(str, self.values.shape))
        told = f"{self.metric_name} ({self.full:.3f} of the full graph)"
        return f"Effects(by {self.by!r}, {shape}, of {told}, replace {self.replace!r})"


class Components(NamedTuple):
    """Components that are ablated, each by itself; ``ALL`` stands for every one."""

    is_attn: Bool[AnyArray, "N"]
    layer: Int[AnyArray, "N"]
    head: Int[AnyArray, "N"]
    target: Int[AnyArray, "N"]
    source: Int[AnyArray, "N"]

    @staticmethod
    def of(config: ModelConfig, by: str, n_tokens: int) -> Components:
        """All of a kind, row-major over its axes."""
        sizes = {"layer": config.n_layers, "head": config.n_heads, "target": n_tokens, "source": n_tokens}
        sizes |= {"token": n_tokens, "component": config.n_heads + 1}
        grid = np.indices([sizes[axis] for axis in KINDS[by]]).reshape(len(KINDS[by]), -1)
        named = dict(zip(KINDS[by], grid, strict=True))
        every = np.full(grid.shape[1], ALL)
        head = named.get("component", named.get("head", every))
        is_attn = (head < config.n_heads) if by == "node" else np.full(grid.shape[1], "head" in named)
        target = named.get("target", named.get("token", every))
        places = (named["layer"], head, target, named.get("source", every))
        return Components(is_attn, *(each.astype(np.int32) for each in places))


def effects(
    model: Model,
    text: Tokens,
    *,
    by: str = "head",
    counterfactual: Tokens | None = None,
    metric: Any = None,
    replace: Replace = None,
    reference: Reference = None,
) -> Effects:
    """What each component of a forward pass does: the metric of the full graph less that without it.

    Exact, a masked forward for each component; but ``by="edge"`` gives every edge's first-order effect from one
    gradient (attribution patching). Ablated components carry the counterfactual's states: activation patching, one
    component at a time.

    Args:
      model: from ``jstrace.load``.
      text: a text, or token ids.
      by: "head" ``[L, H]``; "head,target" or "head,source", its edges into or from each token ``[L, H, T]``; "mlp"
        ``[L]``; "mlp,token" ``[L, T]``; "node", heads and, last, the MLP of each layer ``[L, H + 1]``; "edge".
      counterfactual: a prompt of as many tokens, whose states ablated components carry.
      metric: as in ``jstrace.trace``; by default the log-probability of the token that the full graph predicts.
      replace, reference: what they carry without a counterfactual, as in ``jstrace.trace``.

    Examples:
      >>> jstrace.effects(model, text, counterfactual=other, metric=jstrace.log_prob(" Mary")).values.shape
      (3, 4)

    Raises:
      InputError: arguments that make no sense, a metric that is not finite, or several replacements.
    """
    single, rows = tokenised(model, text)
    if not single:
        raise InputError("effects takes one input: a text or its token ids")
    (ids,) = rows
    if not isinstance(by, str) or by not in KINDS:
        raise InputError(f"by = {by!r:.60}, expected one of {', '.join(KINDS)}{did_you_mean(by, KINDS)}")
    if isinstance(metric, str) and metric == "kl":
        raise InputError('metric = "kl": how far a prediction moves is Effects.tv; give a metric of logits, or none')
    question = Questions.of(model, 1, single=True, counterfactual=counterfactual, metric=metric).about(0, ids, "")
    name, replacing = named(model, replace, reference)
    if question.counterfactual is not None and (replace is not None or reference is not None):
        raise InputError("a counterfactual is what ablated components carry: give it, or replace and reference")
    if (reference is not None and replace is None) or len(replacing.own) > 1:
        raise InputError("effects are under one replacement" if replacing.own else NO_TEXTS)
    name = name if question.counterfactual is None else COUNTERFACTUAL
    replacing.check(len(ids), [name])
    width = batching.bucket(len(ids))
    full_graph.check_slots(model.config, len(ids), batching.bucket)
    (tokens,), (length,) = batching.padded([ids], width, 1)
    given = _Given(tokens, length, Question.stacked([question], width, 1), replacing.first(name, width))
    top = int(np.argmax(model(ids))) if question.metric is None else 0
    told = metrics.LogProb(np.int32(top)) if question.metric is None else question.metric
    asked = dataclasses.replace(given.question, metric=jax.tree.map(lambda leaf: np.stack([leaf]), told))
    given = given._replace(question=asked)
    word = None if model.tokenizer is None else model.tokenizer.token
    common: dict[str, Any] = {
        "by": by,
        "axes": KINDS[by],
        "metric_name": metrics.described(told, word),
        "tokens": token_words(model, ids),
        "replace": name,
        "counterfactual": None if question.counterfactual is None else token_words(model, question.counterfactual),
    }
    if by == "edge":
        tree, full = jax.device_get(_gradients(model.decoder, given))
        check_finite(common["metric_name"], float(full))
        return Effects(values=_cropped(tree, len(ids)), tv=None, full=float(full), **common)
    components = Components.of(model.config, by, len(ids))
    values, tv, full = _each(model.decoder, given, components)
    check_finite(common["metric_name"], full)
    shape = _shape(model.config, by, len(ids))
    return Effects(values=(full - values).reshape(shape), tv=tv.reshape(shape), full=full, **common)


class _Given(NamedTuple):
    """One padded input, and what its ablated edges carry."""

    tokens: Int[AnyArray, "T"]
    length: Int[AnyArray, ""]
    question: Question
    replace: Replacement | None

    def carried(self, decoder: Decoder) -> Replacement | None:
        """Inside a program."""
        if self.question.counterfactual is None:
            return self.replace
        return hidden_states(decoder, self.question.counterfactual[0], length=self.length)


def _shape(config: ModelConfig, by: str, n_tokens: int) -> tuple[int, ...]:
    sizes = {"layer": config.n_layers, "head": config.n_heads, "component": config.n_heads + 1}
    return tuple(sizes.get(axis, n_tokens) for axis in KINDS[by])


def _cropped(tree: EdgeTree, n_tokens: int) -> EdgeTree:
    cut = {kind: leaf[..., :n_tokens] for kind, leaf in tree.items()}
    return EdgeTree(**cut | {"attn": cut["attn"][:, :, :n_tokens]})


def _each(
    decoder: Decoder, given: _Given, components: Components
) -> tuple[Float32[np.ndarray, "N"], Float32[np.ndarray, "N"], float]:
    """The metric and TV without each component, and the metric of the full graph; 26 of them in a call."""
    results: list[BatchResult] = []
    n_all = len(components.layer)
    for start in range(0, n_all, _ROWS):
        rows = np.minimum(np.arange(start, start + _ROWS), n_all - 1)  # the last one again, where they do not fill up
        chunk = Components(*(np.asarray(leaf)[rows] for leaf in components))
        results.append(_without(decoder, given, chunk))
    host: list[Any] = jax.device_get(results)
    metric = np.concatenate([result.metric[0, :_ROWS] for result in host])[:n_all]
    tv = np.concatenate([result.measures.tv[0, :_ROWS] for result in host])[:n_all]
    return metric, tv, float(host[0].full_metric[0])


@jax.jit
@usual_promotion()
def _without(decoder: Decoder, given: _Given, components: Components) -> BatchResult:
    """Predictions without each component, and that of the full graph, which is the last row; compiled once a shape."""
    carried, n_tokens = given.carried(decoder), given.tokens.shape[0]
    config = decoder.config
    layers = jnp.arange(config.n_layers)
    numbers = EdgeTree(layers, jnp.tile(layers[:, None], config.n_heads), layers, layers)

    def layer_mask(layer: EdgeTree, component: Components) -> EdgeTree:
        """One layer's mask: the component's edges are false."""
        here, token, head = layer.mlp == component.layer, jnp.arange(n_tokens), jnp.arange(layer.attn.shape[0])

        def chosen(own: Array, place: Array) -> Array:
            return (own == ALL) | (place == own)

        heads = chosen(component.head, head)[:, None, None]
        places = chosen(component.target, token)[:, None] & chosen(component.source, token)[None, :]
        attn = ~(here & component.is_attn & heads & places)
        mlp = ~(here & ~component.is_attn & chosen(component.target, token))
        return EdgeTree(jnp.ones(n_tokens, bool), attn, jnp.ones(n_tokens, bool), mlp)

    def under(component: Components) -> Array:
        return masked_forward(
            decoder,
            given.tokens,
            numbers,
            keep=functools.partial(layer_mask, component=component),
            replace=carried,
            length=given.length,
            row_map=live_rows,
        )

    none = Components(*(jnp.full(1, ALL, leaf.dtype) if leaf.dtype != bool else leaf[:1] for leaf in components))
    every = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), components, none)
    logits = jax.vmap(under)(every)
    return compared(logits[None], logits[None, -1], jnp.zeros(1, jnp.int32), questions=given.question)


@jax.jit
@usual_promotion()
def _gradients(decoder: Decoder, given: _Given) -> tuple[EdgeTree, Float32[Array, ""]]:
    """d metric / d mask at the full mask, and the metric there."""
    assert given.question.metric is not None
    metric = jax.tree.map(lambda leaf: leaf[0], given.question.metric)
    forward = Pass(decoder, given.tokens, given.length, given.carried(decoder), metric=metric)
    full = as_floats(forward.slots())
    return logit_gradient(forward, full, 0), metric(forward.logits(full))
