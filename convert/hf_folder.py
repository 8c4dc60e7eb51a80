"""Weights of a Hugging Face folder: ``model.safetensors``, or shards under ``model.safetensors.index.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jstrace.convert.weights import Read
from jstrace.models import InputError


def open_safetensors(folder: Path) -> tuple[list[str], Read]:
    """The weight names of a folder and a function that reads one; nothing but safetensors is opened.

    Raises:
      InputError: no safetensors files, an incomplete set of shards, or a file that is not one.
    """
    from safetensors import SafetensorError, safe_open

    handles: dict[str, Any] = {}
    for path in _files(folder):
        try:
            handle = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a whole safetensors file ({error})") from error
        for name in handle.keys():  # noqa: SIM118  a handle is no mapping
            if name in handles:
                raise InputError(f"{path}: weight {name} stands in another shard too")
            handles[name] = handle

    def read(name: str) -> np.ndarray:
        return handles[name].get_tensor(name)

    return list(handles), read


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if single.is_file():
            return [single]
        raise InputError(f"{folder}: no model.safetensors and no index of shards; jstrace reads only safetensors")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: not a readable index of shards ({error!r})") from error
    for name in names:
        if Path(name).name != name:
            raise InputError(f"{index}: shard name {name!r} leaves the folder")
        if not (folder / name).is_file():
            raise InputError(f"{folder}: shard {name} is missing")
    return [folder / name for name in names]
