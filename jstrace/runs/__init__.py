"""Datasets through a model into tables that outlive whatever stops a run, and go on where it stopped.

Rows in, parquet parts out; manifest, schema and parts import no JAX. Imports ``pipeline`` and the rooms before it;
``reports`` and ``cli`` import it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
