"""Hugging Face ``config.json`` to ``ModelConfig``: every field is used, irrelevant for a stated reason, or refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jstrace.convert.fields import Fields
from jstrace.convert.hf import hybrid
from jstrace.convert.hf.common import check_decoder
from jstrace.convert.hf.irrelevant import IRRELEVANT
from jstrace.convert.hf.latent import INDEXED
from jstrace.convert.hf.layouts import Layouts
from jstrace.convert.hf.quantised import Scheme, read_scheme
from jstrace.convert.hf.registry import CLASSES, FAMILIES, UNSUPPORTED
from jstrace.convert.hf.wrappers import WRAPPERS, text_part
from jstrace.errors import UnsupportedError
from jstrace.models import InputError, ModelConfig
from jstrace.models.validation import MOST_LAYERS, validated


@dataclasses.dataclass(frozen=True, eq=False)
class Described:
    """What a ``config.json`` says."""

    config: ModelConfig
    layouts: Layouts
    """Where its weights stand."""
    left_out: tuple[str, ...] = ()
    """What names of weights begin with that belong to parts which read images or sound."""
    quantised: Scheme | None = None
    """How its weights are quantised."""


def read_hf_config(folder: Path, *, warn: bool = False, ignore: Collection[str] = ()) -> Described:
    """Read ``config.json`` of a Hugging Face folder; with ``warn``, warn where it names a model of its own.

    Raises:
      UnsupportedError: an architecture or a field whose effect is not implemented.
      InputError: no readable file.
    """
    path = folder / "config.json"
    fields = json_fields(folder)
    try:
        description = described(fields, where=str(path), ignore=ignore)
    except InputError as error:
        raise UnsupportedError(str(error)) from error
    if warn:
        _warn_of_code(fields, str(path))
    return description


def json_fields(folder: Path) -> dict[str, Any]:
    """The fields of ``config.json`` in a folder.

    Raises:
      InputError: no such file, or none that can be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json; a Hugging Face model folder holds config.json and *.safetensors")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(fields).__name__}")
    return fields


def _warn_of_code(fields: Mapping[str, Any], where: str) -> None:
    """Warn where a file names another model than the family's: its fields and weights may be the same."""
    own, named = CLASSES[fields["model_type"]], fields.get("architectures")
    others = [name for name in (named if isinstance(named, list) else [named]) if name not in (own, None)]
    reasons = ["auto_map names code in the repository, which is never run"] if fields.get("auto_map") else []
    reasons += [f"architectures names {str(others[0])[:80]!r}"] if others else []
    if reasons:
        message = f"{where}: {', and '.join(reasons)}; it is read as a plain {own}, which may compute something else"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def described(fields: Mapping[str, Any], *, where: str, ignore: Collection[str] = ()) -> Described:
    """Map the fields of a Hugging Face config.

    Args:
      fields: of the file.
      where: names the file in errors.
      ignore: unknown fields that the caller knows to change nothing; the config says which of them there were.

    Raises:
      InputError: an architecture that is not supported, or a field that is wrong, unknown or not implemented.
    """
    rest = dict(fields)
    left_out: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    if isinstance(rest.get("model_type"), str) and rest["model_type"] in WRAPPERS:
        inner = WRAPPERS[rest["model_type"]].inner[0]
        if inner not in FAMILIES:
            raise InputError(f"{where}: {_unsupported(inner)}")
        rest, beside, left_out = text_part(rest, where, ignore)
    model_type = rest.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise InputError(f"{where}: {_unsupported(model_type)}")
    source = Fields(rest, where, ignore)
    quantised = read_scheme(source)
    check_decoder(source)
    left_out += _not_computed(model_type, source)
    config, layouts = FAMILIES[model_type](source)
    ignored = tuple(sorted({*beside, *source.refuse_unread(IRRELEVANT, ignorable=True)}))
    known = sorted(set(ignore) - set(ignored))
    if known:
        raise InputError(f"{where}: field {known[0]!r} to be ignored is not there, or is read and counts")
    config = validated(dataclasses.replace(config, ignored_fields=ignored), where)
    return Described(config, layouts, left_out, quantised)


def _not_computed(model_type: str, f: Fields) -> tuple[str, ...]:
    """What names of weights begin with that no forward pass here needs: layers behind the last, which predict further
    tokens, and what chooses sources where all are chosen."""
    n_layers, names = f.peek("num_hidden_layers"), ("num_nextn_predict_layers", "num_mtp_layers")
    counts = [number for number in map(f.take, names) if isinstance(number, int)]
    if not isinstance(n_layers, int) or not 0 < n_layers <= MOST_LAYERS:
        return ()  # which is refused
    ahead = [n_layers + more for more in range(min(max(counts, default=0), _MOST_AHEAD))]
    indexed = range(n_layers) if model_type in INDEXED else ()
    further = {*hybrid.READERS, "exaone_moe", "ernie4_5_moe", "nemotron_h"}
    beside = ("mtp.", "model.mtp_") if model_type in further else ()
    return (
        *beside,
        *(f"model.layers.{at}." for at in ahead),
        *(f"model.layers.{at}.self_attn.indexer." for at in indexed),
    )


_MOST_AHEAD = 8


def _unsupported(model_type: Any) -> str:
    if isinstance(model_type, str) and model_type in UNSUPPORTED:
        return f"architecture {model_type!r} is not supported: {UNSUPPORTED[model_type]} is missing"
    known = ", ".join(sorted({*FAMILIES, *WRAPPERS}))
    return f"architecture {model_type!r} is not supported; supported: {known}"
