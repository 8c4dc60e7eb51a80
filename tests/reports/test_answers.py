"""What reports say of answers and of what traces cost: the numbers of a run, and nothing where it has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jstrace import runs
from jstrace.models import InputError, Model
from jstrace.reports import answers, computation, reading
from jstrace.reports import page as report
from tests.planted import heights_of, write_run
from tests.runs.test_questions import DATA, PLAN
from tests.stand_ins import Letters


def test_answers_and_operations(tiny: Model, tmp_path: Path) -> None:
    """Of the two inputs that have an answer; operations are shares of the full graph's."""
    runs.run(Model(tiny.decoder, Letters()), DATA, tmp_path / "run", PLAN)
    (run,) = reading.read_results([tmp_path / "run"])
    case = PLAN.case()
    rows = [row for row in answers.table([run]).to_pylist() if row["condition"] == case.name]
    known = [index for index, row in enumerate(run.valid["answer"].to_pylist()) if row is not None]
    expected = np.median(run.curve(case, "metric_recovered")[known], axis=0)
    np.testing.assert_allclose([row["recovered_median"] for row in rows], expected)
    assert {row["n"] for row in rows} == {len(known)} == {2}
    costs = [row for row in computation.table([run]).to_pylist() if row["condition"] == case.name]
    shares = run.curve(case, "flops") / run.curve(case, "flops")[:, -1:]
    np.testing.assert_allclose([row["flops_share_median"] for row in costs], np.median(shares, axis=0))
    assert (np.diff(shares, axis=1) >= 0).all()
    assert shares[0, 0] < 0.9
    report.write_report([tmp_path / "run"], tmp_path / "out", figures=("answers", "computation"))
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"answers", "computation"}
    of_case = pc.equal(run.curves["condition"], case.name)
    gone = pc.if_else(of_case, pa.scalar(None, pa.float32()), run.curves["metric_recovered"])
    place = run.curves.column_names.index("metric_recovered")
    without = dataclasses.replace(run, curves=run.curves.set_column(place, "metric_recovered", gone))
    picture = answers.picture(without)
    assert picture is not None
    picture.draw(without)  # of the other curves
    assert "(counterfactual)" in (tmp_path / "out" / "index.html").read_text()


def test_runs_without_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", heights_of(4), heights_of(4))
    for figure in ("answers", "computation"):
        with pytest.raises(InputError, match=f"no figure {figure}"):
            report.write_report([folder], tmp_path / "out", figures=(figure,))
