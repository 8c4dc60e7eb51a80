"""Decoders as pure functions of weights, tokens and an edge mask: the lowest sub-package.

The axis alphabet and ``EdgeTree``, configs and families, layers and the one decoder, sharding, fingerprints, and a
decoder with its tokenizer. Names are imported when first used (``__init__.pyi`` lists them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
