"""What the comparison with transformers says of logits and ids; the comparison itself needs real files."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.parity_gguf import differences, first_difference, logits_of
from jstrace.method.scores.measured import Norm
from jstrace.models import Model, clean_forward


def test_differences() -> None:
    theirs = np.asarray([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]], np.float32)
    ours = theirs.copy()
    assert differences(ours, theirs) == {"largest": 0, "scale": 5, "same_top": 1, "same_top_5": 1}
    ours[0, 3] = 2.5
    ours[1, :] = theirs[0]
    assert differences(ours, theirs) == {"largest": 5, "scale": 5, "same_top": 0.5, "same_top_5": 0.5}
    assert [first_difference(*pair) for pair in (([1, 2], [1, 3]), ([1], [1, 2]), ([], []))] == [1, 1, 0]


def test_logits_after_prefixes(tiny: Model) -> None:
    """Padding changes nothing."""
    ids = [3, 1, 4, 1, 5, 9]
    for end, row in zip((1, 4, 6), logits_of(tiny, ids, (1, 4, 6)), strict=True):
        own = clean_forward(tiny.decoder, jnp.asarray(ids[:end]), Norm(1)).logits
        np.testing.assert_allclose(row, own, rtol=1e-4, atol=1e-5)
