"""Inputs through the method, in batches on devices: the jitted stages, the one driver, ``trace`` and ``evaluate``.

A ``Trace`` and an ``Evaluation`` come out of it. Imports ``method``, ``scale`` and ``models``; ``runs``, ``show`` and
what follows import it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
