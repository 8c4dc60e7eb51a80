"""One of two processes of ``test_meshes``: traces and evaluates on meshes over both and prints what it got as JSON."""

from __future__ import annotations

import hashlib
import json
import sys

from jstrace import InputError, Trace
from jstrace.devices import parse_mesh, start_distributed


def digest(trace: Trace) -> str:
    """A hash of all strata."""
    return hashlib.sha256(b"".join(leaf.tobytes() for _, leaf in trace.strata.items())).hexdigest()


def ask(what: str) -> None:
    """Compare with the other process what each was asked for; print how that ended."""
    from jstrace.devices import check_agreed

    start_distributed()
    check_agreed(("the same", 1))
    try:
        check_agreed(("not", what))
    except InputError as error:
        sys.stdout.write(f"{error}\n")


def main() -> None:
    """Run on two meshes: weights whole in every process, and divided within it."""
    start_distributed()
    import jax

    import jstrace

    rows, meshes, mark = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8]], [], ""
    for words in ("data=4", "data=2,model=2"):
        model = jstrace.load(sys.argv[1], mesh=parse_mesh(words))
        traces = jstrace.trace(model, rows)
        results = jstrace.evaluate(model, traces)
        strata = [digest(trace) for trace in traces]
        meshes.append({"tv": [result.tv.tolist() for result in results], "strata": strata})
        mark = model.fingerprint()
    sys.stdout.write(json.dumps({"devices": jax.device_count(), "fingerprint": mark, "meshes": meshes}) + "\n")


if __name__ == "__main__":
    main()
