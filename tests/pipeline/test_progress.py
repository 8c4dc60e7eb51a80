"""``progress`` of the functions that take long: nothing, a function, or True for a bar on standard error."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

import jstrace
from jstrace.models import InputError, Model
from jstrace.pipeline import progress
from tests.conftest import SIZES

pytestmark = pytest.mark.quick
TEXTS = [[1, 2, 3], [4, 5, 6]]


def test_a_bar_on_a_terminal(tiny: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of traces and evaluations; a fit of a scorer says its loss."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    traces = jstrace.trace(tiny, TEXTS, sizes=SIZES, progress=True)
    jstrace.evaluate(tiny, traces, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "tracing" in shown.err
    assert "evaluating" in shown.err
    assert "100%" in shown.err
    with progress.fit_reported(True) as report:
        assert report is not None
        report(1, 2, None)
        report(1, 240, 0.5)
    assert "KL 0.500 nats" in capsys.readouterr().err
    jstrace.trace(tiny, TEXTS, sizes=SIZES, progress=False)
    assert capsys.readouterr().err == ""


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Also while nothing is reported, as in one long program; none where it is over before the first is due."""
    monkeypatch.setattr(progress, "SECONDS", 0.01)

    def seen(pattern: str) -> str:
        told = ""
        for _ in range(500):
            told += capsys.readouterr().err
            if re.search(pattern, told):
                return told
            time.sleep(0.01)
        raise AssertionError(f"{pattern} was not said, but {told}")

    with progress.bar("fitting") as report:
        seen(r"^jstrace: fitting, 0:0\d min so far\n")
        report(1, 4)
        seen(r"jstrace: fitting, 25% done, 0:0\d min so far\n")
    capsys.readouterr()
    with progress.bar("fitting", shown=False):
        time.sleep(0.05)
    monkeypatch.setattr(progress, "SECONDS", 30.0)
    with progress.bar("fitting"):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("given", ["yes", 1, [print]])
def test_what_is_no_progress(given: Any) -> None:
    for reported in (progress.reported(given, "tracing"), progress.fit_reported(given)):
        with pytest.raises(InputError, match=r"^progress = .*, expected a function of the number done and in all, or"):
            reported.__enter__()
