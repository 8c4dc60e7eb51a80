"""Edges of many prompts and the images that they share: classes of tokens, means over images, and back again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from jstrace.method.graph import full_graph
from jstrace.models import EdgeTree, InputError, ModelConfig, edge_shapes
from jstrace.models.slots import with_mlp
from jstrace.pipeline.tasks.prompts import Prompt

ALIGNMENTS = ("position", "roles", "components")
"""Tokens of one class: at the same place from the start; of the same role, or at the same place from the end where
they have none; all of them, so that an edge is its head or MLP."""


LEVELS = ("edges", "components")
"""What sizes are shares of."""


@dataclasses.dataclass(frozen=True)
class Alignment:
    """The classes of the tokens of a task. Edges of one kind, layer and head between two classes have one image."""

    kind: str
    """One of ``ALIGNMENTS``."""
    classes: tuple[str, ...]

    @staticmethod
    def of(prompts: Sequence[Prompt], kind: str | None) -> Alignment:
        """Of the prompts that a circuit is found in; by default by position where they are all of one length and have
        no roles, else by roles.

        Raises:
          InputError: another kind, or positions of prompts of different lengths.
        """
        lengths = sorted({len(prompt.tokens) for prompt in prompts})
        if kind is None:
            plain = len(lengths) == 1 and not any("".join(prompt.roles) for prompt in prompts)
            kind = "position" if plain else "roles"
        if kind not in ALIGNMENTS:
            raise InputError(f"align = {kind!r:.60}, expected one of {', '.join(ALIGNMENTS)}")
        if kind == "position" and len(lengths) > 1:
            raise InputError(
                f"align='position' needs prompts of one length, these have {lengths[0]} to {lengths[-1]} tokens: give"
                " align='roles'"
            )
        names = itertools.chain.from_iterable(names_of(kind, prompt.roles) for prompt in prompts)
        return Alignment(kind, tuple(dict.fromkeys(names)))

    def numbers(self, roles: Sequence[str]) -> Int[np.ndarray, "T"]:
        """The class of each token of a prompt with these roles; the number of classes where it is of none.

        Raises:
          InputError: positions of a prompt of another length.
        """
        if self.kind == "position" and len(roles) != len(self.classes):
            raise InputError(f"align='position' is of prompts of {len(self.classes)} tokens, this one has {len(roles)}")
        known = {name: number for number, name in enumerate(self.classes)}
        return np.asarray([known.get(name, len(known)) for name in names_of(self.kind, roles)], np.int32)


def names_of(kind: str, roles: Sequence[str]) -> list[str]:
    """The names of the classes of a prompt's tokens. Places from the end count the tokens of one role as one place."""
    if kind == "components":
        return ["all"] * len(roles)
    if kind == "position":
        return [str(place) for place in range(len(roles))]
    places, after = 0, ""
    names = []
    for role in reversed(roles):
        places += not (role and role == after)
        names.append(role or f"-{places}")
        after = role
    return names[::-1]


def total(scores: EdgeTree, config: ModelConfig) -> float:
    """The sum of the sizes of one prompt's scores; 1 where all are zero."""
    edges = _edges(scores, config)
    return sum(float(np.abs(leaf).sum()) for _, leaf in edges.items()) or 1.0


def _edges(scores: EdgeTree, config: ModelConfig) -> EdgeTree:
    """Scores as float64, 0 in slots that are no edge."""
    n_tokens = scores.mlp.shape[-1]
    slots = full_graph.edge_slots(config, n_tokens, n_tokens, np)
    return EdgeTree(**{kind: np.where(getattr(slots, kind), leaf, 0.0).astype(float) for kind, leaf in scores.items()})


def pooled(
    scores: Sequence[EdgeTree], classes: Sequence[Int[np.ndarray, "_"]], n_classes: int, config: ModelConfig
) -> EdgeTree:
    """The score of every image: the mean over all edges that have it.

    Each prompt's scores are divided by their total before; the means are multiplied by the mean total after, which
    changes no order and gives a single prompt its own scores back.

    Args:
      scores: of each prompt, ``[L,T]``, ``[L,H,T,T]``, ``[L,T]``, ``[L,T]``; what is in slots that are no edge is not
        read.
      classes: the class of each token of each prompt, below ``n_classes``.
      n_classes: C.
      config: of the model.

    Returns:
      float32 ``[L,C]``, ``[L,H,C,C]`` (target, source), ``[L,C]``, ``[L,C]``; 0 where no edge has the image.
    """
    totals = [total(tree, config) for tree in scores]
    shapes = edge_shapes(config.n_layers, config.n_heads, n_classes)
    images = {}
    for kind, shape in shapes.items():
        sums, counts = np.zeros(np.prod(shape)), np.zeros(np.prod(shape))
        for tree, own, whole in zip(scores, classes, totals, strict=True):
            slots = getattr(full_graph.edge_slots(config, len(own), len(own), np), kind)
            image = _image(own, n_classes, slots.shape)[slots]
            sums += np.bincount(image, getattr(tree, kind)[slots].astype(float) / whole, len(sums))
            counts += np.bincount(image, minlength=len(counts))
        means = sums / np.maximum(counts, 1) * np.mean(totals)
        images[kind] = means.reshape(shape).astype(np.float32)
    return EdgeTree(**images)


