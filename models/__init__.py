"""Decoders as pure functions of weights, tokens and an edge mask."""

from jstrace.models.config import ModelConfig
from jstrace.models.decoder import Clean, Decoder, Measure, clean_forward, masked_forward
from jstrace.models.edges import FAMILIES, AnyArray, EdgeTree
from jstrace.models.errors import InputError
from jstrace.models.params import Params, n_params, random_params, shapes
from jstrace.models.presets import PRESETS, preset
from jstrace.models.rows import every_row, live_rows
from jstrace.models.sharding import make_mesh, param_shardings

__all__ = [
    "FAMILIES",
    "PRESETS",
    "AnyArray",
    "Clean",
    "Decoder",
    "EdgeTree",
    "InputError",
    "Measure",
    "ModelConfig",
    "Params",
    "clean_forward",
    "every_row",
    "live_rows",
    "make_mesh",
    "masked_forward",
    "n_params",
    "param_shardings",
    "preset",
    "random_params",
    "shapes",
]
