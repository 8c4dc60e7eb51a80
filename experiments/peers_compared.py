"""Edge attribution patching, attention, fits and jstrace's scores on one yardstick: pairs of prompts and passages.

Commands, in this order; the other tool runs in its own environment (``experiments/peers/edge_patching.py``):

    python experiments/peers_compared.py prepare DATA.tsv FOLDER
    PEER/bin/python experiments/peers/edge_patching.py EAP-IG/src FOLDER attribute
    python experiments/peers_compared.py measure DATA.tsv FOLDER
    PEER/bin/python experiments/peers/edge_patching.py EAP-IG/src FOLDER evaluate
    python experiments/peers_compared.py tables DATA.tsv FOLDER experiments/results/peers
    python experiments/peers_compared.py memory DATA.tsv FOLDER --scores rounds --only passage-400

``measure`` adds what is missing: ``--scores`` and ``--only`` take some scores and inputs, and fits are made if they are
named. ``memory`` scores one input and says the most memory that the process had. The last line is JSON.

Expected: on pairs rounds need fewer edges and FLOPs of jstrace's graph than EAP and EAP-IG, which need fewer edges of
their own; on passages these two have a TV of .65 or more up to 20% of the edges. A pair takes a minute of one core, a
passage four.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import jstrace
from experiments.inputs import padded_to
from experiments.peers import tables
from experiments.peers.inputs import WIDTHS, items, prepare
from experiments.peers.measuring import SCORES, SIZES, condition, rows_of, rows_of_peers


def measure(data: Path, folder: Path, scores: list[str], only: list[str], passages: int) -> int:
    """Rows of each input in a file, to which those of new scores are added."""
    model, count = jstrace.load("smollm2"), 0
    for name in ("rows", "translated"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for one in items(model, data, passages):
        file = f"{one.name.replace('swapped', 'passage')}.npz"
        path, peers = folder / "rows" / f"{one.name}.json", folder / "attribute" / file
        known = json.loads(path.read_text()) if path.exists() else []
        missing = [name for name in scores if name not in {row["score"] for row in known}]
        theirs = peers.exists() and not any(row["score"] == "EAP" for row in known)
        if not one.name.startswith(tuple(only)) or not (missing or theirs):
            continue
        foreign = np.load(folder / "inputs" / file)["foreign"]
        with padded_to(WIDTHS[one.kind]):
            found = list(rows_of(model, one, missing, foreign, folder / "translated" / f"{one.name}.npz"))
            found += rows_of_peers(model, one, foreign, peers) if theirs else []
        path.write_text(json.dumps([*known, *found]))
        count += 1
        seconds = {f"{row['score']} {row['told']}": round(row["seconds"], 1) for row in found}
        print(one.name, len(one.tokens), seconds, flush=True)
    return count


def memory(data: Path, scores: list[str], only: list[str], passages: int) -> float:
    """GiB that the process had at most after scoring one input, compiling included."""
    model = jstrace.load("smollm2")
    one = next(each for each in items(model, data, passages) if each.name.startswith(tuple(only)))
    with padded_to(WIDTHS[one.kind]):
        for name in scores:
            jstrace.trace(model, one.tokens, sizes=SIZES, **SCORES[name], **condition(one))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("command", choices=("prepare", "measure", "tables", "memory"))
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "results" / "peers")
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=[name for name in SCORES if name != "fitted"])
    parser.add_argument("--only", nargs="+", default=[""], help="inputs whose names start with one of these")
    parser.add_argument("--passages", type=int, default=24)
    asked = parser.parse_args()
    jstrace.enable_cache()
    count: float = 0
    if asked.command == "prepare":
        prepare(jstrace.load("smollm2"), asked.data, asked.folder, asked.passages)
    elif asked.command == "measure":
        count = measure(asked.data, asked.folder, asked.scores, asked.only, asked.passages)
    elif asked.command == "memory":
        count = round(memory(asked.data, asked.scores, asked.only, asked.passages), 2)
    else:
        tables.write(asked.folder, asked.out, jstrace.load("smollm2").config)
    print(json.dumps({"command": asked.command, "gib" if asked.command == "memory" else "inputs": count}))


if __name__ == "__main__":
    main()
