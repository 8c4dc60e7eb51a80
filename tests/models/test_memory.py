"""Memory that control groups leave to a process, of both versions, from files that stand in for the system's."""

from __future__ import annotations

from pathlib import Path

import pytest

from jstrace.convert import refusals
from jstrace.models import InputError, memory, preset

GROUPS, MEMINFO = "/sys/fs/cgroup", "MemTotal: 100 kB\nMemAvailable: 60 kB\nSwapTotal: 20 kB\n"
KB = 1024
UNLIMITED = "9223372036854771712\n"


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files of the system by their paths; all others are missing."""
    files = {"/proc/meminfo": MEMINFO}

    def read(path: Path, *_: object, **__: object) -> str:
        if str(path) not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    return files


def found() -> tuple[int, ...]:
    """Free memory, and all of it with and without swap, in kB."""
    numbers = (memory.free_memory(), memory.whole_memory(), memory.resident_memory())
    return tuple(-1 if number is None else number // KB for number in numbers)


def test_a_machine_without_groups(system: dict[str, str]) -> None:
    assert found() == (60, 120, 100)
    system["/proc/self/cgroup"] = "0::/user.slice\n"
    assert found() == (60, 120, 100), "a group that says nothing of memory"
    system[f"{GROUPS}/user.slice/memory.max"] = "max\n"
    system[f"{GROUPS}/user.slice/memory.current"] = f"{50 * KB}\n"
    assert found() == (60, 120, 100)


def test_the_least_of_nested_groups(system: dict[str, str]) -> None:
    """Each with what is used in it: the outer one may be the fuller."""
    system["/proc/self/cgroup"] = "0::/job/step\n"
    system |= {f"{GROUPS}/job/step/memory.max": f"{40 * KB}\n", f"{GROUPS}/job/step/memory.current": f"{5 * KB}\n"}
    assert found() == (35, 60, 40)
    system |= {f"{GROUPS}/job/memory.max": f"{50 * KB}\n", f"{GROUPS}/job/memory.current": f"{30 * KB}\n"}
    assert found() == (20, 60, 40)
    system[f"{GROUPS}/job/memory.stat"] = f"anon {10 * KB}\ninactive_file {8 * KB}\n"
    assert found() == (28, 60, 40), "what files are cached in is taken back"
    system[f"{GROUPS}/job/step/memory.swap.max"] = "0\n"
    assert found() == (28, 40, 40)
    system[f"{GROUPS}/job/memory.current"] = f"{70 * KB}\n"
    assert found() == (0, 40, 40)


def test_groups_of_the_first_version(system: dict[str, str]) -> None:
    system["/proc/self/cgroup"] = "5:devices:/\n4:cpu,memory:/slurm/job_1/step_0\n0::/\n"
    top = f"{GROUPS}/memory"
    system |= {f"{top}/memory.limit_in_bytes": UNLIMITED, f"{top}/memory.usage_in_bytes": f"{90 * KB}\n"}
    system[f"{top}/slurm/job_1/step_0/memory.limit_in_bytes"] = UNLIMITED
    assert found()[:2] == (60, 120)
    system[f"{top}/slurm/job_1/memory.limit_in_bytes"] = f"{30 * KB}\n"
    system[f"{top}/slurm/job_1/memory.usage_in_bytes"] = f"{12 * KB}\n"
    assert found() == (18, 50, 30)
    system[f"{top}/slurm/job_1/memory.stat"] = f"inactive_file {1 * KB}\ntotal_inactive_file {2 * KB}\n"
    system[f"{top}/slurm/job_1/memory.memsw.limit_in_bytes"] = f"{35 * KB}\n"
    assert found() == (20, 35, 30)


@pytest.mark.parametrize("place", ["/docker/abc", "/../../kubepods/pod/abc", "/"])
def test_a_container_that_sees_its_own_group_alone(system: dict[str, str], place: str) -> None:
    system["/proc/self/cgroup"] = f"0::{place}\n"
    system |= {f"{GROUPS}/memory.max": f"{40 * KB}\n", f"{GROUPS}/memory.current": f"{10 * KB}\n"}
    assert found() == (30, 60, 40)


def test_random_weights_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset("llama-3.1-8b")
    assert config is not None
    monkeypatch.setattr(refusals, "resident_memory", lambda: 2**40)
    refusals.check_room(config, refusals.jnp.dtype("float32"), narrow="")
    monkeypatch.setattr(refusals, "resident_memory", lambda: 2**34)
    refusals.check_room(config, refusals.jnp.dtype("float32"), narrow="int8")
    with pytest.raises(InputError, match="32 GB of weights do not fit"):
        refusals.check_room(config, refusals.jnp.dtype("float32"), narrow="")
