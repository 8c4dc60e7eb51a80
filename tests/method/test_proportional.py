"""Random traces in the proportion of others equal the draw edge by edge, and hang together."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace.method.graph import full_graph, sizes
from jstrace.method.scores.drawn import random_scores
from jstrace.method.search.extraction import extract_padded
from jstrace.method.search.ordering import by_score, marked
from jstrace.method.search.proportional import proportional
from jstrace.models import EdgeTree
from tests import oracle
from tests.conftest import family_config

SIZES = (0.004, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 0.95)
N_TOKENS, WIDTH = 6, 8
KINDS = (("residual_attn", "residual_mlp"), ("mlp",), ("attn",))


def drawn(seed: int, slots: EdgeTree, levels: int = 0) -> EdgeTree:
    """Random scores, rounded to so many levels, if any."""
    scores = random_scores(slots, jax.random.key(seed))
    rounded = jax.tree.map(lambda leaf: jnp.floor(leaf * levels) / levels, scores) if levels else scores
    return marked(rounded, slots)


def cropped(tree: EdgeTree) -> EdgeTree:
    """Without padding, on the host."""
    true = {
        name: leaf[..., :N_TOKENS, :N_TOKENS] if name == "attn" else leaf[..., :N_TOKENS] for name, leaf in tree.items()
    }
    return jax.device_get(EdgeTree(**true))


def per_kind(strata: EdgeTree, k: int) -> list[int]:
    return [sum(int((np.asarray(getattr(strata, name)) <= k).sum()) for name in names) for names in KINDS]


def connected(strata: EdgeTree, k: int, outputs: int, parallel: bool) -> bool:
    """Whether every edge of a trace enters an output, or a node that another edge leaves."""
    held = oracle.graph_of(jax.tree.map(lambda leaf: np.where(leaf <= k, 1.0, -1.0), strata), parallel, outputs)
    level = held.outputs[0][0]
    left = {source for _, source, _, _ in held.edges} | {(level, N_TOKENS - 1 - back) for back in range(outputs)}
    return all(target in left for _, _, target, _ in held.edges)


@pytest.mark.parametrize(("family", "outputs"), [("llama", 1), ("mistral", 2), ("gpt_neox", 1)])
def test_equals_the_draw_edge_by_edge(family: str, outputs: int) -> None:
    """Beside best-first traces with the same numbers of each kind; beside some that do not hang together as near as
    connected ones can come."""
    config = family_config(family)
    slots = full_graph.edge_slots(config, WIDTH, N_TOKENS, n_outputs=outputs)
    cuts = jnp.asarray(sizes.counts(SIZES, full_graph.n_edges(config, N_TOKENS, outputs)))
    how = {"parallel": config.parallel, "n_outputs": outputs}
    search = jax.jit(functools.partial(extract_padded, length=N_TOKENS, whole=True, **how))
    draw = jax.jit(functools.partial(proportional, length=N_TOKENS, n_sizes=len(SIZES), **how))
    asked, exact = {True: 0, False: 0}, {True: 0, False: 0}
    for seed in range(2):
        for levels in (0, 3):
            scores, others = drawn(seed, slots, levels), drawn(seed + 10, slots)
            raised = EdgeTree(others.residual_attn, others.attn, others.residual_mlp, others.mlp + slots.mlp)
            for beside, hangs in ((search(others, cuts)[0], True), (by_score(raised, cuts), False)):
                found = cropped(draw(scores, beside))
                edges = cropped(jax.tree.map(lambda leaf, slot: jnp.where(slot, leaf, -1.0), scores, slots))
                beside = cropped(beside)
                expected = oracle.proportional(edges, beside, len(SIZES), config.parallel, outputs)
                chex.assert_trees_all_equal(found, expected)
                for k, cut in enumerate(cuts.tolist()):
                    assert sum(per_kind(found, k)) == cut
                    assert connected(found, k, outputs, config.parallel)
                    asked[hangs], exact[hangs] = (
                        asked[hangs] + 1,
                        exact[hangs] + (per_kind(found, k) == per_kind(beside, k)),
                    )
    assert exact[True] > 0.9 * asked[True]
    assert exact[False] < asked[False], "no trace had a kind without an available edge"


def test_traces_of_a_batch_are_those_of_each_alone() -> None:
    config = family_config("llama")
    slots = full_graph.edge_slots(config, WIDTH, N_TOKENS)
    cuts = jnp.asarray(sizes.counts(SIZES, full_graph.n_edges(config, N_TOKENS)))
    one = functools.partial(proportional, length=N_TOKENS, n_sizes=len(SIZES), parallel=False)
    scores = [drawn(seed, slots) for seed in range(3)]
    beside = [extract_padded(drawn(seed + 10, slots), cuts, N_TOKENS, parallel=False)[0] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *scores), jax.tree.map(lambda *s: jnp.stack(s), *beside)
    together = jax.jit(jax.vmap(one))(*stacked)
    alone = jax.jit(one)
    for n in range(3):
        chex.assert_trees_all_equal(jax.tree.map(lambda leaf, n=n: leaf[n], together), alone(scores[n], beside[n]))
