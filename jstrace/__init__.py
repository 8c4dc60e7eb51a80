"""s-Trace in JAX: how much of a language model does this prediction really use?

Names are imported when first used (``__init__.pyi`` lists them), so that ``jstrace --help`` does not wait for JAX.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    """The public names, before any of them is imported."""
    return [*__all__, "__version__"]
