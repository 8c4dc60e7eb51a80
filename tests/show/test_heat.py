"""Heat maps of effects: made of planted numbers, as nothing is computed."""

from __future__ import annotations

import numpy as np
import pytest

from jstrace.models import EdgeTree, InputError
from jstrace.pipeline.effects import KINDS, Effects
from jstrace.show.plots import plot_effects

SIZES = {"layer": 3, "head": 4, "target": 5, "source": 5, "token": 5, "component": 5}
TOKENS = ("a", " $b", "c", "\x00", "e")


def effects_by(by: str) -> Effects:
    shape = [SIZES[axis] for axis in KINDS[by]]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values.flat[1] = np.nan
    return Effects(values, np.abs(values), by, KINDS[by], "logit(' $b')", 1.0, TOKENS, "zero")


@pytest.mark.quick
@pytest.mark.parametrize("by", [by for by in KINDS if by != "edge"])
def test_every_kind_is_drawn(by: str) -> None:
    """A cell for each number, on a scale around zero; tokens are named where an axis has them, and every layer."""
    found = effects_by(by)
    figure = plot_effects(found)
    figure.canvas.draw()
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(np.ravel(image.get_array()), np.ravel(found.values))
    low, high = image.get_clim()
    assert -low == high == np.nanmax(np.abs(found.values))
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["0", "1", "2"]
    per_layer = 4 if len(found.axes) > 2 else 1
    assert figure.axes[0].get_yticks().tolist() == [0, per_layer, 2 * per_layer]
    words = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (words == ["'a'", "' $b'", "'c'", "'\\x00'", "'e'"]) == (found.axes[-1] in ("target", "source", "token"))


@pytest.mark.quick
def test_effects_of_edges_are_not_drawn() -> None:
    tree = EdgeTree(*(np.zeros(1, np.float32) for _ in range(4)))
    with pytest.raises(InputError, match="plot_effects draws"):
        plot_effects(Effects(tree, None, "edge", (), "m", 1.0, TOKENS, "zero"))
