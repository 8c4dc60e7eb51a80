"""Datasets through a model into tables; a run that was interrupted resumes.

Rows in, parquet parts out; manifest, schema and parts import no JAX. Imports ``pipeline`` and what stands below it;
``reports`` and ``cli`` import it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
