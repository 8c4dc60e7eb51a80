"""Modules by the names that they had before jstrace got its rooms; importing one warns and gives what it held."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_HOMES: dict[str, tuple[str, ...]] = {
    "batching": ("scale.batching", "scale.memory"),
    "cli_options": ("cli.options",),
    "cli_runs": ("cli.run", "cli.report"),
    "cli_trace": ("cli.trace", "cli.texts"),
    "compilation": ("scale.programs",),
    "composition": ("method.composition",),
    "contents": ("reports.contents",),
    "convert.families": ("convert.hf.families",),
    "convert.gguf_file": ("convert.gguf.file",),
    "convert.gguf_tokenizer": ("convert.gguf.tokenizer",),
    "convert.hf_config": ("convert.hf.config", "convert.validation"),
    "convert.hf_folder": ("convert.hf.folder",),
    "convert.hub": ("convert.hf.hub",),
    "convert.tokenizer": ("convert.stand_in", "convert.hf.tokenizer", "models.model"),
    "data": ("runs.data", "runs.row", "runs.wikitext", "runs.vocabulary"),
    "devices": ("scale.meshes", "scale.hosts", "models.sharding"),
    "evaluation": (
        "pipeline.evaluation",
        "pipeline.evaluating",
        "pipeline.masked",
        "method.conditions",
        "method.masks",
    ),
    "extraction": ("method.extraction", "method.conditions"),
    "figures": ("reports.figures",),
    "first_pass": ("method.first_pass", "method.conditions"),
    "graph": ("method.graph", "method.sizes", "method.edges", "method.indexing"),
    "machine": ("scale.machine",),
    "measures": ("method.measures", "method.sizes"),
    "model": ("loading", "models.model", "models.fingerprints"),
    "models.errors": ("errors",),
    "pipeline.store": ("archives",),
    "memory": ("scale.memory", "pipeline.footprint"),
    "plot": ("show.curves", "show.text"),
    "refinement": ("method.refinement",),
    "render": ("show.text", "show.tables", "show.records"),
    "report": ("reports.page",),
    "results": ("reports.results",),
    "run_folder": ("runs.folder", "runs.manifest", "runs.parts"),
    "scores": ("method.scores", "method.scoring", "method.conditions"),
    "statistics": ("reports.statistics", "reports.tables"),
    "store": ("files", "archives"),
    "tables": ("runs.parts", "runs.rows", "runs.schema"),
    "tracing": ("pipeline.tracing", "pipeline.trace", "pipeline.inputs", "pipeline.stages", "pipeline.padding"),
}
"""Old module to the modules that hold its names today, below ``jstrace``."""

_CHANGED = ("Entry", "between_models", "evaluate_batch", "extract_padded", "random_scores", "score_batch")
"""Names that take other arguments than they did there: better an error that says so."""

_RENAMED = {
    "FAMILIES": "EDGE_KINDS",
    "FROZEN_FAMILIES": "FROZEN_KINDS",
    "Measure": "Importance",
    "NormMeasure": "Norm",
    "ProximityMeasure": "Proximity",
    "CosineMeasure": "Cosine",
}
"""Names that are others now."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a module for an old name, each of whose attributes is looked up where it lives today."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("jstrace.") or fullname.removeprefix("jstrace.") not in _HOMES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        homes = [f"jstrace.{home}" for home in _HOMES[module.__name__.removeprefix("jstrace.")]]
        message = f"{module.__name__} is now {', '.join(homes)}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        module.__dict__.update(__doc__=message, __getattr__=_looking_in(module.__name__, homes))


def _looking_in(name: str, homes: Sequence[str]) -> Callable[[str], Any]:
    def find(attribute: str) -> Any:
        modules = [importlib.import_module(home) for home in homes]
        if attribute == "__all__":  # a star import takes what the old module would have given
            return [
                key for module in modules for key in vars(module) if not key.startswith("_") and key not in _CHANGED
            ]
        if attribute in _CHANGED:
            raise ImportError(f"{name}.{attribute} is gone: what took its place takes other arguments ({homes[0]})")
        for there in (attribute, _RENAMED.get(attribute, attribute)):
            for module in modules:
                if not attribute.startswith("__") and hasattr(module, there):
                    return getattr(module, there)
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    return find


def renamed(lazy: Callable[[str], Any], package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's ``__getattr__`` that also knows old names: each with the path of what it is called today."""

    def find(attribute: str) -> Any:
        if attribute not in names:
            return lazy(attribute)
        warnings.warn(f"{package}.{attribute} is now {names[attribute]}", DeprecationWarning, stacklevel=2)
        module, _, name = names[attribute].rpartition(".")
        return getattr(importlib.import_module(module), name)

    return find


def nothing_else(package: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that knows no name, for ``renamed``."""

    def find(attribute: str) -> Any:
        raise AttributeError(f"module {package!r} has no attribute {attribute!r}")

    return find


def install() -> None:
    """Have Python find modules by their old names, after all others."""
    if not any(type(finder).__name__ == "_Finder" and type(finder).__module__ == __name__ for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
