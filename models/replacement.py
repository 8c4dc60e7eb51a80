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
    for the first token and one for all others. Inside a scan the layer axis is gone.
    """

    attn_input: Float[AnyArray, "*L N D"]
    """The residual state that enters attention, of ``residual_attn`` edges."""
    values: Float[AnyArray, "*L N K d"]
    """The value vectors of the key/value heads, of ``attn`` edges."""
    mlp_input: Float[AnyArray, "*L N D"]
    """The residual state that enters the MLP, of ``residual_mlp`` edges; not read in parallel blocks."""
    mlp_output: Float[AnyArray, "*L N D"]
    """The MLP's output, norms included, of ``mlp`` edges."""
    name: str = dataclasses.field(default="own", metadata={"static": True})
    """What tables call it."""
    model_fingerprint: str = dataclasses.field(default="", metadata={"static": True})
    """Of the model that it was made with; empty where it may serve any of the same shape."""

    def arrays(self) -> dict[str, Any]:
        """The four arrays by name."""
        return {name: getattr(self, name) for name in ARRAYS}

    def bare(self) -> Replacement:
        """Without name and fingerprint, for which programs would be compiled anew."""
        return Replacement(**self.arrays())

    def save(self, path: str | Path) -> None:
        """Write an ``.npz`` file without pickle, all or nothing; half precision is written as float32.

        Raises:
          InputError: the path cannot be written.
        """
        header = {"format": FORMAT, "version": VERSION, "name": self.name, "model_fingerprint": self.model_fingerprint}
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
            name, mark = header["name"], header["model_fingerprint"]
            found = Replacement(**arrays, name=name, model_fingerprint=mark)
            return checked_arrays(found, f"{path}: ")

    def __repr__(self) -> str:
        """Short."""
        layers, entries = self.attn_input.shape[-3:-1]
        return f"Replacement({self.name!r}, {layers} layers, {entries} entries a layer)"


ARRAYS = ("attn_input", "values", "mlp_input", "mlp_output")


def _check_said(path: Path, header: dict[str, Any], outlines: Mapping[str, archives.Outline]) -> None:
    """Refuse other arrays or names, and arrays that a file of this size cannot hold, before they are read."""
    names = header["name"], header["model_fingerprint"]
    if set(outlines) != set(ARRAYS) or not all(isinstance(name, str) for name in names):
        raise ValueError("its arrays or names are others")
    if any(outline.dtype != np.float32 for outline in outlines.values()):
        raise ValueError("its arrays are not float32")
    archives.check_density(path, outlines)


def spread(array: Float[Array, "N *X"], n_tokens: int) -> Float[Array, "T *X"]:
    """One entry for each of ``n_tokens`` tokens; the last stands for all those after it."""
    return array[jnp.minimum(jnp.arange(n_tokens), array.shape[0] - 1)]


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
    return replacement


def check_fits(replacement: Replacement, config: ModelConfig, n_tokens: int | None, where: str = "") -> None:
    """Refuse a replacement of another model's shape, or of another number of tokens.

    Raises:
      InputError: with both shapes.
    """
    layers, entries, width = replacement.attn_input.shape
    heads = replacement.values.shape[2:]
    if (layers, width, *heads) != (config.n_layers, config.d_model, config.n_kv_heads, config.head_dim):
        wanted = (config.n_layers, config.d_model, config.n_kv_heads, config.head_dim)
        raise InputError(
            f"{where}the replacement is of layers, width, key/value heads and their width {(layers, width, *heads)},"
            f" the model of {wanted}: another model's"
        )
    if n_tokens is not None and entries not in (2, n_tokens):
        raise InputError(f"{where}the replacement is of {entries} tokens, the input of {n_tokens}")
