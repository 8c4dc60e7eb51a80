"""Means of reference texts, kept beside the compiled programs for the next process: a pass over the texts takes longer
than a trace.

An entry goes by the model's fingerprint, the tokens of the reference, and whatever else the numbers hang on. None is
kept before ``keep_programs`` was called (``jstrace.enable_cache``, the command line), nor with several hosts, of which
one might lack what the others have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace import models
from jstrace.files import remove_beyond
from jstrace.models import InputError, Model, Replacement
from jstrace.models.replacement import ARRAYS, check_fits, checked_arrays
from jstrace.scale import programs

FOLDER = "means"
_MOST = 32
"""Files, of which those not used for longest go first."""


def find(model: Model, reference: str) -> Replacement | None:
    """The means of a model over a reference, known by the hash of its tokens, if they are kept and whole."""
    path = _path(model, reference)
    if path is None:
        return None
    try:
        if not path.is_file():
            return None
        means = Replacement.load(path)
        if (means.name, means.model_fingerprint, means.per_token) != ("mean", model.fingerprint(), False):
            return None
        check_fits(means, model.config, None)
        with np.errstate(over="ignore"):  # what is infinite then is refused
            arrays: dict[str, Any] = {name: jnp.asarray(getattr(means, name), model.dtype) for name in ARRAYS}
        means = dataclasses.replace(means, **arrays)
        checked_arrays(means, f"{path}: ")
    except (InputError, OSError):
        return None
    with contextlib.suppress(OSError):  # another user's, who may not be told that it was used
        os.utime(path)
    return means


def keep(model: Model, reference: str, means: Replacement) -> None:
    """Keep means where there is a folder for them; where it cannot be written the next process makes them again."""
    path = _path(model, reference)
    if path is None:
        return
    with contextlib.suppress(InputError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        means.save(path)
        there = sorted(path.parent.glob("*.npz"), key=lambda entry: entry.stat().st_mtime)
        remove_beyond(((entry, 1) for entry in there), _MOST)


def _path(model: Model, reference: str) -> Path | None:
    """Of an entry, in the folder of the programs that are kept."""
    folder = programs.kept_in()
    if folder is None or "://" in folder or jax.process_count() > 1:  # JAX writes to stores, too
        return None
    weights = model.decoder.embed[...]
    where = (len(weights.sharding.device_set), *sorted({device.device_kind for device in weights.sharding.device_set}))
    told = (model.fingerprint(), reference, str(model.dtype), jax.__version__, where, _sources())
    return Path(folder) / FOLDER / f"{hashlib.sha256(repr(told).encode()).hexdigest()[:32]}.npz"


@functools.cache
def _sources() -> str:
    """A hash of the code that the numbers hang on: means of another version's forward pass are others."""
    files = [*Path(models.__path__[0]).glob("*.py"), Path(__file__).with_name("reference.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()
