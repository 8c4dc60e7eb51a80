"""Whether memory holds a text, before the work."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jstrace.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from jstrace.cli.computing import Asked
    from jstrace.cli.texts import Line
    from jstrace.models import Model

_MARGIN = 1.5
"""Of an estimate to what is there, from which on a text is refused. Estimates of long texts are at most 1.15 times what
compiled programs ask for (``footprint.text_bytes``), and other programs may end: so a text is refused only where even
two thirds of its estimate are more than this process may have, with swap, or the devices have. Where it is merely more
than what is free now, there is a warning, and the text is tried."""


def check_text_fits(model: Model, lines: Sequence[Line], rows: Sequence[np.ndarray], asked: Asked) -> None:
    """Look at the longest text, whose token ids are among ``rows`` (int32 ``[T]`` each).

    On a mesh an input is at best divided over all devices, which is what is assumed.

    Raises:
      InputError: with the number of tokens that would fit, where the text certainly does not.
    """
    from jstrace.method.conditions import takes_passes
    from jstrace.method.graph.sizes import SIZES
    from jstrace.pipeline.footprint import gradient_bytes, replacement_bytes, text_bytes, wide_bytes
    from jstrace.scale import memory
    from jstrace.scale.batching import bucket

    def needed(n_tokens: int, *, whole: bool = False) -> int:
        config, width, itemsize = model.config, bucket(n_tokens), model.dtype.itemsize
        own = text_bytes(config, n_tokens, len(SIZES), itemsize, whole=whole)
        names = [asked.replace]
        if takes_passes(asked.score):
            scored = asked.score_replace or asked.replace
            own, names = max(own, gradient_bytes(config, width, itemsize, asked.score, scored)), [*names, scored]
        return own + replacement_bytes(config, width, names, itemsize) + wide_bytes(model)

    def message(room: float, what: str, *, whole: bool = False) -> str:
        fitting = bisect.bisect_right(range(1, len(row)), room, key=lambda n: needed(n, whole=whole))
        enough = f", enough for about {fitting} tokens" if fitting else ""
        return f"{len(row)} tokens need about {_gb(needed(len(row), whole=whole))}, {_gb(room)} {what}{enough}"

    line, row = max(zip(lines, rows, strict=True), key=lambda pair: len(pair[1]))
    total, free = (memory.room_of_all(model.decoder, of) for of in (memory.total_bytes, memory.free_bytes))
    if total is not None and needed(len(row)) > _MARGIN * total:
        raise InputError(f"{line.where}{message(total, 'are there')}; shorten the text, or use a mesh of more devices")
    whole = asked.score == "random"  # whose extraction may need more
    if free is not None and needed(len(row), whole=whole) > free:
        sys.stderr.write(f"jstrace: {line.where}{message(free, 'are free', whole=whole)}; memory may run out\n")


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
