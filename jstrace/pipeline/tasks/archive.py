"""The file of a task's circuit: an ``.npz`` archive without pickle, checked before anything of it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace import archives
from jstrace.method.conditions import checked_seed
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import checked_sizes
from jstrace.models import EDGE_KINDS, EdgeTree, ModelConfig, edge_shapes
from jstrace.pipeline.tasks.alignment import ALIGNMENTS, LEVELS

FORMAT, VERSION = "jstrace-task", 1
_TEXTS = ("align", "level", "score", "score_replace", "replace", "reference", "model_fingerprint")
_JUDGED = ("metric", "ends", "tv", "kept")
_MOST_PAIRS = 10**6


def write(path: Path, circuit: Any) -> None:
    """Write a ``TaskCircuit``, all or nothing."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(circuit.config),
        "classes": circuit.classes,
        "sizes": circuit.sizes,
        "seed": circuit.seed,
        "n_pairs": circuit.n_pairs,
        "n_held_out": max((len(curve.tv) for curve in circuit.judged.values()), default=0),
        "judged": [*circuit.judged],
        "overlap": circuit.overlap is not None,
        **{name: getattr(circuit, name) for name in _TEXTS},
        **({"weights": circuit.weights} if circuit.weights else {}),
    }
    arrays = {f"images.{kind}": leaf for kind, leaf in circuit.images.items()}
    arrays |= {f"{name}.{field}": getattr(curve, field) for name, curve in circuit.judged.items() for field in _JUDGED}
    arrays |= {"components": circuit.components}
    arrays |= {} if circuit.overlap is None else {"overlap": circuit.overlap}
    archives.write(path, header, arrays)


def read(path: Path) -> dict[str, Any]:
    """The fields of the circuit in a file, those of what was judged as mappings."""
    header, arrays = archives.read(path, kind=FORMAT, version=VERSION, check=_check_outlines)
    for name in ("components", *(f"images.{kind}" for kind in EDGE_KINDS)):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds scores that are not finite")
    return {
        "images": EdgeTree(**{kind: arrays[f"images.{kind}"] for kind in EDGE_KINDS}),
        "components": arrays["components"],
        "classes": tuple(header["classes"]),
        "sizes": checked_sizes(header["sizes"]),
        "seed": checked_seed(header["seed"]),
        "config": ModelConfig.from_json(header["config"]),
        "n_pairs": header["n_pairs"],
        "judged": {name: {field: arrays[f"{name}.{field}"] for field in _JUDGED} for name in header["judged"]},
        "overlap": arrays.get("overlap"),
        "weights": header.get("weights", ""),
        **{name: header[name] for name in _TEXTS},
    }


def _check_outlines(header: dict[str, Any], outlines: Mapping[str, archives.Outline]) -> None:
    """Refuse texts that are none, and arrays of other shapes than the header asks for, before they are read."""
    texts = [*header["classes"], *header["judged"], *(header[name] for name in _TEXTS), header.get("weights", "")]
    named = isinstance(header["classes"], list) and isinstance(header["judged"], list)
    if not named or not all(isinstance(text, str) for text in texts) or not header["classes"]:
        raise ValueError("its names are no texts")
    if len({*header["classes"]}) < len(header["classes"]):
        raise ValueError("it has a class of tokens twice")
    for name, known in (("align", ALIGNMENTS), ("level", LEVELS)):
        if header[name] not in known:
            raise ValueError(f"its {name} is {header[name]!r:.60}, expected one of {', '.join(known)}")
    config, n_classes, n_pairs = ModelConfig.from_json(header["config"]), len(header["classes"]), header["n_held_out"]
    for name in ("n_pairs", "n_held_out"):
        if type(header[name]) is not int or not 0 <= header[name] <= _MOST_PAIRS:
            raise ValueError(f"{name} is {header[name]!r:.60}, expected a number of pairs")
    if header["judged"] and ("task" not in header["judged"] or not n_pairs):
        raise ValueError("it holds what was judged on held-out pairs, but without the circuit itself, or of no pair")
    full_graph.check_slots(config, n_classes)
    n_sizes = len(checked_sizes(header["sizes"]))
    shapes = edge_shapes(config.n_layers, config.n_heads, n_classes)
    wanted = {f"images.{kind}": shape for kind, shape in shapes.items()}
    wanted["components"] = (config.n_layers, config.n_heads + 1)
    rows = {field: (n_pairs, 2 if field == "ends" else n_sizes + 1) for field in _JUDGED}
    wanted |= {f"{name}.{field}": shape for name in header["judged"] for field, shape in rows.items()}
    wanted |= {"overlap": (n_pairs, n_sizes)} if header["overlap"] else {}
    for name, outline in outlines.items():
        if outline.dtype != np.float32 or wanted.pop(name, None) != outline.shape:
            raise ValueError(f"{name} is {outline.dtype}{outline.shape}, which a circuit of this kind has not")
    if wanted:
        raise ValueError(f"{', '.join(wanted)} missing")
