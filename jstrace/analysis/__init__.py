"""A trace as a network: degrees, betweenness, PageRank, communities and hubs; imports no JAX but through ``pipeline``.

``networks`` and ``measures`` work on strata alone, so that reports, which do without JAX, have them, too. Imports
``pipeline`` for the type of a trace; ``show``, ``reports`` and ``cli`` import it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
