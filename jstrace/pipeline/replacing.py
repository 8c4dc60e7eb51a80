"""What ablated edges carry: means, resampled states and noise of reference texts (section 8 of the method)."""

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

from jstrace.method.conditions import REPLACEMENTS, checked_seed
from jstrace.models import AnyArray, Decoder, InputError, Model, Replacement, hidden_states
from jstrace.models.platforms import usual_promotion
from jstrace.models.replacement import check_fits, checked_arrays
from jstrace.pipeline import kept_means
from jstrace.pipeline.inputs import Tokens, checked_model, listed, token_ids
from jstrace.scale import batching, meshes

_ROWS = 8
"""Texts of one call."""
_THINNED = 4
"""Of the built-in reference, every so many texts go into means: some 2,400 tokens, in seconds on a laptop."""
RESAMPLED = 2
"""Other inputs whose states "resample" stands for."""
_STREAM = 4096
"""Tokens, at most, that scores draw other inputs from."""

Replace = Replacement | Sequence[Replacement] | str | None
"""One of ``REPLACEMENTS``, a replacement, or several whose measures are averaged; None is "zero"."""


Reference = Sequence[Tokens] | None
"""Texts or token ids that means and resampled states are made of; None is what comes with jstrace."""


def mean_replacement(model: Model, texts: Tokens | Sequence[Tokens] | None = None) -> Replacement:
    """Means over all tokens of the texts, those of the first position (the attention sink) apart from all others.

    Args:
      model: from ``jstrace.load``.
      texts: texts, or token ids; by default 80 sentences of the reference that comes with jstrace.

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

    Raises:
      InputError: as ``mean_replacement``.
    """
    if n_tokens is not None and (type(n_tokens) is bool or not isinstance(n_tokens, int | np.integer) or n_tokens < 1):
        raise InputError(f"n_tokens = {n_tokens!r}, expected the number of tokens, at least 1")
    first, rest = _moments(model, texts)
    rng, found = np.random.default_rng(checked_seed(seed)), {}
    for name in first.mean:
        drawn = rng.standard_normal((n_tokens or 2, *first.mean[name].shape))
        each = [(first if i == 0 else rest) for i in range(len(drawn))]
        found[name] = np.stack([m.mean[name] + m.deviation[name] * z for m, z in zip(each, drawn, strict=True)], axis=1)
    return _placed(found, "noise", model, per_token=n_tokens is not None)


def resample_replacement(model: Model, text_or_tokens: Tokens) -> Replacement:
    """The states of another input: of the same number of tokens as the inputs that it is for.

    Raises:
      InputError: a text or tokens that cannot be traced.
    """
    single, rows = listed(model, text_or_tokens)
    if not single:
        raise InputError("resample_replacement takes one input: a text or its token ids")
    return _states_of(model, token_ids(model, rows[0]))


_states = jax.jit(hidden_states)


def _states_of(model: Model, ids: np.ndarray) -> Replacement:
    found = meshes.fetched(_states(model.decoder, jnp.asarray(ids)))
    return _placed(found.arrays(), "resample", model, per_token=True)


# --- moments of reference texts -------------------------------------------------------------------------------------


class _Moments(NamedTuple):
    """Mean and standard deviation of every number of a state, ``[L, ...]`` in float64, by the arrays' names."""

    mean: dict[str, np.ndarray]
    deviation: dict[str, np.ndarray]


def _moments(model: Model, texts: Any) -> tuple[_Moments, _Moments]:
    """Those of first tokens, and those of all others."""
    rows = _reference_ids(model, texts)
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
            found = meshes.fetched(_summed(model.decoder, tokens, lengths))
            wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
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

    def one(tokens: Array, length: Array) -> Any:
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

    found = jax.vmap(one)(tokens, lengths)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found)


def _over(share: Array, x: Array) -> Array:
    """The sum over tokens of which ``share`` is true."""
    return jnp.sum(jnp.where(share.reshape(-1, *[1] * (x.ndim - 1)), x, 0), axis=0)


def _placed(arrays: dict[str, np.ndarray], name: str, model: Model, *, per_token: bool) -> Replacement:
    """In the model's dtype, on its devices."""
    whole = {key: jnp.asarray(array, model.dtype) for key, array in arrays.items()}
    found = Replacement(**whole, name=name, model_fingerprint=model.fingerprint(), per_token=per_token)
    return checked_arrays(found, f"the {name} of the reference's states: ")


# --- the reference ---------------------------------------------------------------------------------------------------


@functools.cache
def built_in_reference() -> tuple[str, ...]:
    """The texts that come with jstrace, a sentence each, written for it."""
    path = importlib.resources.files("jstrace.pipeline") / "reference.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _reference_ids(model: Model, texts: Any) -> list[np.ndarray]:
    """Token ids of every text; of the built-in reference where there is none."""
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


def _arrays_mark(several: Sequence[Replacement]) -> str:
    """A short hash of replacements."""
    digest = hashlib.sha256()
    for one in several:
        for name, array in one.arrays().items():
            digest.update(f"{name}{array.shape}".encode() + np.asarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]


# --- by name ----------------------------------------------------------------------------------------------------------


