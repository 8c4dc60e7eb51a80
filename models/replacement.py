"""What ablated edges carry in the place of their own vectors (section 8 of the method)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jstrace import archives
from jstrace.errors import InputError
from jstrace.models.config import ModelConfig
from jstrace.models.edges import AnyArray

FORMAT, VERSION = "jstrace-replacement", 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Replacement:
    """What an ablated edge carries: with its vector x and its mask m, bool or soft, it is m x + (1 - m) r.

    An attention edge keeps its probability, recomputed from the masked states, and replaces its value:
    ``A_ij W_O (m v_j + (1 - m) r_j)``. Every array has for each layer either one entry a token, N = T, or N = 2: one
    for the first token and one for all others; ``per_token`` says which. Inside a scan the layer axis is gone. Two
    replacements are equal only if they are the same object.
    """

    attn_input: Float[AnyArray, "*L N D"]
    """The residual state that enters attention, of ``residual_attn`` edges."""
    values: Float[AnyArray, "*L N K e"]
    """The value vectors of the key/value heads, of ``attn`` edges; where layers have unlike heads, K and e are the
    largest, and the entries that a layer does not have are zero and not read."""
    mlp_input: Float[AnyArray, "*L N D"]
    """The residual state that enters the MLP, of ``residual_mlp`` edges; not read in parallel blocks."""
    mlp_output: Float[AnyArray, "*L N D"]
    """The MLP's output, norms included, of ``mlp`` edges."""
    name: str = dataclasses.field(default="own", metadata={"static": True})
    """What tables call it."""
    model_fingerprint: str = dataclasses.field(default="", metadata={"static": True})
    """Of the model that it was made with; empty where it may serve any of the same shape."""
    per_token: bool = dataclasses.field(default=None, metadata={"static": True})  # type: ignore[assignment]
    """Whether there is one entry a token, for texts of N tokens alone; else one for the first token and one for all
    others. Where it is not given, two entries are the latter, and any other number the former."""

    def __post_init__(self) -> None:
        """Settle ``per_token`` once, so that nothing later has to guess it from a shape."""
        if self.per_token is None:
            shape = getattr(self.attn_input, "shape", ())
            object.__setattr__(self, "per_token", shape[-2:-1] != (_SHARED,))

    def arrays(self) -> dict[str, Any]:
        """The four arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def bare(self) -> Replacement:
        """Without name and fingerprint, for which programs would be compiled anew."""
        return Replacement(**self.arrays(), per_token=self.per_token)

    def spread(self, n_tokens: int) -> Replacement:
        """With one entry for each of ``n_tokens`` tokens; the last stands for all those after it."""
        return Replacement(
            **{name: _spread(array, n_tokens, -3 if name == "values" else -2) for name, array in self.arrays().items()},
            name=self.name, model_fingerprint=self.model_fingerprint, per_token=True,
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing; half precision is written as float32.

        Raises:
          InputError: the path cannot be written.
        """
        header = {"format": FORMAT, "version": VERSION} | {name: getattr(self, name) for name in _STATIC}
        wide = {name: np.asarray(array, np.float32) for name, array in self.arrays().items()}
        archives.write(Path(path), header, wide)

    @staticmethod
    def load(path: str | Path) -> Replacement:
        """Read a file written by ``save``.

        Raises:
          InputError: no such file, not a replacement, of a newer version, or damaged.
        """
        path = Path(path)
        with archives.reading(path, "replacement"):
            header, arrays = archives.read(
                path, kind=FORMAT, version=VERSION, check=lambda *said: _check_said(path, *said)
            )
            said: dict[str, Any] = {
                name: header[name] for name in _STATIC if name in header
            }  # older files say no layout
            return checked_arrays(Replacement(**said | arrays), f"{path}: ")

    def __repr__(self) -> str:
        """Short."""
        layers, entries = self.attn_input.shape[-3:-1]
        return f"Replacement({self.name!r}, {layers} layers, {entries} entries a layer)"


ARRAYS = ("attn_input", "values", "mlp_input", "mlp_output")
_STATIC = ("name", "model_fingerprint", "per_token")
_SHARED = 2
"""Entries, where one is the first token's and one all others'."""


def _check_said(path: Path, header: dict[str, Any], outlines: Mapping[str, archives.Outline]) -> None:
    """Refuse other arrays or names, and arrays that a file of this size cannot hold, before they are read."""
    names = header["name"], header["model_fingerprint"]
    if set(outlines) != set(ARRAYS) or not all(isinstance(name, str) for name in names):
        raise ValueError("its arrays or names are others")
    if not isinstance(header.get("per_token", True), bool):
        raise ValueError("its layout is neither of the two")
    if any(outline.dtype != np.float32 for outline in outlines.values()):
        raise ValueError("its arrays are not float32")
    archives.check_density(path, outlines)


def _spread(array: Array, n_tokens: int, axis: int) -> Array:
    return jnp.take(array, jnp.arange(n_tokens), axis=axis, mode="clip")


def checked_arrays(replacement: Any, where: str = "") -> Replacement:
    """A replacement whose four arrays are finite floats of one number of layers and entries.

    Raises:
      InputError: with the reason, after ``where``, which names it.
    """
    if not isinstance(replacement, Replacement):
        raise InputError(f"{where}replace is {type(replacement).__name__}, expected a jstrace.Replacement")
    for name, array in replacement.arrays().items():
        axes, kind = 4 if name == "values" else 3, getattr(array, "dtype", None)
        if kind is None or not jnp.issubdtype(kind, jnp.floating) or array.ndim != axes:
            raise InputError(f"{where}replacement {name} is {kind}{np.shape(array)}, expected floats of {axes} axes")
        if not isinstance(array, jax.core.Tracer) and not bool(np.isfinite(np.asarray(array, np.float32)).all()):
            raise InputError(f"{where}replacement {name} holds NaN or infinities")
    shapes = {name: array.shape for name, array in replacement.arrays().items()}
    rest = {shape[:2] if name == "values" else shape for name, shape in shapes.items()}
    if rest != {shapes["attn_input"][:2], shapes["attn_input"]} or not all(map(all, shapes.values())):
        raise InputError(f"{where}the replacement's arrays are of different layers, entries or widths: {shapes}")
    if not replacement.per_token and shapes["values"][1] != _SHARED:
        raise InputError(
            f"{where}the replacement has {shapes['values'][1]} entries a layer, expected {_SHARED}, for the first token"
            " and for all others; for one a token give per_token=True"
        )
    return replacement


def check_fits(replacement: Replacement, config: ModelConfig, n_tokens: int | None, where: str = "") -> None:
    """Refuse a replacement of another model's shape, or of another number of tokens.

    Raises:
      InputError: with both shapes.
    """
    layers, entries, width = replacement.attn_input.shape
    heads = replacement.values.shape[2:]
    n_kv_heads, _, value = config.widest
    wanted = (config.n_layers, config.d_model, n_kv_heads, value)
    if (layers, width, *heads) != wanted:
        raise InputError(
            f"{where}the replacement is of layers, width, key/value heads and their width {(layers, width, *heads)},"
            f" the model of {wanted}: another model's"
        )
    if n_tokens is not None and replacement.per_token and entries != n_tokens:
        raise InputError(f"{where}the replacement is of {entries} tokens, the input of {n_tokens}")
