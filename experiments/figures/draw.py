"""A figure or table of the paper, or all of them, from folders of runs.

Command: ``python experiments/figures/draw.py NAME RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute for
each); ``--list`` prints the names with what each shows and what came out before.

With ``all`` every one gets a folder of its own below FOLDER, and those whose figures the runs do not have are named and
left out.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.figures.catalogue import ENTRIES, RUNTIME, Entry
from jstrace.models import InputError
from jstrace.reports import write_report

ALL = "all"


def draw(name: str, runs: Sequence[Path], out: Path) -> None:
    """Write one entry of the catalogue: a page, its figures and tables.

    Raises:
      InputError: the runs do not have what it shows.
    """
    entry = ENTRIES[name]
    labels = write_report(runs, out, figures=entry.figures, tables=entry.tables)
    print(f"{out / 'index.html'}: {', '.join(labels)}", flush=True)


def draw_all(runs: Sequence[Path], out: Path) -> list[str]:
    """Draw every entry into a folder of its own; the names of those that the runs have the numbers for."""
    drawn = []
    for name in ENTRIES:
        try:
            draw(name, runs, out / name)
        except InputError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
        else:
            drawn.append(name)
    return drawn


def described(name: str, entry: Entry) -> str:
    """An entry in words, as ``--list`` prints it."""
    made_of = f"Figures {', '.join(entry.figures)}; tables {', '.join(entry.tables)}."
    wrap = textwrap.TextWrapper(100, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([name, *map(wrap.fill, (entry.title, made_of, f"Expected: {entry.expected}"))])


class _List(argparse.Action):
    """Prints the catalogue and ends, whatever else is missing."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print("\n\n".join(described(name, entry) for name, entry in ENTRIES.items()))
        print(f"\nRuntime: {RUNTIME}.")
        parser.exit()


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", choices=[*ENTRIES, ALL], help=f"{', '.join(ENTRIES)}, or {ALL}")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folders of jstrace run")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="for index.html, figures and tables")
    parser.add_argument("--list", action=_List, nargs=0, help="print the names with their descriptions, and end")
    given = parser.parse_args()
    if given.name == ALL:
        if not draw_all(given.runs, given.out):
            sys.exit("error: nothing could be drawn of these runs")
        return
    try:
        draw(given.name, given.runs, given.out)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
