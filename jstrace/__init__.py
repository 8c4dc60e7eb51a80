"""s-Trace in JAX: how much of a language model does this prediction really use?

Names are imported when first used, so that ``jstrace --help`` does not wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jstrace.evaluation import Evaluation, evaluate
    from jstrace.extraction import extract
    from jstrace.graph import SIZES, Edge
    from jstrace.model import Model, load
    from jstrace.models import EdgeTree, InputError, ModelConfig, make_mesh
    from jstrace.tracing import Trace, trace

__version__ = "0.1.0"

_HOMES = {
    "Edge": "jstrace.graph",
    "EdgeTree": "jstrace.models",
    "Evaluation": "jstrace.evaluation",
    "InputError": "jstrace.models",
    "Model": "jstrace.model",
    "ModelConfig": "jstrace.models",
    "SIZES": "jstrace.graph",
    "Trace": "jstrace.tracing",
    "evaluate": "jstrace.evaluation",
    "extract": "jstrace.extraction",
    "load": "jstrace.model",
    "make_mesh": "jstrace.models",
    "trace": "jstrace.tracing",
}

__all__ = [
    "SIZES",
    "Edge",
    "EdgeTree",
    "Evaluation",
    "InputError",
    "Model",
    "ModelConfig",
    "Trace",
    "evaluate",
    "extract",
    "load",
    "make_mesh",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
