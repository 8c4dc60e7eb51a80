"""What each test costs: ``python -m pytest -p tests.costs --costs costs.csv`` writes a row a test, prints a row a file.

Seconds are of the processor (children with it), as the clock says more of the machine than of the test. Programs are
those that JAX traced, lowered and handed to the compiler; of the last some come from the cache on disk. What a fixture
costs is the first test's that asks for it.
"""

from __future__ import annotations

import collections
import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traced",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered",
    "/jax/core/compile/backend_compile_duration": "compiled",
    "/jax/compilation_cache/cache_hits": "cached",
}
FIELDS = ("processor", "clock", "traced", "lowered", "compiled", "cached")
_counted: collections.Counter[str] = collections.Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", default="costs.csv", help="the file of a row a test")


def pytest_collection_finish(session: pytest.Session) -> None:
    import jax  # the conftest says first how it compiles

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event in _EVENTS:
            _counted[_EVENTS[event]] += 1

    jax.monitoring.register_event_listener(listen)
    jax.monitoring.register_event_duration_secs_listener(listen)


def _spent() -> dict[str, float]:
    return {"processor": sum(os.times()[:4]), "clock": time.perf_counter(), **_counted}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = _spent()
    result = yield
    after = _spent()
    item.config.stash[_KEY][item.nodeid] = {name: after.get(name, 0) - before.get(name, 0) for name in FIELDS}
    return result


_KEY = pytest.StashKey[dict[str, dict[str, float]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = {}
    config.pluginmanager.register(_Workers(config))


class _Workers:
    """What workers of pytest-xdist tell the process that started them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.config.stash[_KEY].update(getattr(node, "workeroutput", {}).get("costs", {}))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["costs"] = session.config.stash[_KEY]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    costs = config.stash[_KEY]
    files: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for test, cost in costs.items():
        files[test.partition("::")[0]].update({"tests": 1, **cost})
    total = sum(files.values(), collections.Counter())
    terminalreporter.section("costs: seconds of the processor, programs")
    for name, cost in [*sorted(files.items(), key=lambda pair: -pair[1]["processor"]), ("all", total)]:
        numbers = "".join(f"{cost[field]:10.1f}" if field in FIELDS[:2] else f"{cost[field]:10.0f}" for field in FIELDS)
        terminalreporter.write_line(f"{cost['tests']:6.0f}{numbers}  {name}")
    terminalreporter.write_line(f"{'tests':>6}" + "".join(f"{field:>10}" for field in FIELDS))
    with Path(config.getoption("costs")).open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("test", *FIELDS))
        for test, cost in sorted(costs.items()):
            rows.writerow((test, *(round(cost[field], 2) for field in FIELDS)))
