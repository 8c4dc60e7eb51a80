"""Edge trees between their inputs' true lengths and the width of a batch."""

from __future__ import annotations

import numpy as np

from jstrace.method.search.ordering import NO_SCORE
from jstrace.models import EdgeTree


def cropped(tree: EdgeTree, index: int, length: int) -> EdgeTree:
    """One input of a padded batch at its true length; copied where a view would keep a much larger batch alive."""

    def crop(name: str, leaf: np.ndarray) -> np.ndarray:
        part = leaf[index][..., :length, :length] if name == "attn" else leaf[index][..., :length]
        return part.copy() if 2 * part.size < leaf.size else part

    return EdgeTree(**{name: crop(name, leaf) for name, leaf in tree.items()})


def widened(tree: EdgeTree, width: int, no_edge: np.generic) -> EdgeTree:
    """The inverse of ``cropped``: one input padded to ``width`` tokens with slots that are no edge."""

    def pad(leaf: np.ndarray, token_axes: int) -> np.ndarray:
        extra = [(0, 0)] * (leaf.ndim - token_axes) + [(0, width - leaf.shape[-1])] * token_axes
        return np.pad(leaf, extra, constant_values=no_edge)

    return EdgeTree(**{name: pad(np.asarray(leaf), 2 if name == "attn" else 1) for name, leaf in tree.items()})


def without_marks(scores: EdgeTree) -> EdgeTree:
    """Scores as a ``Trace`` holds them: -1, rather than ``NO_SCORE`` or NaN, in slots that are no edge."""
    return EdgeTree(**{name: np.where(leaf > NO_SCORE, leaf, np.float32(-1)) for name, leaf in scores.items()})
