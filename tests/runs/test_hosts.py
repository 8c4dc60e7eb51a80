"""Two hosts give the numbers of one: traces and evaluations on meshes, the command line, and runs into folders."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import jstrace
from jstrace import runs
from jstrace.method.plans import Plan
from jstrace.pipeline.replacing import Replacing
from jstrace.runs import parts
from jstrace.runs.control import Control
from tests import hf_models, two_hosts


@pytest.fixture(scope="session")
def two_hosts_work(hf_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> two_hosts.Work:
    """Traces on two meshes and runs into folders, as a pair of processes computed them."""
    model, folder = hf_llama(), tmp_path_factory.mktemp("hosts")
    hf_models.add_tokenizer(model)
    lines = [f"{'the cat sat on a mat ' * (n % 3 + 1)}\tthe" for n in range(7)]
    data = folder / "rows.tsv"
    data.write_text("\n".join(lines) + "\n")
    return two_hosts.done(two_hosts.Work(model, data, folder / "shared", (folder / "own0", folder / "own1")))


@pytest.fixture(scope="session")
def two_hosts_again(two_hosts_work: two_hosts.Work) -> two_hosts.Work:
    """The same runs by another pair of processes, for which nothing is left."""
    return two_hosts.done(two_hosts_work, again=True)


def test_two_hosts_give_the_numbers_of_one(two_hosts_work: two_hosts.Work) -> None:
    one = jstrace.load(str(two_hosts_work.model))
    traces = jstrace.trace(one, two_hosts.ROWS)
    expected = jstrace.evaluate(one, traces)
    for told in two_hosts_work.told:
        assert told["devices"] == 4
        assert told["fingerprint"] == one.fingerprint()
        assert len(told["meshes"]) == len(two_hosts.MESHES) == 2
        for mesh in told["meshes"]:
            np.testing.assert_allclose(mesh["tv"], [result.tv for result in expected], atol=1e-5)
            assert mesh["strata"] == [two_hosts.digest(trace) for trace in traces]


def test_two_hosts_choose_the_same_targets(two_hosts_work: two_hosts.Work) -> None:
    """Those of one."""
    model, rows = jstrace.load(str(two_hosts_work.model)), runs.read_data(str(two_hosts_work.data)).rows
    control = Control(model, Plan(("gradient",), sizes=two_hosts.SIZES, selectivity=2), rows, Replacing(model))
    expected = [list(control.others(index)) for index in range(len(rows))]
    assert any(expected)
    assert [told["foreign"] for told in two_hosts_work.told] == [expected] * 2


COMMANDS = """
import contextlib, json, os, signal, sys, time
import jax
from jstrace.cli import computing, main
from jstrace.pipeline import call
from jstrace.scale import hosts

signal.signal(signal.SIGINT, signal.default_int_handler)
first = os.environ["JAX_PROCESS_ID"] == "0"
run_batch, codes = call.start, []

def interrupted(*arguments):
    if not first:
        signal.raise_signal(signal.SIGINT)
    return run_batch(*arguments)

def full():
    if first:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    computing._CHUNK = 1

for number, words in enumerate(json.loads(sys.argv[1])):
    call.start = interrupted if number == 1 else run_batch
    if number == 2:
        full()
    sys.argv = ["jstrace", *words]
    code = 0
    try:
        main()
    except SystemExit as done:
        code = int(done.code or 0)
    codes.append(code)
    sys.stderr.write(f"--- ended {code}\\n")
    jax.distributed.initialize = lambda **_: None  # which they did
with contextlib.suppress(OSError):
    sys.stdout.flush()
hosts.client().wait_at_barrier("ended", 120_000)
if first:
    time.sleep(2)  # the coordinator's end would end the other
