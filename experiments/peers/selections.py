"""Selections of edges between components in files: nested, smallest first, bool ``[Z, F, R]``; numpy alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def packed(selections: Mapping[str, Sequence[np.ndarray]], **beside: Any) -> dict[str, Any]:
    """What ``numpy.savez`` gets: selections by name, all of one shape, and other numbers."""
    stacks = {name: np.stack(each) for name, each in selections.items()}
    found: dict[str, Any] = {f"{name}|kept": np.packbits(stack) for name, stack in stacks.items()}
    return {**found, **beside, "shape": np.asarray(next(iter(stacks.values())).shape)}


def unpacked(file: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The selections of such a file, by name."""
    shape = file["shape"]
    count = int(shape.prod())
    names = [name.removesuffix("|kept") for name in file if name.endswith("|kept")]
    return {name: np.unpackbits(file[f"{name}|kept"], count=count).reshape(shape).astype(bool) for name in names}
