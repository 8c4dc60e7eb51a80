"""Means of reference texts, kept beside the compiled programs for the next process: a pass over the texts takes longer
than a trace.

An entry goes by the model's fingerprint, the tokens of the reference, and whatever else the numbers hang on. Where
JAX's cache is not switched on, and with several hosts, of which one might lack what the others have, none is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp

from jstrace.models import InputError, Model, Replacement
from jstrace.models.replacement import ARRAYS

FOLDER = "means"
_VERSION = 1
"""To be raised when means of the same texts become others."""
_MOST = 32
"""Entries, of which those not used for longest go first."""


def find(model: Model, reference: str) -> Replacement | None:
    """The means of a model over a reference, known by the hash of its tokens, if they are kept and whole."""
    path = _path(model, reference)
    if path is None or not path.is_file():
        return None
    try:
        found = Replacement.load(path)
        path.touch()  # by which the least used are known
    except (InputError, OSError):
        return None
    if found.name != "mean" or found.model_fingerprint != model.fingerprint():
        return None
    arrays = {name: jnp.asarray(getattr(found, name), model.dtype) for name in ARRAYS}
    return Replacement(**arrays, name=found.name, model_fingerprint=found.model_fingerprint)


def keep(model: Model, reference: str, means: Replacement) -> None:
    """Keep means where there is a folder for them; where it cannot be written the next process makes them again."""
    path = _path(model, reference)
    if path is None:
        return
    with contextlib.suppress(InputError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        means.save(path)
        there = sorted(path.parent.glob("*.npz"), key=lambda entry: entry.stat().st_mtime)
        for entry in there[:-_MOST]:
            entry.unlink()


def _path(model: Model, reference: str) -> Path | None:
    """Of an entry, in the folder of the programs that JAX keeps."""
    programs = jax.config.values["jax_compilation_cache_dir"]
    if not programs or not jax.config.values["jax_enable_compilation_cache"] or jax.process_count() > 1:
        return None
    if "://" in programs:  # JAX writes to stores, too
        return None
    told = (_VERSION, model.fingerprint(), reference, str(model.dtype), jax.default_backend(), jax.__version__)
    return Path(programs) / FOLDER / f"{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}.npz"
