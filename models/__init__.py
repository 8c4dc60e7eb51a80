"""Decoders as pure functions of weights, tokens and an edge mask: the bottom room.

The axis alphabet and ``EdgeTree``, configs and families, layers and the one decoder, sharding, fingerprints, and a
decoder with its tokenizer. Names are imported when first used (``__init__.pyi`` lists them).
"""

import lazy_loader

from jstrace import _moved

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = _moved.renamed(
    _lazy,
    __name__,
    {"Measure": "jstrace.models.clean.Importance", "FAMILIES": "jstrace.models.edges.EDGE_KINDS"},
)
