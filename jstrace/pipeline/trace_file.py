"""The file of a trace: an ``.npz`` archive without pickle, checked before anything of it is read."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jstrace import archives
from jstrace.method.conditions import COUNTERFACTUAL, checked_frozen, checked_order, checked_seed
from jstrace.method.graph import full_graph
from jstrace.method.graph.sizes import checked_sizes
from jstrace.method.graph.sizes import counts as edge_counts
from jstrace.method.measure import metrics
from jstrace.method.naming import GRADIENTS
from jstrace.models import EDGE_KINDS, EdgeTree, ModelConfig, edge_shapes

FORMAT, VERSION = "jstrace-trace", 1
_MOST_LAYERS = 10_000
"""As of a model that is read."""
_MOST_REPEATS = 1000


def write(path: Path, trace: Any) -> None:
    """Write a ``Trace``, all or nothing; a warning says that a metric of one's own is not in it."""
    if isinstance(trace.metric, metrics.OwnMetric):
        name = metrics.described(trace.metric)
        warnings.warn(f"{path} does not hold the function {name}: give jstrace.evaluate the metric again", stacklevel=3)
    archives.write(path, _header(trace), _arrays(trace))


def read(path: Path) -> dict[str, Any]:
    """The fields of the trace in a file, of any version so far."""
    return _fields(*archives.read(path, kind=FORMAT, version=VERSION, check=_check_outlines))


def _header(trace: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(trace.config),
        "model_fingerprint": trace.model_fingerprint,
        "n_edges": trace.n_edges,
        "sizes": trace.sizes,
        "importance": trace.score,
        "frozen": trace.frozen,
        "seed": trace.seed,
        "order": trace.order,
        "replace": trace.replace,
        "score_replace": trace.score_replace,
        "token_texts": trace.token_texts,
        "text": trace.text,
        **({} if trace.counterfactual is None else {"counterfactual_texts": trace.counterfactual_texts}),
        **({"reference": trace.reference} if trace.reference else {}),
        **({"weights": trace.weights} if trace.weights else {}),
        **({} if trace.answer is None else {"n_outputs": trace.n_outputs}),
        **({"repeats": len(trace.repeated)} if trace.repeated else {}),
        **({"metric": metrics.as_json(trace.metric)} if trace.metric is not None else {}),
    }


def _arrays(trace: Any) -> dict[str, np.ndarray]:
    """The arrays under the names of ``EdgeTree``."""
    trees = {"scores": trace.scores, "strata": trace.strata}
    trees |= {f"repeated{number}": tree for number, tree in enumerate(trace.repeated)}
    arrays = {f"{kind}.{name}": leaf for kind, tree in trees.items() for name, leaf in tree.items()}
    pair = {} if trace.counterfactual is None else {"counterfactual": trace.counterfactual}
    answer = {} if trace.answer is None else {"answer": trace.answer}
    return {"tokens": trace.tokens, **pair, **answer, **arrays}


def _check_outlines(header: dict[str, Any], outlines: Mapping[str, archives.Outline]) -> None:
    """Refuse arrays of other shapes than the config and the number of tokens ask for, before they are read."""
    config, (n_tokens,) = ModelConfig.from_json(header["config"]), outlines["tokens"].shape
    if not 0 < config.n_layers <= _MOST_LAYERS or not config.n_heads > 0:
        raise ValueError(f"its config has {config.n_layers} layers and {config.n_heads} heads")
    if not config.n_kv_heads > 0 or config.n_heads % config.n_kv_heads:
        raise ValueError(f"its config has {config.n_heads} heads, and {config.n_kv_heads} of keys and values")
    full_graph.check_slots(config, n_tokens)
    n_outputs = header.get("n_outputs", 1)  # an answer's, which files had none of before
    if full_graph.n_edges(config, n_tokens, n_outputs) != header["n_edges"]:
        raise ValueError("its tokens and its number of edges do not belong together")
    shapes = edge_shapes(config.n_layers, config.n_heads, n_tokens)
    kinds = {"scores": np.float32, "strata": np.uint8} | dict.fromkeys(_repeated(header), np.uint8)
    wanted = {f"{name}.{kind}": (shapes[kind], np.dtype(kinds[name])) for name in kinds for kind in EDGE_KINDS}
    pair = ["counterfactual"] if header.get("replace") == COUNTERFACTUAL else []
    wanted |= {name: ((n_tokens,), np.dtype(np.int32)) for name in ["tokens", *pair]}
    wanted |= {"answer": ((n_outputs,), np.dtype(np.int32))} if "n_outputs" in header else {}
    for name, outline in outlines.items():
        if wanted.pop(name, None) != outline:
            raise ValueError(f"{name} is {outline.dtype}{outline.shape}, which a trace of {n_tokens} tokens has not")
    if wanted:
        raise ValueError(f"{', '.join(wanted)} missing")


def _fields(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    kinds = ("scores", "strata", *_repeated(header))
    trees = {kind: EdgeTree(**{f: arrays[f"{kind}.{f}"] for f in EDGE_KINDS}) for kind in kinds}
    repeated = tuple(trees.pop(name) for name in _repeated(header))
    if header["token_texts"] is not None and not isinstance(header["token_texts"], list):
        raise TypeError("its tokens are no list of texts")
    sizes, given = checked_sizes(header["sizes"]), header["token_texts"]
    texts = None if given is None else tuple(map(_text, given))
    whole = header.get("text", None if texts is None else "".join(texts))  # files of 0.2.0 and before have none
    pair = header.get("counterfactual_texts")
    if pair is not None and not isinstance(pair, list):
        raise TypeError("the tokens of its counterfactual are no list of texts")
    config = ModelConfig.from_json(header["config"])
    return dict(
        tokens=arrays["tokens"],
        token_texts=texts,
        text=None if whole is None else _text(whole),
        config=config,
        n_edges=header["n_edges"],
        sizes=sizes,
        counts=edge_counts(sizes, header["n_edges"]),
        score=_text(header["importance"]),
        frozen=checked_frozen(header["frozen"]),
        seed=checked_seed(header["seed"]),
        model_fingerprint=_text(header["model_fingerprint"]),
        order=checked_order(header.get("order", "best-first")),
        replace=_text(header.get("replace", "zero")),
        reference=_text(header.get("reference", "")),
        weights=_text(header.get("weights", "")),
        score_replace=_text(header.get("score_replace", _scored_before(header))),
        counterfactual=arrays.get("counterfactual"),
        counterfactual_texts=None if pair is None else tuple(map(_text, pair)),
        metric=metrics.from_json(header.get("metric"), config.vocab_size),
        answer=arrays.get("answer"),
        repeated=repeated,
        **trees,
    )


def _repeated(header: dict[str, Any]) -> list[str]:
    """The names of the strata of repetitions."""
    number = header.get("repeats", 0)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST_REPEATS:
        raise ValueError(f"its number of repetitions is {number!r}")
    return [f"repeated{index}" for index in range(number)]


def _scored_before(header: dict[str, Any]) -> str:
    """What scores were made under, of files that say one thing alone: zero, too, where scores took no gradients."""
    name = header.get("replace", "zero")
    return name if name != "zero" or header["importance"] in GRADIENTS else ""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()  # half of a letter is none
    return value
