"""Estimates of the memory that an input takes in each stage (derived in experiments/results/benchmarks/README.md)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from jstrace.method.conditions import COUNTERFACTUAL
from jstrace.method.graph.full_graph import edge_slot_count
from jstrace.method.naming import takes_passes, traits_of
from jstrace.method.scores.fitted import Fitted
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.relevance import RelP
from jstrace.method.scores.rounds import Rounds
from jstrace.method.scores.scoring import SCORES
from jstrace.models import InputError, Model, ModelConfig, Replacement, form, weight_bytes, widened_bytes
from jstrace.models.experts import held_bytes
from jstrace.models.narrow import is_narrow
from jstrace.models.rows import MOST_ROWS
from jstrace.models.sharding import divisible
from jstrace.pipeline.masked import N_QUERIES
from jstrace.pipeline.records import Ask
from jstrace.pipeline.reference import RESAMPLED
from jstrace.scale.batching import bucket


def call_bytes(config: ModelConfig, width: int, ask: Ask, itemsize: int, n_outputs: int = 1) -> int:
    """Peak bytes of one input in a call, beside the weights and ``replacement_bytes``, which all inputs of it share.

    The strata of all sources stay beside the larger stage.
    """
    n_sizes, traced, evaluated = len(ask.sizes), 0, 0
    if ask.sources:
        # Groups at cuts of random scores are large, and signed ones under frozen components are sorted first.
        whole = any(source.score == "random" or (source.signed and source.frozen) for source in ask.sources)
        traced = trace_bytes(config, width, n_sizes, itemsize, whole=whole)
        if any(source.order == "score" for source in ask.sources):
            traced = max(traced, 40 * edge_slot_count(config, width))
        passes = [source.scoring for source in ask.sources if takes_passes(source.score)]
        traced = max([traced, *(gradient_bytes(config, width, itemsize, *scoring) for scoring in passes)])
    if ask.cases:
        evaluated = evaluate_bytes(config, width, n_sizes, itemsize, n_outputs)
    held = 5 * len(ask.sources) * edge_slot_count(config, width) if ask.sources and ask.cases else 0
    states = 2 * itemsize * width * _state_numbers(config) if COUNTERFACTUAL in ask.carried else 0
    return max(traced, evaluated) + held + states


def _state_numbers(config: ModelConfig) -> int:
    """Of what a token's ablated edges carry in all layers."""
    n_kv_heads, _, value = config.widest
    return config.n_layers * (3 * config.d_model + n_kv_heads * value)


def device_bytes(
    config: ModelConfig, n_tokens: int, ask: Ask, itemsize: int, *, over: int = 1, narrow: str = ""
) -> int:
    """Peak bytes of a device with its part of the weights, divided over ``over`` devices, and one input in a call.

    With ``narrow`` the weights are int8 or int4, but for what a pass makes wide of them.
    """
    width = bucket(n_tokens)
    shared = replacement_bytes(config, width, ask.carried, itemsize)
    weights = weight_bytes(config, itemsize, over, narrow=narrow)
    weights += widened_bytes(config, itemsize, over) if narrow else 0
    return weights + shared + call_bytes(config, width, ask, itemsize)


def wide_bytes(model: Model) -> int:
    """Peak bytes, beside the weights, of what a pass makes wide of narrow ones, or reads."""
    if not any(map(is_narrow, jax.tree.leaves(model.decoder.params(), is_leaf=is_narrow))):
        return 0
    over = 1 if model.mesh is None else model.mesh.shape["model"]
    return widened_bytes(model.config, model.dtype.itemsize, over)


def replacement_bytes(
    config: ModelConfig, width: int, names: Iterable[str], itemsize: int, own: Sequence[Replacement] = ()
) -> int:
    """Bytes of what ablated edges carry in a call, however many inputs it has.

    Of each name what is kept from call to call, all of it once more for the call, on one axis, and the one that is
    computed with. Programs ask for 1.3 times that one from 128 tokens on.

    Args:
      config: of the model.
      width: tokens that inputs are padded to.
      names: of replacements; "zero" takes nothing.
      itemsize: of the weights.
      own: replacements of one's own, in the place of those with names.
    """
    if own:
        sizes = [sum(leaf.nbytes for leaf in replacement.arrays().values()) for replacement in own]
        return 2 * sum(sizes) + max(sizes)
    each = itemsize * _state_numbers(config)
    known = {"mean": (1, 2), "resample": (RESAMPLED, width)}
    held = [known[name] for name in dict.fromkeys(names) if name in known]
    return sum((2 * number + 1) * n_tokens * each for number, n_tokens in held)


def model_sizes(config: ModelConfig, n_devices: int) -> list[int]:
    """The sizes of ``model`` that divide both the weights and so many devices, smallest first."""
    common = math.gcd(*divisible(config).values(), n_devices)
    return [over for over in range(1, common + 1) if common % over == 0]


def check_fits(
    config: ModelConfig,
    n_tokens: int,
    ask: Ask,
    itemsize: int,
    room: int,
    *,
    n_devices: int,
    over: int,
    narrow: str = "",
) -> None:
    """Refuse, before anything is loaded, a mesh on which not even an input of so many tokens fits beside the weights.

    Args:
      config: of the model.
      n_tokens: of the shortest input.
      ask: what it goes through.
      itemsize: of the weights.
      room: bytes of a device.
      n_devices: that there are.
      over: of the mesh's ``model``.
      narrow: how weights are stored, if not in the dtype.

    Raises:
      InputError: with the smallest ``model`` that would do.
    """
    needed = device_bytes(config, n_tokens, ask, itemsize, over=over, narrow=narrow)
    if needed <= room:
        return
    sizes = model_sizes(config, n_devices)
    enough = [s for s in sizes if device_bytes(config, n_tokens, ask, itemsize, over=s, narrow=narrow) <= room]
    remedy = f"--mesh data={n_devices // enough[0]},model={enough[0]} would do" if enough else "take more devices"
    smaller = f"{', or --dtype bfloat16' if itemsize > 2 else ''}{'' if narrow else ', or --weights int8'}"
    raise InputError(
        f"weights and an input of {n_tokens} tokens take some {needed / 1e9:.1f} GB of each device, which has"
        f" {room / 1e9:.1f}; {remedy}{smaller}"
    )


