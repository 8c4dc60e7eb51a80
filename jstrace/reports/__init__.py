"""Runs as numbers, figures, tables and one page that needs nothing else; imports no JAX.

Imports ``runs`` (of it what reads folders), ``show.text``, ``method.conditions``, ``files`` and errors; ``cli`` imports
it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
