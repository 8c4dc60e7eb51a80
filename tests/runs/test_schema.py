"""Tables: rows hold what their schemas do, and docs/results.md describes every column."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pyarrow as pa
import pytest

from jstrace.method.conditions import ABLATIONS
from jstrace.method.naming import SCORE_NAMES
from jstrace.method.plans import BASELINES, Plan
from jstrace.runs import rows, schema
from tests.conftest import ROOT

pytestmark = pytest.mark.quick

SCHEMAS = schema.schemas(
    Plan(SCORE_NAMES, ABLATIONS, BASELINES, selectivity=1),
    save_strata=True,
    added=(*schema.ADDED, *schema.CURVES_ADDED),
)


def described(table: str) -> Iterator[tuple[str, str]]:
    """Columns with their types, as docs/results.md has them; one type may stand for all of a line."""
    text = (ROOT / "docs" / "results.md").read_text()
    section = re.split(r"^## ", text.split(f"\n## {table}\n")[1], flags=re.MULTILINE)[0]
    for line in re.findall(r"^\| `.*", section, re.MULTILINE):
        names, types = (cell.split(", ") for cell in line.split(" | ")[:2])
        types = types * len(names) if len(types) == 1 else types
        yield from zip((re.sub(r"[|` ]", "", name) for name in names), types, strict=True)


def in_words(kind: pa.DataType) -> str:
    """A type as the page names it."""
    if pa.types.is_list(kind):
        return f"list of {in_words(kind.value_type)}"
    if pa.types.is_dictionary(kind):
        return in_words(kind.value_type)
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_column_is_described(table: str) -> None:
    """With its type, and no other is."""
    columns = {field.name: in_words(field.type) for field in SCHEMAS[table]}
    densities = {name for name in columns if name.startswith("density_")}
    assert (table == "inputs") == bool(densities)
    known = {name: kind for name, kind in columns.items() if name not in densities}
    found = list(described(table))
    assert sorted(found) == sorted([*known.items(), *([("density_*", "float64")] if densities else [])])


def test_a_key_that_is_no_column() -> None:
    """pyarrow would drop it."""
    wanted = pa.schema([("input", pa.int32()), ("tv", pa.float32())])
    assert rows._table([{"input": 0}], wanted)["tv"].to_pylist() == [None]
    with pytest.raises(AssertionError, match="no column kll in the schema"):
        rows._table([{"input": 0, "tv": 1.0}, {"input": 1, "kll": 0.5}], wanted)
