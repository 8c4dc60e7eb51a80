"""Named matrices of a checkpoint to stacked parameters: each used exactly once, each shape checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jstrace.models import InputError, ModelConfig, shapes

Read = Callable[[str], np.ndarray]
"""Reads one weight by its name in Hugging Face's spelling, in Hugging Face's (out, in) layout."""

_TOP = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}
_LAYER = {
    "attn_norm": "model.layers.{}.input_layernorm.weight",
    "q": "model.layers.{}.self_attn.q_proj.weight",
    "k": "model.layers.{}.self_attn.k_proj.weight",
    "v": "model.layers.{}.self_attn.v_proj.weight",
    "o": "model.layers.{}.self_attn.o_proj.weight",
    "mlp_norm": "model.layers.{}.post_attention_layernorm.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
}
_FLOATS = ("float32", "bfloat16", "float16", "float64")
_MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
"""Weights that files hold as (out, in) and the model as (in, out), with heads apart."""
_UNUSED_SUFFIXES = (".rotary_emb.inv_freq",)
"""Buffers that old checkpoints carry and that follow from the config."""


def file_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one layer's weight in the file: matrices are (out, in), with heads flattened."""
    name = path[-1]
    if name in ("q", "k", "v"):
        return (shape[1] * shape[2], shape[0])
    if name == "o":
        return (shape[2], shape[0] * shape[1])
    return shape[::-1] if name in _MATRICES else shape


def build_params(
    config: ModelConfig, names: Iterable[str], read: Read, *, dtype: jnp.dtype, where: str
) -> dict[str, Any]:
    """Stacked parameters of ``config`` from the weights called ``names``, one leaf at a time.

    Raises:
      InputError: a weight is missing, left over, of the wrong shape, or not finite.
    """
    available = {name for name in names if not name.endswith(_UNUSED_SUFFIXES)}
    used: set[str] = set()

    def load(name: str, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if name not in available:
            raise InputError(f"{where}: weight {name} is missing")
        used.add(name)
        value, expected = read(name), file_shape(path, shape)
        if value.shape != expected:
            raise InputError(f"{where}: weight {name} has shape {value.shape}, expected {expected}")
        if value.dtype.name not in _FLOATS:
            raise InputError(f"{where}: weight {name} has dtype {value.dtype}, expected one of {', '.join(_FLOATS)}")
        value = _checked(value, name, where)
        return value.T.reshape(shape) if path[-1] in _MATRICES else value

    def leaf(path: tuple[str, ...], blank: jax.ShapeDtypeStruct) -> jax.Array:
        if path[0] == "layers":
            stack = np.empty(blank.shape, blank.dtype)
            for index in range(config.n_layers):
                stack[index] = load(_LAYER[path[1]].format(index), path, blank.shape[1:])
        else:
            stack = load(_TOP[path[0]], path, blank.shape).astype(blank.dtype)
        return jnp.asarray(stack)

    params = _map_with_path(leaf, shapes(config, dtype))
    _check_left_over(available - used, config, read, where)
    return params


def _map_with_path(leaf: Callable[..., jax.Array], tree: Mapping[str, Any]) -> dict[str, Any]:
    def visit(path: Any, blank: jax.ShapeDtypeStruct) -> jax.Array:
        return leaf(tuple(key.key for key in path), blank)

    return jax.tree_util.tree_map_with_path(visit, dict(tree))


def _checked(value: np.ndarray, name: str, where: str) -> np.ndarray:
    """The value itself, if every number in it is finite."""
    finite = np.isfinite(value)
    if not finite.all():
        position = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise InputError(f"{where}: weight {name} is {value[position]} at {position}; the file is damaged")
    return value


def _check_left_over(left: set[str], config: ModelConfig, read: Read, where: str) -> None:
    """Refuse weights that nothing used; a tied head may be stored twice if it is the embedding."""
    head = _TOP["head"]
    if config.tied_head and head in left:
        if not np.array_equal(read(head), read(_TOP["embed"])):
            raise InputError(f"{where}: {head} differs from the embedding although the config ties them")
        left = left - {head}
    if left:
        raise InputError(f"{where}: {len(left)} weights are not part of this architecture, such as {min(left)}")
