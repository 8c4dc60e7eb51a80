"""The stages of a batch up to its strata, compiled once a shape: scores from one clean pass, and extraction.

Here, in ``masked`` and ``own_masks`` alone stages are jitted, beside ``extract``, which users call; on a mesh every
device works on its own inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int

from jstrace.method.graph import full_graph
from jstrace.method.graph.counting import Counts, count
from jstrace.method.questions import NOTHING, Question
from jstrace.method.scores.fitted import Fitting
from jstrace.method.scores.linear import Coefficients
from jstrace.method.scores.measured import Together
from jstrace.method.scores.scoring import filled, passes, several_scores
from jstrace.method.search.extraction import extract_padded
from jstrace.method.search.first_pass import ranked
from jstrace.method.search.ordering import by_score
from jstrace.method.search.proportional import proportional
from jstrace.models import AnyArray, Decoder, EdgeTree, ModelConfig, Replacement, clean_forward, form
from jstrace.models.platforms import usual_promotion
from jstrace.scale import meshes

_NONE: Mapping[str, Any] = {}


@functools.partial(jax.jit, static_argnames=("scorings", "mesh"))
@usual_promotion()
def score_batch(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    seed: Int[Array, ""] | int,
    *,
    scorings: tuple[tuple[Any, str], ...],
    replacements: Mapping[str, Replacement],
    others: Mapping[str, Int[AnyArray, "N"]] = _NONE,
    questions: Question = NOTHING,
    learned: tuple[Coefficients | None, ...] = (),
    fitting: Fitting | None = None,
    mesh: Mesh | None = None,
) -> tuple[tuple[EdgeTree, ...], Bool[Array, "B 4 L"]]:
    """Scores of several kinds of a padded batch.

    Args:
      decoder: the decoder.
      tokens, lengths: of a padded batch.
      seed: of random scores.
      scorings: ``Source.scoring`` of each kind.
      replacements: what ablated edges carry while gradients are taken, by name, the same for all inputs.
      others: tokens of other texts by name, where scores draw replacements from their states.
      questions: what is asked of each input beside its own prediction.
      learned: the coefficients of each kind that is ``unfilled``; empty where none is.
      fitting: of a single kind, a ``Fitted``: what ``fit_part`` made of the batch, after its last step.
      mesh: that the batch lies on.

    Returns:
      The scores of each kind, and where those of an input are all finite: by kind of edge and layer.
    """

    def score(
        whole: tuple[Decoder, Any, Any, Any], tokens: Array, lengths: Array, questions: Question,
        fitting: Fitting | None,
    ) -> tuple[tuple[EdgeTree, ...], Array]:  # fmt: skip
        decoder, replaced, drawn, numbers = whole
        own = numbers or (None,) * len(scorings)
        known = tuple((filled(kind, c), name) for (kind, name), c in zip(scorings, own, strict=True))

        def of_input(tokens: Array, length: Array, question: Question, fitting: Fitting | None) -> tuple[EdgeTree, ...]:
            options: dict[str, Any] = {"scorings": known, "seed": seed, "replacements": replaced, "others": drawn}
            return several_scores(decoder, tokens, length, question=question, fitting=fitting, **options)

        trees = jax.vmap(of_input)(tokens, lengths, questions, fitting)
        n_slots, n_outputs = tokens.shape[1], questions.n_outputs
        slots_of = functools.partial(full_graph.edge_slots, decoder.config, n_slots, n_outputs=n_outputs)
        slots = jax.vmap(slots_of)(lengths)
        return trees, functools.reduce(jnp.logical_and, (_finite(tree, slots) for tree in trees))

    return meshes.over_inputs(score, mesh, tokens.shape[0])(
        (decoder, dict(replacements), dict(others), learned), tokens, lengths, questions, fitting
    )


@usual_promotion()
def fit_part(
    decoder: Decoder,
    tokens: Int[AnyArray, "B T"],
    lengths: Int[AnyArray, "B"],
    seed: Int[Array, ""] | int,
    fitting: Fitting | None = None,
    steps: tuple[Int[Array, ""] | int, ...] = (),
    *,
    part: str,
    scoring: tuple[Any, str],
    replacements: Mapping[str, Replacement],
    others: Mapping[str, Int[AnyArray, "N"]] = _NONE,
    questions: Question = NOTHING,
    learned: Coefficients | None = None,
    mesh: Mesh | None = None,
) -> Fitting:
    """A part of the fits of a padded batch, a method of ``Fitted``; other arguments as for ``score_batch``.

    JAX keeps no program on disk that calls the host, so the host calls programs of some steps, to tell how far it is.
    Along ``model`` every device has all of what is fitted, before and after every part: so each is compiled once.
    """

    def run(
        whole: tuple[Decoder, Any, Any, Any], tokens: Array, lengths: Array, questions: Question,
        fitting: Fitting | None,
    ) -> Fitting:  # fmt: skip
        decoder, replaced, drawn, numbers = whole
        work = getattr(filled(scoring[0], numbers), part)

        def of_input(tokens: Array, length: Array, question: Question, fitting: Fitting | None) -> Fitting:
            forward = passes(decoder, tokens, length, seed, replaced, drawn, question)(scoring[1])
            return work(forward) if fitting is None else work(forward, fitting, *steps)

        return meshes.whole_along_model(jax.vmap(of_input)(tokens, lengths, questions, fitting))

    return meshes.over_inputs(run, mesh, tokens.shape[0])(
        (decoder, dict(replacements), dict(others), learned), tokens, lengths, questions, fitting
    )


fit_batch = jax.jit(fit_part, static_argnames=("part", "scoring", "mesh"))
"""``fit_part``, compiled once a part and shape,"""
advance_batch = jax.jit(fit_part, static_argnames=("part", "scoring", "mesh"), donate_argnames=("fitting",))
"""and with its result in the memory of the fits that it is given."""


@functools.partial(jax.jit, static_argnames=("mesh",))
@usual_promotion()
def predict_batch(
    decoder: Decoder, tokens: Int[AnyArray, "B T"], lengths: Int[AnyArray, "B"], *, mesh: Mesh | None = None
) -> Float32[Array, "B V"]:
    """Log-probabilities of the next token of a padded batch under the full graph."""

    def predict(decoder: Decoder, tokens: Array, lengths: Array) -> Array:
        def of_input(tokens: Array, length: Array) -> Array:
            clean = clean_forward(decoder, tokens, Together(()), length=length)  # type: ignore[arg-type]
            return jax.nn.log_softmax(clean.logits)

        return jax.vmap(of_input)(tokens, lengths)

    return meshes.over_inputs(predict, mesh, tokens.shape[0])(decoder, tokens, lengths)


def _finite(tree: EdgeTree, slots: EdgeTree) -> Bool[Array, "B 4 L"]:
    """By kind of edge and layer, whether every edge has a finite score; other slots are not looked at."""
    good = jax.tree.map(lambda leaf, slot: jnp.isfinite(leaf) | ~slot, tree, slots)
    return jnp.stack([jnp.all(leaf, axis=tuple(range(2, leaf.ndim))) for _, leaf in good.items()], axis=1)


def extract_batch(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    signed: bool = False,
    order: str = "best-first",
    mesh: Mesh | None = None,
    n_outputs: int = 1,
) -> EdgeTree:
    """Strata of a padded batch, of scores with ``NO_SCORE`` in slots that are no edge.

    Nearly always the lean program does. Where groups at cuts are too large for its pool (many equal or random scores),
    a second one runs, which is compiled, and whose memory is taken, only then. ``signed`` says that scores may be
    negative. In the order of scores alone nothing is searched.
    """
    if order == "score":
        return rank_program(score, cuts, frozen=frozen, mesh=mesh)
    signed = signed and bool(frozen)  # without frozen components the sign makes no other program
    options = {"parallel": parallel, "frozen": frozen, "signed": signed, "mesh": mesh, "n_outputs": n_outputs}
    strata, complete = extract_program(score, cuts, lengths, **options)
    return strata if complete else extract_program(score, cuts, lengths, whole=True, **options)[0]


@functools.partial(jax.jit, static_argnames=("parallel", "frozen", "signed", "whole", "mesh", "platform", "n_outputs"))
@usual_promotion()
def extract_program(
    score: EdgeTree,
    cuts: Int[AnyArray, "B Z"],
    lengths: Int[AnyArray, "B"],
    *,
    parallel: bool,
    frozen: tuple[str, ...],
    signed: bool = False,
    whole: bool = False,
    mesh: Mesh | None = None,
    platform: str | None = None,
    n_outputs: int = 1,
) -> tuple[EdgeTree, Bool[Array, ""]]:
    """``extract_padded`` of a batch, compiled once a shape, and whether all of its strata are right.

    ``platform`` is what the program is compiled for, if not JAX's default one (``models.form``).
    """

    def extract(score: EdgeTree, cuts: Array, length: Array) -> tuple[EdgeTree, Array]:
        score = ranked(score) if frozen and signed else score
        how: dict[str, Any] = {"parallel": parallel, "frozen": frozen, "whole": whole, "platform": platform}
        return extract_padded(score, cuts, length, n_outputs=n_outputs, **how)

    together: Callable[..., Any] = form(platform, cpu=_together, gpu=_together, tpu=_one_by_one)
    run = meshes.over_inputs(together(extract), mesh, lengths.shape[0], whole=True)
    strata, complete = run(score, cuts, lengths)
    return strata, jnp.all(complete)


def _together(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(function)


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """``jax.vmap`` as a loop: an input fills a TPU's vectors, and its program compiles in a third of the time."""
    return lambda *batch: jax.lax.map(lambda row: function(*row), batch)