class Replacing:
    """What names of replacements stand for with one model, made when first asked for."""

    def __init__(
        self,
        model: Model,
        reference: Sequence[Tokens] | None = None,
        own: Sequence[Replacement] = (),
    ) -> None:
        """Of reference texts, by default the built-in ones; ``own`` ones take the place of what has their name."""
        self.model, self.reference, self.own = model, reference, tuple(own)
        self._resampled: dict[int, tuple[Replacement, ...]] = {}

    def check(self, n_tokens: int, names: Sequence[str] = ()) -> None:
        """Refuse an input of other length than one's own replacements, or longer than what there is to resample.

        Raises:
          InputError: with both numbers.
        """
        for one in self.own:
            check_fits(one, self.model.config, n_tokens)
        if "resample" in names and not self.is_own("resample"):
            shortest = min(map(len, self._streams))
            if shortest < n_tokens:
                raise InputError(f"the reference has {shortest} tokens for each other input, fewer than {n_tokens}")

    def is_own(self, name: str) -> bool:
        """Whether the name is that of one's own replacements."""
        return bool(self.own) and name == joined_name(self.own)

    def mark(self, name: str) -> str:
        """A hash of what a name stands for, where texts or replacements are the caller's own; else empty."""
        if self.is_own(name):
            return _arrays_mark(self.own)
        own = self.reference is not None and name in ("mean", "resample")
        return reference_mark(self.reference) if own else ""

    def stack(self, name: str, width: int) -> Replacement | None:
        """The replacements of a name for inputs of up to ``width`` tokens, on a leading axis; None for "zero"."""
        found = self._found(name, width)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one.bare() for one in found)) if found else None

    def one(self, name: str, width: int) -> Replacement | None:
        """The first of them."""
        found = self._found(name, width)
        return found[0].bare() if found else None

    def stream(self, width: int) -> np.ndarray:
        """Tokens of the reference, one text after the other, of which others of ``width`` tokens can be drawn."""
        whole = np.concatenate(self._streams)[:_STREAM]
        return np.resize(whole, max(len(whole), width)).astype(np.int32)

    def _found(self, name: str, width: int) -> tuple[Replacement, ...]:
        if self.is_own(name):
            return self.own
        if name == "zero":
            return ()
        if name == "mean":
            return (self._mean(),)
        if width not in self._resampled:
            rows = self._streams
            enough = min(width, *map(len, rows))  # inputs are no longer, and what follows them is not read
            self._resampled = {width: tuple(_states_of(self.model, row[:enough]) for row in rows)}
        return self._resampled[width]

    def _mean(self) -> Replacement:
        ids, reference = self._marked_ids
        mark = self.model.fingerprint(), reference
        if mark not in _MEANS:
            _MEANS[mark] = self._kept(ids, reference)
            while len(_MEANS) > _MOST_MEANS:
                del _MEANS[next(iter(_MEANS))]
        return _MEANS[mark]

    def _kept(self, ids: list[np.ndarray], reference: str) -> Replacement:
        """Means that an earlier process kept, or new ones."""
        found = kept_means.find(self.model, reference)
        if found is None:
            found = mean_replacement(self.model, ids)
            kept_means.keep(self.model, reference, found)
        return found

    @functools.cached_property
    def _marked_ids(self) -> tuple[list[np.ndarray], str]:
        """Token ids of the texts that go into means, and their hash: once, not for every batch."""
        ids = _reference_ids(self.model, self.reference)
        return ids, reference_mark(ids)

    @functools.cached_property
    def _streams(self) -> list[np.ndarray]:
        """Token ids of other inputs, of different places of the reference."""
        return _streams(self.model, self.reference)


_MEANS: dict[tuple[str, str], Replacement] = {}
"""Means made in this process, by the model's fingerprint and the reference's token ids: they are small."""
_MOST_MEANS = 8


def _streams(model: Model, reference: Sequence[Tokens] | None) -> list[np.ndarray]:
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
    return token_ids(model, ids[: model.config.max_positions] if model.config.learned_positions else ids)


def named(model: Model, replace: Replace, reference: Reference = None) -> tuple[str, Replacing]:
    """The name of what was asked for, and what it stands for.

    Raises:
      InputError: another name, or replacements that are none, or another model's.
    """
    if isinstance(reference, str) or not isinstance(reference, Sequence | None):
        raise InputError(f"reference is {type(reference).__name__}, expected a list of texts or of token ids")
    if replace is None or isinstance(replace, str):
        name = "zero" if replace is None else str(replace)
        if name not in REPLACEMENTS:
            raise InputError(
                f"replace = {replace!r}, expected one of {', '.join(REPLACEMENTS)}, or a jstrace.Replacement"
            )
        return name, Replacing(model, reference)
    several = [replace] if isinstance(replace, Replacement) else list(_sequence(replace))
    for one in several:
        check_fits(checked_arrays(one), model.config, None)
        if one.model_fingerprint and one.model_fingerprint != model.fingerprint():
            raise InputError(
                f"the replacement was made with model {one.model_fingerprint}, this is {model.fingerprint()}"
            )
    layouts = {(one.attn_input.shape, one.per_token) for one in several}
    if len(layouts) != 1:
        shapes = sorted(shape for shape, _ in layouts)
        raise InputError(f"replacements of shapes {shapes}: to average over several, all need one shape and per_token")
    name = joined_name(several)
    if name == "zero":
        raise InputError("a replacement cannot be called zero: that is none")
    return name, Replacing(model, reference, several)


def joined_name(several: Sequence[Replacement]) -> str:
    """What replacements that are averaged over go by: each of their names once."""
    return "+".join(dict.fromkeys(one.name for one in several))


def _sequence(replace: Any) -> Sequence[Any]:
    if not isinstance(replace, Sequence) or not replace:
        raise InputError(f"replace is {type(replace).__name__}, expected a name, a jstrace.Replacement or several")
    return replace
