"""Small runs, and what stops them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from jstrace.method.plans import Plan
from jstrace.runs.data import Data, Row
from tests.conftest import SIZES

DATA = Data("letters", tuple(Row(text, "d") for text in ("hello", "abc", "a longer text", "bye")), ("hello", "aaa"))
SMALL = Plan(sizes=SIZES)


def read(folder: Path, table: str) -> pa.Table:
    return parquet.read_table(folder / table)


class Stops:
    """Progress that stops the run after so many inputs."""

    def __init__(self, after: int, error: BaseException) -> None:
        self.after, self.error = after, error

    def __call__(self, done: int, before: int, wanted: int) -> None:
        if done == self.after:
            raise self.error
