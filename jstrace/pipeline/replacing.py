"""What names of replacements stand for with one model, and what is given in their place (section 8 of the method)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.errors import did_you_mean
from jstrace.method.conditions import COUNTERFACTUAL, REPLACEMENTS
from jstrace.models import InputError, Model, Replacement
from jstrace.models.replacement import check_fits, checked_arrays
from jstrace.pipeline import kept_means
from jstrace.pipeline.inputs import Tokens
from jstrace.pipeline.reference import mean_ids, mean_replacement, reference_mark, reference_streams, states_of

_STREAM = 4096
"""Tokens, at most, that scores draw other inputs from."""

_MEANS: dict[tuple[str, str], Replacement] = {}
"""Means made in this process, by the model's fingerprint and the reference's token ids: they are small."""
_MOST_MEANS = 8

Replace = Replacement | Sequence[Replacement] | str | None
"""One of ``REPLACEMENTS``, a replacement, or several whose measures are averaged; None is "zero"."""

Reference = Sequence[Tokens] | None
"""Texts or token ids that means and resampled states are made of; None is what comes with jstrace."""


class Replacing:
    """What names of replacements stand for with one model, made when first asked for."""

    def __init__(self, model: Model, reference: Reference = None, own: Sequence[Replacement] = ()) -> None:
        """Of reference texts, by default the built-in ones; ``own`` ones take the place of what has their name."""
        self.model, self.reference, self.own = model, reference, tuple(own)
        self._resampled: dict[int, tuple[Replacement, ...]] = {}

    def check(self, n_tokens: int, names: Sequence[str] = ()) -> None:
        """Refuse an input of other length than one's own replacements, or longer than what there is to resample.

        Raises:
          InputError: with both numbers.
        """
        for replacement in self.own:
            check_fits(replacement, self.model.config, n_tokens)
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
        bare = [replacement.bare() for replacement in self._all(name, width)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bare) if bare else None

    def first(self, name: str, width: int) -> Replacement | None:
        """The first of them."""
        several = self._all(name, width)
        return several[0].bare() if several else None

    def stream(self, width: int) -> np.ndarray:
        """Tokens of the reference, one text after the other, of which others of ``width`` tokens can be drawn."""
        whole = np.concatenate(self._streams)[:_STREAM]
        return np.resize(whole, max(len(whole), width)).astype(np.int32)

    def _all(self, name: str, width: int) -> tuple[Replacement, ...]:
        if self.is_own(name):
            return self.own
        if name in ("zero", COUNTERFACTUAL):  # which is each input's own
            return ()
        if name == "mean":
            return (self._mean(),)
        if width not in self._resampled:
            rows = self._streams
            enough = min(width, *map(len, rows))  # inputs are no longer, and what follows them is not read
            self._resampled = {width: tuple(states_of(self.model, row[:enough]) for row in rows)}
        return self._resampled[width]

    def _mean(self) -> Replacement:
        ids, reference = self._marked_ids
        mark = self.model.fingerprint(), reference
        if mark not in _MEANS:
            _MEANS[mark] = self._read_or_made(ids, reference)
            while len(_MEANS) > _MOST_MEANS:
                del _MEANS[next(iter(_MEANS))]
        return _MEANS[mark]

    def _read_or_made(self, ids: list[np.ndarray], reference: str) -> Replacement:
        """Means that an earlier process kept, or new ones."""
        means = kept_means.find(self.model, reference)
        if means is None:
            means = mean_replacement(self.model, ids)
            kept_means.keep(self.model, reference, means)
        return means

    @functools.cached_property
    def _marked_ids(self) -> tuple[list[np.ndarray], str]:
        """Token ids of the texts that go into means, and their hash: once, not for every batch."""
        ids = mean_ids(self.model, self.reference)
        return ids, reference_mark(ids)

    @functools.cached_property
    def _streams(self) -> list[np.ndarray]:
        """Token ids of other inputs, of different places of the reference."""
        return reference_streams(self.model, self.reference)


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
                f"{did_you_mean(replace, REPLACEMENTS)}"
            )
        return name, Replacing(model, reference)
    several = [replace] if isinstance(replace, Replacement) else list(_sequence(replace))
    for replacement in several:
        check_fits(checked_arrays(replacement), model.config, None)
        made_with = replacement.model_fingerprint
        if made_with and made_with != model.fingerprint():
            raise InputError(f"the replacement was made with model {made_with}, this is {model.fingerprint()}")
    layouts = {(replacement.attn_input.shape, replacement.per_token) for replacement in several}
    if len(layouts) != 1:
        shapes = sorted(shape for shape, _ in layouts)
        raise InputError(f"replacements of shapes {shapes}: to average over several, all need one shape and per_token")
    name = joined_name(several)
    if name == "zero":
        raise InputError("a replacement cannot be called zero: that is none")
    return name, Replacing(model, reference, several)


def joined_name(several: Sequence[Replacement]) -> str:
    """What replacements that are averaged over go by: each of their names once."""
    return "+".join(dict.fromkeys(replacement.name for replacement in several))


def _sequence(replace: Any) -> Sequence[Any]:
    if not isinstance(replace, Sequence) or not replace:
        raise InputError(f"replace is {type(replace).__name__}, expected a name, a jstrace.Replacement or several")
    return replace


def _arrays_mark(several: Sequence[Replacement]) -> str:
    """A short hash of replacements."""
    digest = hashlib.sha256()
    for replacement in several:
        for name, array in replacement.arrays().items():
            digest.update(f"{name}{array.shape}".encode() + np.asarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]
