"""What hostile files may take of this machine."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from tests.fuzz.hostile import megabytes

_ROOM = 2**33
"""Bytes of addresses beyond those in use: what asks for more is refused by the system, before anything is lost."""


@pytest.fixture(autouse=True, scope="module")
def _bounded_addresses() -> Iterator[None]:
    if not megabytes("VmSize"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes("VmSize") * 2**20 + _ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Cases hold whole files, which hypothesis warns of when it writes one down."""
    item.add_marker(pytest.mark.filterwarnings("ignore:Generating overly large repr"))
