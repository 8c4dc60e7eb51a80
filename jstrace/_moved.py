"""Modules by the names that they had before jstrace got its rooms; importing one warns and gives what it held."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

_HOMES: dict[str, tuple[str, ...]] = {
    "batching": ("scale.batching",),
    "compilation": ("scale.programs",),
    "composition": ("method.composition",),
    "contents": ("reports.contents",),
    "data": ("runs.data", "runs.wikitext", "runs.vocabulary"),
    "devices": ("scale.meshes", "scale.hosts", "models.sharding"),
    "evaluation": (
        "pipeline.evaluation",
        "pipeline.evaluating",
        "pipeline.masked",
        "method.conditions",
        "method.masks",
    ),
    "extraction": ("method.extraction",),
    "figures": ("reports.figures",),
    "first_pass": ("method.first_pass",),
    "graph": ("method.graph", "method.sizes", "method.edges", "method.indexing"),
    "machine": ("scale.machine",),
    "measures": ("method.measures", "method.sizes"),
    "memory": ("scale.memory", "pipeline.footprint"),
    "plot": ("show.curves", "show.text"),
    "refinement": ("method.refinement",),
    "render": ("show.text", "show.tables"),
    "report": ("reports.page",),
    "results": ("reports.results",),
    "run_folder": ("runs.folder", "runs.manifest"),
    "scores": ("method.scores", "method.conditions"),
    "statistics": ("reports.statistics", "reports.tables"),
    "store": ("files", "pipeline.store"),
    "tables": ("runs.parts", "runs.rows", "runs.schema"),
    "tracing": ("pipeline.tracing", "pipeline.trace", "pipeline.inputs", "pipeline.stages"),
}
"""Old module to the modules that hold its names today, below ``jstrace``."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module for an old name, each of whose attributes is looked up where it lives today."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        if package != "jstrace" or name not in _HOMES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        homes = [f"jstrace.{home}" for home in _HOMES[module.__name__.rpartition(".")[2]]]
        message = f"{module.__name__} is now {', '.join(homes)}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module.__dict__.update(__doc__=message, __getattr__=_looking_in(module.__name__, homes))


def _looking_in(name: str, homes: Sequence[str]) -> Callable[[str], Any]:
    def find(attribute: str) -> Any:
        if not attribute.startswith("__"):
            for home in homes:
                module = importlib.import_module(home)
                if hasattr(module, attribute):
                    return getattr(module, attribute)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    return find


def or_in(lazy: Callable[[str], Any], package: str, *homes: str) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that also looks where names of the old module that was called so live today."""

    def find(attribute: str) -> Any:
        try:
            return lazy(attribute)
        except AttributeError:
            found = _looking_in(package, homes)(attribute)
        warnings.warn(f"{package}.{attribute} is now in {', '.join(homes)}", DeprecationWarning, stacklevel=2)
        return found

    return find


def install() -> None:
    """Have Python find modules by their old names, after all others."""
    if not any(type(finder).__name__ == "_Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
