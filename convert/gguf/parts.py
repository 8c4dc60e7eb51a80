"""Files that are split: ``NAME-00001-of-0000N.gguf`` and those after it, found from the first and read as one.

The metadata of every part say which it is (``split.no``, from 0), how many there are (``split.count``) and how many
weights all of them hold (``split.tensors.count``); what they say of the model stands in the first.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jstrace.convert.gguf.header import StoredTensor, read_header
from jstrace.models import InputError

_NO, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"
_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST = 99_999
"""Parts that their names can number."""


def is_part(path: Path) -> bool:
    """Whether a file is one of several by its name."""
    return _NAME.fullmatch(path.name) is not None


def read_parts(path: Path) -> tuple[dict[str, Any], list[StoredTensor]]:
    """Metadata and weights of a file, and of all parts where it is the first of several.

    Raises:
      InputError: a part that is not the first, or parts that are missing or do not belong together.
      ValueError, OSError, struct.error: as ``header.read_header``, of this file.
    """
    metadata, tensors = read_header(path)
    count = _number(metadata, _COUNT, path, 1)
    if count == 1:
        return metadata, tensors
    number, expected = _number(metadata, _NO, path, 0), _number(metadata, _TENSORS, path, 0)
    named = _NAME.fullmatch(path.name)
    stem = "NAME" if named is None else named["stem"]
    first = f"{stem}-{1:05}-of-{count:05}.gguf"
    if number:
        raise InputError(f"{path}: part {number + 1} of {count} of a model; pass the first, {first}")
    if path.name != first:
        raise InputError(f"{path}: part 1 of {count} of a model, whose parts are found by their names; name it {first}")
    for place in range(1, count):
        tensors += _further(path.with_name(f"{stem}-{place + 1:05}-of-{count:05}.gguf"), place, count)
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise InputError(f"{path}: two of its {count} parts hold a weight of the same name")
    if len(tensors) != expected:
        raise InputError(f"{path}: its {count} parts hold {len(tensors)} weights, {_TENSORS} says {expected}")
    return metadata, tensors


def _further(path: Path, place: int, count: int) -> list[StoredTensor]:
    """The weights of a part that is not the first."""
    if not path.is_file():
        raise InputError(f"{path}: part {place + 1} of {count} is missing")
    try:
        metadata, tensors = read_header(path)
    except (ValueError, OSError, struct.error) as error:
        raise InputError(f"{path}: not a whole GGUF file ({error})") from error
    said = _number(metadata, _NO, path, -1), _number(metadata, _COUNT, path, 1)
    if said != (place, count):
        raise InputError(f"{path}: {_NO}, {_COUNT} are {said[0]}, {said[1]} by its metadata, expected {place}, {count}")
    return tensors


def _number(metadata: Mapping[str, Any], name: str, path: Path, absent: int) -> int:
    value = metadata.get(name, absent)
    if isinstance(value, bool) or not isinstance(value, int) or not absent <= value <= _MOST:
        raise InputError(f"{path}: {name} = {str(value)[:80]!r}, expected a number from {absent} to {_MOST}")
    return value
