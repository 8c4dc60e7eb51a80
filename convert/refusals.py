"""What a source is refused for, whatever its format is: no room, no such way to store its weights, failing reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jstrace.models import InputError, ModelConfig, weight_bytes
from jstrace.models.memory import resident_memory
from jstrace.models.narrow import STORED
from jstrace.models.streamed import STREAMED

_ROOM = "try dtype bfloat16, weights int8 or int4, or a mesh of several devices"
_NO_MACHINE_HAS = 2**50
"""Bytes; of shapes beyond 2^63 JAX complains in ways of many kinds."""


def check_way(source: str, way: str, *, blocks: bool, safetensors: bool) -> None:
    """Refuse ways to store weights that the format of a source does not have.

    Raises:
      InputError: with what would do.
    """
    if way == STORED and not blocks:
        raise InputError(f"{source}: holds no blocks, which weights stored keeps of GGUF files; use weights int8")
    if way == STREAMED and not safetensors:
        raise InputError(f"{source}: weights streamed reads layers of a Hugging Face model, which this is not")


def check_room(config: ModelConfig, dtype: jnp.dtype, *, narrow: str) -> None:
    """Refuse to draw for minutes what a CPU's memory cannot hold, and what no device's can.

    Raises:
      InputError: it cannot.
    """
    needed = weight_bytes(config, dtype.itemsize, narrow=narrow)
    there = resident_memory() if jax.default_backend() == "cpu" else None
    if needed > (there or _NO_MACHINE_HAS):
        raise InputError(f"{needed / 1e9:.0f} GB of weights do not fit into this machine's memory; {_ROOM}")


@contextlib.contextmanager
def refusing(source: str) -> Iterator[None]:
    """Turn what the system says of files and of memory into an ``InputError``.

    Other errors are left as they are: what damaged files raise is refused where each is parsed, and the rest are bugs.
    """
    try:
        yield
    except InputError:
        raise
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"{source}: its weights do not fit into the device's memory; {_ROOM}") from error
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
    except MemoryError as error:
        raise InputError(f"{source}: its weights do not fit into memory; {_ROOM}") from error