def masks_bytes(config: ModelConfig, width: int, n_masks: int, itemsize: int, n_outputs: int = 1) -> int:
    """Peak bytes of the masked forwards of one input under masks of one's own, which exist whole as float32."""
    forwards = evaluate_bytes(config, width, n_masks, itemsize, n_outputs)
    return forwards + 8 * (n_masks + 1) * edge_slot_count(config, width)


def text_bytes(config: ModelConfig, n_tokens: int, n_sizes: int, itemsize: int, *, whole: bool = False) -> int:
    """Peak bytes of one input that is traced and then evaluated, beside the weights; ``whole`` as for ``trace_bytes``.

    From a thousand tokens on it is 0.98 to 1.15 times what compiled programs ask for (of 2 to 32 layers, on a CPU).
    """
    width = bucket(n_tokens)
    return max(
        trace_bytes(config, width, n_sizes, itemsize, whole=whole), evaluate_bytes(config, width, n_sizes, itemsize)
    )


def _mlp_bytes(config: ModelConfig, n_rows: int, itemsize: int, n_products: int = 3) -> int:
    """Of the MLPs of rows, whose hidden numbers are held so many times; in the layer that takes most."""

    def of_form(form: ModelConfig) -> int:
        if form.n_experts:
            return held_bytes(form, n_rows, itemsize, n_products)
        return n_products * itemsize * n_rows * form.d_mlp

    return max(map(of_form, config.layer_forms))


def trace_bytes(config: ModelConfig, width: int, n_sizes: int, itemsize: int, *, whole: bool = False) -> int:
    """Peak bytes of scores and extraction of one input, beside the weights.

    Scores are written twice (magnitudes, then shares). Extraction reads them into an order with layers first, writes
    strata and holds a layer's keys; on arrays of all edges (``whole``), as random scores need, it takes 60 a slot.
    """
    layer = edge_slot_count(config, width) // config.n_layers
    scored = 8 * edge_slot_count(config, width) + 4 * (3 * layer + 2 * config.n_heads * width * config.d_model)
    scored += itemsize * width * 4 * config.d_model + _mlp_bytes(config, width, itemsize) + 4 * config.vocab_size
    extracted = (68 if whole else 10) * edge_slot_count(config, width) + 40 * layer + 8 * n_sizes * 65536
    return max(scored, extracted)


def gradient_bytes(config: ModelConfig, width: int, itemsize: int, score: Any = "rounds", replace: str = "mean") -> int:
    """Peak bytes of a gradient score of one input, beside the weights.

    Some seven numbers of every edge are held (the score, the mask, its gradient, and what survived), the residual
    stream of every layer, and of one layer what its backward pass reads. A scorer holds the gradients of some cuts,
    too, and sorts, as rounds of several walks do; a fit holds logits, their moments and their gradient, and two masks
    with what belongs to them; under "resample" also the states of the two texts that it draws at a step.
    Compiled programs ask for 0.91 to 1.02 times as much (of 8 and 16 layers, 128 and 256 tokens, on a CPU).
    """
    fitted = traits_of(score).alone
    start = score.start if isinstance(score, Fitted) else None if fitted else score
    start = start.of if isinstance(start, RelP) else start
    start = SCORES[start]() if isinstance(start, str) and start in SCORES else start
    sorted_too = start == "learned" or isinstance(start, Scorer) or (isinstance(start, Rounds) and start.walks > 1)
    numbers = 18 if sorted_too else 13 if fitted else 7
    residual = itemsize * config.n_layers * width * config.d_model
    attention = (16 if config.has_linear else 8) * 4 * config.n_heads * width**2
    rows = itemsize * width * 10 * config.d_model + _mlp_bytes(config, width, itemsize, 6) + 12 * config.vocab_size
    drawn = 2 * itemsize * width * _state_numbers(config)
    drawn = drawn if fitted and replace == "resample" else 0
    return drawn + 4 * numbers * edge_slot_count(config, width) + (2 if fitted else 1) * (residual + attention + rows)


def evaluate_bytes(config: ModelConfig, width: int, n_sizes: int, itemsize: int, n_outputs: int = 1) -> int:
    """Peak bytes of the masked forwards of one input under all sizes and in full, beside the weights.

    TPUs have the attention of some queries, and the hidden rows of one turn, at a time.
    """
    n = n_sizes + 1
    n_queries = form(None, cpu=width, gpu=width, tpu=width if config.has_linear else min(width, N_QUERIES))
    n_rows = form(None, cpu=n * width, gpu=n * width, tpu=min(n * width, MOST_ROWS))
    n_rows = (
        n * width if any(form.n_experts for form in config.layer_forms) else n_rows
    )  # the rows of all turns go through one router
    attention = (5 if config.has_linear else 3) * 4 * n * config.n_heads * n_queries * width
    mlp = _mlp_bytes(config, n_rows, itemsize)
    head = 6 * 4 * n * n_outputs * config.vocab_size
    state = (
        4 * itemsize * n * width * max(config.d_model, *(form.n_heads * form.head_dim for form in config.layer_forms))
    )
    return edge_slot_count(config, width) + state + max(attention, mlp, head)
