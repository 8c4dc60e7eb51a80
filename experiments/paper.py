"""What the files of the paper's figures and tables share: folders of runs in, figures and tables out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jstrace.models import InputError
from jstrace.report import write_report


def main(description: str | None, *, figures: Sequence[str] = (), tables: Sequence[str] = ()) -> None:
    """Read folders of ``jstrace run`` and write some of a report: a page, its figures and tables."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of jstrace run")
    parser.add_argument("--out", type=Path, required=True, help="a folder for index.html, figures and tables")
    given = parser.parse_args()
    try:
        labels = write_report(given.runs, given.out, figures=figures, tables=tables)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{given.out / 'index.html'}: {', '.join(labels)}")
