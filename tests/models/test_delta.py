"""Gated DeltaNet's factors against the recurrence itself, and a whole layer of it against transformers'."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.qwen3_next import modeling_qwen3_next as theirs

from jstrace.models import delta


def drawn(n_tokens: int, decay: float) -> tuple[np.ndarray, ...]:
    """Queries and keys of 2 heads, logarithms of decays and strengths of 6, and values."""
    rng = np.random.default_rng(n_tokens)
    q, k = rng.normal(size=(2, n_tokens, 2, 8))
    g, b = -decay * rng.random((n_tokens, 6)), rng.random((n_tokens, 6))
    return q, k, g, b, rng.normal(size=(n_tokens, 6, 5))


@pytest.mark.parametrize(("n_tokens", "decay"), [(1, 1.0), (9, 0.3), (150, 0.02), (150, 30.0)])
def test_factors_are_the_recurrence(n_tokens: int, decay: float) -> None:
    """Also after many tokens of strong decay, of which sums from the first on would lose what is small beside them."""
    q, k, g, b, v = drawn(n_tokens, decay)
    q, k = (x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6) for x in (q, k))
    visible = jnp.tril(jnp.ones((n_tokens, n_tokens), bool))
    found = jax.jit(delta.factors)(*(jnp.asarray(x, jnp.float32) for x in (q, k, g, b)), visible)
    wide = {"query": q, "key": k, "value": v, "g": g, "beta": b}
    state = theirs.torch_recurrent_gated_delta_rule(
        **{name: torch.tensor(x)[None] for name, x in wide.items()}, use_qk_l2norm_in_kernel=False
    )[0][0]
    expected = state.double().numpy() * np.sqrt(8)  # its queries are scaled
    np.testing.assert_allclose(np.einsum("hts,shd->thd", found, v), expected, atol=1e-5 * np.abs(expected).max())
    assert not np.triu(found, 1).any()
    last = delta.factors(*(jnp.asarray(x, jnp.float32) for x in (q[-1:], k, g, b)), visible[-1:])
    np.testing.assert_allclose(last[:, 0], found[:, -1], atol=1e-6)
