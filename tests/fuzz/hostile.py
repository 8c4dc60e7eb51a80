"""Files that somebody damaged or made to do harm, and what must come of them (docs/robustness.md)."""

from __future__ import annotations

import copy
import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from jstrace.errors import InputError

CASES = int(os.environ.get("JSTRACE_FUZZ", "0"))
"""How many cases of each kind, drawn anew at every run; without it few, and always the same ones."""


def cases(few: int) -> settings:
    """As many cases as are asked for, or so few of them; none may hang."""
    return settings(
        max_examples=CASES or few,
        derandomize=not CASES,
        database=None,
        deadline=datetime.timedelta(seconds=10 if CASES else 60),
        suppress_health_check=list(HealthCheck),
    )


_KNOWN = os.access("/proc/self/clear_refs", os.W_OK)
MOST_MEGABYTES = 200
"""That reading one small file may take."""


def refusal(read: Callable[[], object]) -> str:
    """What is said of a file, in one line, or nothing where it is read; any other error is a fault of ours.

    Reading it takes little memory, whatever it claims to hold.
    """
    if _KNOWN:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before, message = megabytes("VmRSS"), ""
    try:
        read()
    except InputError as error:
        message = str(error)
        assert message
        assert message.isprintable()
    assert megabytes("VmHWM") - before < MOST_MEGABYTES
    return message


def megabytes(name: str) -> int:
    """What Linux says of this process; nothing elsewhere."""
    if not _KNOWN:
        return 0
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) // 1024


def refusal_of(content: bytes, path: Path, read: Callable[[Path], object]) -> str:
    """The same of a file with this content; what lies beside it stays as it was."""
    path.write_bytes(content)
    before = sorted(path.parent.rglob("*"))
    message = refusal(lambda: read(path))
    assert sorted(path.parent.rglob("*")) == before
    return message


# --- bytes ----------------------------------------------------------------------------------------------------------

HUGE = (0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = st.sampled_from(HUGE) | st.integers(0, 300)


_EDITS = st.lists(
    st.tuples(
        st.sampled_from(("cut", "flip", "bytes", "number", "splice", "insert", "remove")),
        st.integers(0, 2**32 - 1),
        NUMBERS,
        st.binary(max_size=8),
    ),
    min_size=1,
    max_size=3,
)


def damaged(whole: bytes, end: int | None = None) -> st.SearchStrategy[bytes]:
    """The bytes cut, flipped, overwritten, with numbers in them that claim a lot, or with parts of them elsewhere.

    Damage begins before ``end``.
    """

    def after(edits: list[tuple[str, int, int, bytes]]) -> bytes:
        found = bytearray(whole)
        for kind, place, number, new in edits:
            at = place % (len(whole) if end is None else end)
            _edit(found, kind, at, number, new or whole[number % len(whole) :][:40])
        return bytes(found)

    return _EDITS.map(after)


def _edit(found: bytearray, kind: str, at: int, number: int, new: bytes) -> None:
    match kind:
        case "cut":
            del found[at:]
        case "flip" if at < len(found):
            found[at] ^= 1 << number % 8
        case "number":
            width = 8 if number >= 2**32 else len(new) % 4 + 1
            found[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
        case "insert":
            found[at:at] = new
        case "remove":
            del found[at : at + len(new)]
        case _:
            found[at : at + len(new)] = new


# --- JSON -----------------------------------------------------------------------------------------------------------

ODD = st.sampled_from(
    (
        *(None, True, False, 0, -1, 1, 2.5, 2**31, 2**63, 10**30, 10**400, 1e308, -0.0, 1e-320),
        *(float("nan"), float("inf"), -float("inf"), "", "x", "1", "\n\x1b[2J", "\ud800", "\u202e", "x" * 5000),
        *([], [1], ["x"], [[1]], [None] * 40, {}, {"a": 1}, {"": {}}),
    )
).map(copy.deepcopy)
ANY_JSON = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=5),
    max_leaves=12,
)


@st.composite
def altered(draw: st.DrawFn, tree: Any) -> Any:
    """A JSON value with something else in some of its places, or without them."""
    found = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        parent, inside = None, found
        while isinstance(inside, (dict, list)) and inside and (parent is None or draw(st.integers(0, 3))):
            keys = list(inside) if isinstance(inside, dict) else range(len(inside))
            parent, key = inside, draw(st.sampled_from(keys))
            inside = parent[key]
        if parent is None:
            return draw(ODD)
        match draw(st.sampled_from(("odd", "odd", "any", "gone", "elsewhere"))):
            case "odd":
                parent[key] = draw(ODD)
            case "any":
                parent[key] = draw(ANY_JSON)
            case "gone":
                del parent[key]
            case "elsewhere":
                value = copy.deepcopy(
                    draw(st.sampled_from(list(parent.values() if isinstance(parent, dict) else parent)))
                )
                if isinstance(parent, dict):
                    parent[draw(st.sampled_from(("x", "", *parent)))] = value
                else:
                    parent.append(value)
    return found


def as_json(tree: Any) -> bytes:
    """Halves of letters are written as escapes, and NaN as Python writes it."""
    return json.dumps(tree).encode()


def hostile_json(tree: Any) -> st.SearchStrategy[bytes]:
    """JSON files in the place of a valid one: altered, damaged, any other, or none."""
    deep = st.sampled_from((b"[" * 100_000, b'{"a":' * 5000, b"[" * 900 + b"]" * 900, b"", b"\xff\xfe", b"9" * 5000))
    return altered(tree).map(as_json) | damaged(as_json(tree)) | ANY_JSON.map(as_json) | deep