os._exit(0)
"""
"""The commands of a list of words one after another, in processes that have found each other once: the second is
interrupted on the second host, and where the first host prints the third there is no room."""


@dataclasses.dataclass(frozen=True)
class Commands:
    """How each of three commands ended on each host."""

    model: Path
    out: Path
    printed: tuple[str, str]
    """What each host printed before its output was full."""
    told: tuple[list[str], list[str]]
    """Standard error of each host, a text a command."""


@pytest.fixture(scope="session")
def commands(hf_llama: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Commands:
    model, folder = hf_llama(), tmp_path_factory.mktemp("commands")
    hf_models.add_tokenizer(model)
    (folder / "rows.txt").write_text("the cat\nthe cat sat on a mat and the cat sat on a mat\nthe mat\n")
    (folder / "texts").write_text("the cat\n" * 8)
    named = ["--model", str(model), "--distributed"]
    words = [
        ["trace", "the cat sat", "--json", *named],
        ["run", "--data", str(folder / "rows.txt"), "--out", str(folder / "out"), "--ablate", "all", *named],
        ["trace", "--file", str(folder / "texts"), "--json", *named],
    ]
    ended = two_hosts.run_together(lambda _: [sys.executable, "-c", COMMANDS, json.dumps(words)])
    assert [run.returncode for run in ended] == [0, 0], [run.stderr[-2000:] for run in ended]
    one, two = (re.split(r"(?<=--- ended \d)(?=\n)|(?<=--- ended \d\d\d)(?=\n)", run.stderr) for run in ended)
    return Commands(model, folder / "out", (ended[0].stdout, ended[1].stdout), (one, two))


def test_the_same_command_on_two_hosts(commands: Commands) -> None:
    """``--distributed``: the first process prints, the other is silent; a single process gives the same."""
    assert commands.printed[1] == ""
    assert commands.told[0][0].endswith("--- ended 0")
    assert commands.told[1][0].endswith("--- ended 0")
    printed, model = json.loads(commands.printed[0]), jstrace.load(str(commands.model))
    expected = jstrace.evaluate(model, jstrace.trace(model, "the cat sat"))
    assert printed["density"] == pytest.approx(expected.density, abs=1e-3)


def test_an_interrupted_run_stops_on_both_hosts(commands: Commands) -> None:
    """Ctrl-C on one while both compute: both end after that batch, and what is finished is written."""
    one, two = commands.told[0][1], commands.told[1][1]
    assert one.endswith("--- ended 2")
    assert "jstrace: error: another host was interrupted, so this one stops, too\n" in one
    assert two.endswith("--- ended 130")
    assert f"jstrace: stopped; repeat the command to resume {commands.out}\n" in two
    assert {part.inputs for part in parts.parts_of(commands.out, "inputs")} == {range(1), range(2, 3)}


def test_what_the_first_host_cannot_print_ends_both(commands: Commands) -> None:
    """A full disk: a line from each, though there is more to compute."""
    for told, message in zip(commands.told, ("No space left on device", "another host failed"), strict=True):
        assert told[2].endswith("--- ended 2")
        lines = [line for line in told[2].splitlines() if line.startswith("jstrace: error: ")]
        assert len(lines) == 1
        assert message in lines[0]


@pytest.mark.parametrize("number", [0, 1])
def test_a_host_that_dies_ends_the_other(hf_llama: Callable[..., Path], tmp_path: Path, number: int) -> None:
    """With one sentence and no zero, whichever of them is the coordinator; what was whole is gone on with."""
    model = hf_llama()
    hf_models.add_tokenizer(model)
    (tmp_path / "rows.txt").write_text("the cat\nthe cat sat on a mat and the cat sat on a mat\nthe mat\n")
    script = f"""
import os, signal, sys
from jstrace.cli import main
from jstrace.scale import hosts
from jstrace.runs.saving import Saver
hosts.HEARTBEAT = 3
saved = Saver._save
def killed(self):
    saved(self)
    if os.environ["JAX_PROCESS_ID"] == "{number}":
        os.kill(os.getpid(), signal.SIGKILL)
Saver._save = killed
sys.argv[0] = "jstrace"
main()
"""
    words = ["run", "--data", str(tmp_path / "rows.txt"), "--model", str(model), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", script, *words, "--ablate", "all", "--distributed"]
    ended = two_hosts.run_together(lambda _: command)
    assert ended[number].returncode == -signal.SIGKILL
    other = ended[1 - number]
    assert other.returncode not in (0, -signal.SIGKILL)
    assert [line for line in other.stderr.splitlines() if " @ " in line or "Traceback" in line] == []
    assert len([line for line in other.stderr.splitlines() if line.startswith("jstrace: error: ")]) == 1, other.stderr
    data, out = runs.read_data(str(tmp_path / "rows.txt")), tmp_path / "out"
    there = sum(len(part.inputs) for part in parts.complete_parts(out, ["curves", "components", "inputs"]))
    again = runs.run(jstrace.load(str(model)), data, out, Plan(ablations=("all",)))
    assert again.computed == 3 - there


def test_different_commands_on_two_hosts(two_hosts_work: two_hosts.Work) -> None:
    """Both are refused with one line: their numbers would mix."""
    assert len(two_hosts_work.told) == 2
    for told in two_hosts_work.told:
        assert told["refused"].startswith("the hosts were given different inputs")


def test_a_host_that_stops_stops_the_others(two_hosts_work: two_hosts.Work) -> None:
    """Whatever it was, Ctrl-C and exits too; and they work together again after it."""
    first, second = (told["stopped"] for told in two_hosts_work.told)
    failed = "another host failed; its own message says why"
    interrupted = "another host was interrupted, so this one stops, too"
    assert first == [
        f"InputError: {failed}",
        f"InputError: {interrupted}",
        f"InputError: {failed}",
        "KeyboardInterrupt: ",
        "done",
        "Stopped: ",
        "done",
    ]
    last = [f"InputError: {interrupted}", "done"]
    assert second == ["ValueError: no", "KeyboardInterrupt: ", "SystemExit: 3", *last, *last]


@pytest.mark.parametrize("shared", [True, False])
def test_two_hosts_write_their_own_parts(
    two_hosts_work: two_hosts.Work, two_hosts_again: two_hosts.Work, tmp_path: Path, shared: bool
) -> None:
    """Into one folder or each into its own; the same command goes on where nothing is left."""
    work = two_hosts_work
    for found, computed in ((work.told, 7), (two_hosts_again.told, 0)):
        assert [told["shared" if shared else "own"] for told in found] == [computed] * 2
    outs = (work.shared,) if shared else work.own
    assert [len(list(out.glob("inputs/*.parquet"))) for out in outs] == ([4] if shared else [2, 2])
    alone = tmp_path / "alone"
    runs.run(jstrace.load(str(work.model)), runs.read_data(str(work.data)), alone, Plan(sizes=two_hosts.SIZES))
    found = pa.concat_tables([parquet.read_table(out / "curves") for out in outs]).sort_by(
        [("input", "ascending"), ("k", "ascending")]
    )
    np.testing.assert_allclose(found["tv"].to_numpy(), parquet.read_table(alone / "curves")["tv"].to_numpy(), atol=1e-5)