@functools.partial(jax.jit, static_argnames=("frozen", "mesh"))
@usual_promotion()
def rank_program(
    score: EdgeTree, cuts: Int[AnyArray, "B Z"], *, frozen: tuple[str, ...], mesh: Mesh | None = None
) -> EdgeTree:
    """``by_score`` of a batch, compiled once a shape."""
    run = meshes.over_inputs(jax.vmap(functools.partial(by_score, frozen=frozen)), mesh, cuts.shape[0], whole=True)
    return run(score, cuts)


@functools.partial(jax.jit, static_argnames=("n_sizes", "parallel", "mesh", "n_outputs"))
@usual_promotion()
def proportional_batch(
    score: EdgeTree,
    beside: EdgeTree,
    lengths: Int[AnyArray, "B"],
    *,
    n_sizes: int,
    parallel: bool,
    mesh: Mesh | None = None,
    n_outputs: int = 1,
) -> EdgeTree:
    """``proportional`` of a padded batch, compiled once a shape; ``beside`` are strata."""
    draw = functools.partial(proportional, n_sizes=n_sizes, parallel=parallel, n_outputs=n_outputs)
    return meshes.over_inputs(jax.vmap(draw), mesh, lengths.shape[0], whole=True)(score, beside, lengths)


@functools.partial(jax.jit, static_argnames=("n_sizes", "config", "mesh"))
@usual_promotion()
def compose_batch(
    strata: tuple[EdgeTree, ...], *, n_sizes: int, config: ModelConfig, mesh: Mesh | None = None
) -> tuple[Counts, ...]:
    """What the traces of a padded batch are made of, from the strata of every source."""
    counted = functools.partial(count, n_sizes=n_sizes, config=config)

    def each(strata: EdgeTree) -> Counts:
        return meshes.over_inputs(jax.vmap(counted), mesh, strata.mlp.shape[0], whole=True)(strata)

    return tuple(map(each, strata))
