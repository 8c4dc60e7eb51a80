"""Reference texts as replacements: their states, the means of these, and noise of the same moments (section 8)."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jstrace.method.conditions import checked_seed
from jstrace.models import AnyArray, Decoder, InputError, Model, Replacement, hidden_states
from jstrace.models.platforms import usual_promotion
from jstrace.models.replacement import checked_arrays
from jstrace.pipeline.inputs import Tokens, checked_model, listed, token_ids
from jstrace.scale import batching, meshes

_ROWS = 8
"""Texts of one call."""
_THINNED = 4
"""Of the built-in reference, every so many texts go into means: some 2,400 tokens, in seconds on a laptop."""
RESAMPLED = 2
"""Other inputs whose states "resample" stands for."""


def mean_replacement(model: Model, texts: Tokens | Sequence[Tokens] | None = None) -> Replacement:
    """Means over all tokens of the texts, those of the first position (the attention sink) apart from all others.

    Args:
      model: from ``jstrace.load``.
      texts: texts, or token ids; by default 80 sentences of the reference that comes with jstrace.

    Examples:
      >>> means = jstrace.mean_replacement(model, [text, other])
      >>> jstrace.trace(model, text, replace=means, score="relp").replace
      'mean'

    Raises:
      InputError: no texts, or none with a second token.
    """
    first, rest = _moments(model, texts)
    pairs = {name: np.stack([first.mean[name], rest.mean[name]], axis=1) for name in first.mean}
    return _placed(pairs, "mean", model, per_token=False)


def noise_replacement(
    model: Model, texts: Tokens | Sequence[Tokens] | None = None, seed: int = 0, *, n_tokens: int | None = None
) -> Replacement:
    """A draw from the Gaussian with the texts' mean and variance, number by number.

    Args:
      model, texts: as in ``mean_replacement``.
      seed: of the draw.
      n_tokens: a draw for each of so many tokens, which the input must have; by default one for the first and one for
        all others.

    Examples:
      >>> jstrace.noise_replacement(model, [text, other], seed=1)
      Replacement('noise', 3 layers, 2 entries a layer)

    Raises:
      InputError: as ``mean_replacement``.
    """
    if n_tokens is not None and (type(n_tokens) is bool or not isinstance(n_tokens, int | np.integer) or n_tokens < 1):
        raise InputError(f"n_tokens = {n_tokens!r}, expected the number of tokens, at least 1")
    first, rest = _moments(model, texts)
    rng, noise = np.random.default_rng(checked_seed(seed)), {}
    for name in first.mean:
        drawn = rng.standard_normal((n_tokens or 2, *first.mean[name].shape))
        each = [(first if i == 0 else rest) for i in range(len(drawn))]
        noise[name] = np.stack([m.mean[name] + m.deviation[name] * z for m, z in zip(each, drawn, strict=True)], axis=1)
    return _placed(noise, "noise", model, per_token=n_tokens is not None)


def resample_replacement(model: Model, text_or_tokens: Tokens) -> Replacement:
    """The states of another input: of the same number of tokens as the inputs that it is for.

    Examples:
      >>> jstrace.resample_replacement(model, other)
      Replacement('resample', 3 layers, 7 entries a layer)

    Raises:
      InputError: a text or tokens that cannot be traced.
    """
    single, rows = listed(model, text_or_tokens)
    if not single:
        raise InputError("resample_replacement takes one input: a text or its token ids")
    return states_of(model, token_ids(model, rows[0]))


_states = jax.jit(hidden_states)


def states_of(model: Model, ids: np.ndarray) -> Replacement:
    """The states of checked token ids."""
    states = meshes.fetched(_states(model.decoder, jnp.asarray(ids)))
    return _placed(states.arrays(), "resample", model, per_token=True)


class _Moments(NamedTuple):
    """Mean and standard deviation of every number of a state, ``[L, ...]`` in float64, by the arrays' names."""

    mean: dict[str, np.ndarray]
    deviation: dict[str, np.ndarray]


def _moments(model: Model, texts: Any) -> tuple[_Moments, _Moments]:
    """Those of first tokens, and those of all others."""
    rows = mean_ids(model, texts)
    if not any(len(row) > 1 for row in rows):
        raise InputError("the reference has no second token in any of its texts: of what are the means to be?")
    groups: dict[int, list[np.ndarray]] = {}
    for row in rows:
        groups.setdefault(batching.bucket(len(row)), []).append(row)
    sums: Any = None
    for width, members in groups.items():
        for start in range(0, len(members), _ROWS):
            tokens, lengths = batching.padded(members[start : start + _ROWS], width, _ROWS)
            lengths[len(members[start : start + _ROWS]) :] = 0
            call = meshes.fetched(_summed(model.decoder, tokens, lengths))
            wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), call)
            sums = wide if sums is None else jax.tree.map(np.add, sums, wide)
    counts = (len(rows), sum(len(row) - 1 for row in rows))
    return _moments_of(sums[0], counts[0]), _moments_of(sums[1], counts[1])