def _image(classes: Int[np.ndarray, "T"], n_classes: int, shape: tuple[int, ...]) -> Int[np.ndarray, "..."]:
    """The index of the image of every slot of one kind of edge."""
    own = classes.astype(int)
    if len(shape) > 2:  # attention edges: layers and heads, then pairs of tokens
        own = own[:, None] * n_classes + own[None]
    lead = shape[: -own.ndim]
    return np.arange(np.prod(lead)).reshape(*lead, *[1] * own.ndim) * n_classes**own.ndim + own


def placed(images: EdgeTree, classes: Int[np.ndarray, "T"], config: ModelConfig) -> EdgeTree:
    """The scores of one prompt's edges: those of their images, 0 where a token's class is none of them.

    Returns:
      float32, with -1 in slots that are no edge.
    """
    slots, leaves = full_graph.edge_slots(config, len(classes), len(classes), np), {}
    for kind, leaf in images.items():
        axes = 2 if kind == "attn" else 1
        wide = np.pad(leaf, [(0, 0)] * (leaf.ndim - axes) + [(0, 1)] * axes)
        own = wide[..., classes[:, None], classes[None]] if axes == 2 else wide[..., classes]
        leaves[kind] = np.where(getattr(slots, kind), own, np.float32(-1))
    return EdgeTree(**leaves)


def component_shares(scores: Sequence[EdgeTree], config: ModelConfig) -> Float64[np.ndarray, "L C"]:
    """The score of each component, the heads of a layer and then its MLP: mean over prompts.

    A component is as good as the best of its edges, in units of the prompt's total, residual edges included: scores
    such as those of rounds are ranks, of which a sum would count positions.
    """
    shares = np.zeros((config.n_layers, config.n_heads + 1))
    for tree in scores:
        edges = _edges(tree, config)
        heads, mlp = np.abs(edges.attn).max(axis=(2, 3)), np.abs(edges.mlp).max(axis=1)
        shares += np.concatenate([heads, mlp[:, None]], axis=1) / total(tree, config)
    return shares / len(scores)


def components_of(config: ModelConfig) -> Bool[np.ndarray, "L C"]:
    """Which of ``H + 1`` components each layer has: its heads, and its MLP, the last."""
    heads = np.arange(config.n_heads + 1) < np.asarray(config.heads)[:, None]
    heads[:, -1] = with_mlp(config)
    return heads


def kept_components(
    shares: Float64[np.ndarray, "L C"] | Float32[np.ndarray, "L C"], count: int, config: ModelConfig
) -> np.ndarray:
    """The ``count`` components of the largest share, equal ones in their order: bool ``[L, H + 1]``."""
    order = np.argsort(np.where(components_of(config), -shares, np.inf), axis=None, kind="stable")[:count]
    mask = np.zeros(shares.size, bool)
    mask[order] = True
    return mask.reshape(shares.shape)


def component_mask(components: np.ndarray, n_tokens: int, config: ModelConfig) -> EdgeTree:
    """Masks that keep components at all positions, and every residual edge.

    Args:
      components: bool ``[*N, L, H + 1]``, as ``kept_components`` gives it.
      n_tokens: T of the prompt.
      config: of the model.

    Returns:
      bool ``[*N, L, T]`` and so on; false in slots that are no edge.
    """
    slots = full_graph.edge_slots(config, n_tokens, n_tokens, np)
    lead = components.shape[:-2]

    def every(leaf: np.ndarray) -> np.ndarray:
        return np.broadcast_to(leaf, (*lead, *leaf.shape)).copy()

    attn = components[..., :-1, None, None] & slots.attn
    return EdgeTree(every(slots.residual_attn), attn, every(slots.residual_mlp), components[..., -1, None] & slots.mlp)
