"""Whether memory holds a text, or a model with its inputs, before the work."""

from __future__ import annotations

import bisect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jstrace.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from jstrace.cli.computing import Asked
    from jstrace.cli.options import Dtype
    from jstrace.cli.texts import Line
    from jstrace.method.plans import Plan
    from jstrace.models import Model, ModelConfig
    from jstrace.runs import Data

_MARGIN = 1.5
"""Of an estimate to what is there, from which on a text is refused. Estimates of long texts are at most 1.15 times what
compiled programs ask for (``footprint.text_bytes``), and other programs may end: so a text is refused only where even
two thirds of its estimate are more than this process may have, with swap, or the devices have. Where it is merely more
than what is free now, there is a warning, and the text is tried."""


def check_text_fits(model: Model, lines: Sequence[Line], rows: Sequence[np.ndarray], asked: Asked) -> None:
    """Look at the longest text, whose token ids are among ``rows`` (int32 ``[T]`` each).

    On a mesh an input is at best divided over all devices, which is what is assumed.
    """
    from jstrace.method.naming import takes_passes
    from jstrace.pipeline.footprint import gradient_bytes, replacement_bytes, text_bytes, wide_bytes
    from jstrace.scale import memory
    from jstrace.scale.batching import bucket

    def needed(n_tokens: int, *, whole: bool = False) -> int:
        config, width, itemsize = model.config, bucket(n_tokens), model.dtype.itemsize
        own = text_bytes(config, n_tokens, len(asked.sizes), itemsize, whole=whole)
        names = [asked.replace]
        if takes_passes(asked.score):
            scored = asked.score_replace or asked.replace
            own, names = max(own, gradient_bytes(config, width, itemsize, asked.score, scored)), [*names, scored]
        return own + replacement_bytes(config, width, names, itemsize) + wide_bytes(model)

    def message(room: float, what: str, *, whole: bool = False) -> str:
        fitting = bisect.bisect_right(range(1, len(row)), room, key=lambda n: needed(n, whole=whole))
        enough = f", enough for about {fitting} tokens" if fitting else ""
        return (
            f"{len(row)} tokens need about {in_bytes(needed(len(row), whole=whole))}, {in_bytes(room)} {what}{enough}"
        )

    line, row = max(zip(lines, rows, strict=True), key=lambda pair: len(pair[1]))
    total, free = (memory.room_of_all(model.decoder, of) for of in (memory.total_bytes, memory.free_bytes))
    if total is not None and needed(len(row)) > _MARGIN * total:
        raise InputError(f"{line.where}{message(total, 'are there')}; shorten the text, or use a mesh of more devices")
    whole = asked.score == "random"  # whose extraction may need more
    if free is not None and needed(len(row), whole=whole) > free:
        sys.stderr.write(f"jstrace: {line.where}{message(free, 'are free', whole=whole)}; memory may run out\n")


def check_model_fits(
    described: Callable[[], ModelConfig], dtype: Dtype, mesh: str | None, plan: Plan, rows: Data, *, narrow: str
) -> None:
    """Refuse what no device holds, before it is loaded; a CPU's memory is the machine's, and swaps."""
    import jax

    from jstrace.loading import checked_dtype
    from jstrace.pipeline.footprint import check_fits
    from jstrace.pipeline.records import Ask
    from jstrace.scale.memory import total_bytes
    from jstrace.scale.meshes import parse_mesh

    device = jax.local_devices()[0]
    room = None if device.platform == "cpu" else total_bytes(device)
    if room is None:
        return
    over = 1 if mesh is None else parse_mesh(mesh).shape["model"]
    shortest = max(1, min(len(row.text.split()) for row in rows.rows))
    config, ask = described(), Ask(plan.sources, plan.cases, plan.sizes)
    itemsize = checked_dtype(dtype.value).itemsize
    check_fits(config, shortest, ask, itemsize, room, n_devices=jax.device_count(), over=over, narrow=narrow)


def in_bytes(number: float) -> str:
    """Bytes as people read them."""
    return f"{number / 1e9:.1f} GB" if number >= 1e8 else f"{number / 1e6:.1f} MB"