def _moments_of(sums: tuple[dict[str, Any], dict[str, Any]], count: int) -> _Moments:
    once, squared = sums
    mean = {name: total / count for name, total in once.items()}
    return _Moments(mean, {name: np.sqrt(np.maximum(squared[name] / count - mean[name] ** 2, 0)) for name in mean})


_Sums = tuple[dict[str, Array], dict[str, Array]]


@jax.jit
@usual_promotion()
def _summed(decoder: Decoder, tokens: Int[AnyArray, "B T"], lengths: Int[AnyArray, "B"]) -> tuple[_Sums, _Sums]:
    """Sums of states and of their squares, each ``[L, ...]`` by name: over first tokens, and over all others."""

    def text(tokens: Array, length: Array) -> Any:
        place = jnp.arange(tokens.shape[0])
        shares = ((place == 0) & (length > 0), (place > 0) & (place < length))

        def sums(states: Replacement) -> Any:
            wide = {name: state.astype(jnp.float32) for name, state in states.arrays().items()}
            squares = jax.tree.map(jnp.square, wide)
            return tuple(
                tuple(jax.tree.map(functools.partial(_over, share), each) for each in (wide, squares))
                for share in shares
            )

        return hidden_states(decoder, tokens, length=jnp.maximum(length, 1), take=sums)

    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), jax.vmap(text)(tokens, lengths))


def _over(share: Array, x: Array) -> Array:
    """The sum over tokens of which ``share`` is true."""
    return jnp.sum(jnp.where(share.reshape(-1, *[1] * (x.ndim - 1)), x, 0), axis=0)


def _placed(arrays: dict[str, np.ndarray], name: str, model: Model, *, per_token: bool) -> Replacement:
    """In the model's dtype, on its devices."""
    whole = {key: jnp.asarray(array, model.dtype) for key, array in arrays.items()}
    replacement = Replacement(**whole, name=name, model_fingerprint=model.fingerprint(), per_token=per_token)
    return checked_arrays(replacement, f"the {name} of the reference's states: ")


@functools.cache
def built_in_reference() -> tuple[str, ...]:
    """The texts that come with jstrace, a sentence each, written for it."""
    path = importlib.resources.files("jstrace.pipeline") / "reference.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def mean_ids(model: Model, texts: Any) -> list[np.ndarray]:
    """Token ids of every text that goes into means; of the built-in reference where there is none."""
    checked_model(model)
    if texts is None and model.tokenizer is None:
        raise InputError("this model came without a tokenizer: give the reference as token ids")
    single, rows = listed(model, built_in_reference()[::_THINNED] if texts is None else texts)
    if not len(rows):
        raise InputError("the reference is empty; means need at least one text")
    return [token_ids(model, row, "" if single else f"reference text {i}: ") for i, row in enumerate(rows)]


def reference_mark(texts: Sequence[Tokens] | None) -> str:
    """A short hash of reference texts; of those that come with jstrace also of how many go into means."""
    rows = [f"every {_THINNED}th", *built_in_reference()] if texts is None else texts
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row if isinstance(row, str) else np.asarray(row).tolist()).encode() + b"\n")
    return digest.hexdigest()[:16]


def reference_streams(model: Model, reference: Sequence[Tokens] | None) -> list[np.ndarray]:
    """Other inputs: halves of the reference, each as one long text."""
    rows = list(built_in_reference() if reference is None else reference)
    if not rows:
        raise InputError("the reference is empty; the states of other texts need at least one")
    half = -(-len(rows) // RESAMPLED)
    parts = [part for part in (rows[start : start + half] for start in range(0, len(rows), half)) if part]
    return [_joined(model, part) for part in parts]


def _joined(model: Model, rows: list[Tokens]) -> np.ndarray:
    """One long input; of texts the first is begun in its middle, so that it is no input that starts with that text."""
    if not all(isinstance(row, str) for row in rows):
        return np.concatenate([token_ids(model, row) for row in rows])
    if model.tokenizer is None:
        raise InputError("this model came without a tokenizer: give the reference as token ids")
    words = str(rows[0]).split()
    ids = np.asarray(model.tokenizer.encode(" ".join([*words[len(words) // 2 :], *map(str, rows[1:])])), np.int32)
    return token_ids(model, ids[: model.config.most_tokens])
