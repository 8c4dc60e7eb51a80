"""Runs: their folder, what it refuses, and inputs that do not work."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jstrace import runs
from jstrace.cli import progress
from jstrace.method.graph import full_graph
from jstrace.method.plans import Plan
from jstrace.method.scores.measured import MEASURES, Norm
from jstrace.models import Decoder, EdgeTree, InputError, Model
from jstrace.pipeline import call, masked
from jstrace.pipeline.resolved import Resolved
from jstrace.runs import folder as run_folder
from jstrace.runs import manifest, parts, schema
from jstrace.runs.data import Data, Row
from jstrace.scale import batching
from tests.conftest import TINY, tiny_params
from tests.runs.small_runs import DATA, SIZES, SMALL, Stops, read
from tests.stand_ins import Letters


class Backwards(Letters):
    """Other tokens for the same texts."""

    def encode(self, text: str) -> list[int]:
        return [96 - token for token in super().encode(text)]


@pytest.mark.quick
def test_the_same_command_goes_on(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast: sessions of one moment are several."""
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    assert runs.run(model, DATA, tmp_path, SMALL, limit=3, part_inputs=2).computed == 3
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.parquet")}
    seen: list[tuple[int, int, int]] = []
    done = runs.run(model, DATA, tmp_path, SMALL, part_inputs=2, progress=lambda *n: seen.append(n))
    assert done == runs.Summary(4, 0, 1)
    assert seen == [(3, 3, 4), (4, 3, 4)]
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())
    assert read(tmp_path, "inputs")["input"].to_pylist() == [0, 1, 2, 3]
    monkeypatch.setattr(call, "start", lambda *_: pytest.fail("nothing is left to do"))
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 0
    told = manifest.read_manifest(tmp_path)
    assert len(told["sessions"]) == 3
    assert {session["started"] for session in told["sessions"]} == {"2027-01-15T08:00:00+00:00"}
    assert told["config"]["data"] == DATA.fingerprint
    assert told["config"]["model"] == model.fingerprint()
    assert {"jax", "numpy", "python", "jstrace"} <= set(told["sessions"][0]["versions"])


def test_another_configuration_is_refused_with_the_difference(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, limit=1, name="tiny")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = Model(Decoder(TINY, tiny_params(seed=1)), Letters())
    changes: list[tuple[Model, Data, Plan, str]] = [
        (model, DATA, Plan(sizes=SIZES, ablations=("residual+mlp",)), r'ablate is \["all"\] there, \["residual'),
        (model, DATA, Plan(sizes=SIZES, seed=1), "seed is 0 there, 1 here"),
        (model, DATA, Plan(), r"sizes is \[0.01, 0.05, 0.3, 0.7\] there"),
        (model, Data("other", DATA.rows[1:], ()), SMALL, r"data is letters, 4 rows \(.*\) there, other, 3 rows \("),
        (Model(model.decoder, Backwards()), DATA, SMALL, "tokens is"),
        (other, DATA, SMALL, r"model is tiny, float32 \(.*\) there, other, float32 \("),
    ]
    for chosen, data, plan, message in changes:
        with pytest.raises(InputError, match=message):
            runs.run(chosen, data, tmp_path, plan, name="other")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_score_that_means_something_else_is_refused(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after its defaults changed. Runs of versions that said nothing of them go on (tests/test_golden.py)."""
    plan = Plan(("l1", "gradient"), baselines=("random",), sizes=SIZES)
    runs.run(model, DATA, tmp_path, plan, limit=1)
    held = manifest.read_manifest(tmp_path)["config"]["scores"]
    assert held == {
        "l1": {"kind": "Norm", "order": 1},
        "gradient": {"kind": "Gradient"},
        "random": {"kind": "uniform", "generator": "threefry2x32"},
    }
    with monkeypatch.context() as patched:
        patched.setitem(MEASURES, "l1", Norm(2))
        with pytest.raises(InputError, match=r"another run: order of l1 is 1 there, 2 here$"):
            runs.run(model, DATA, tmp_path, plan)
    assert runs.run(model, DATA, tmp_path, plan, limit=2).computed == 1


def test_folders_that_are_no_runs(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="holds files, but no run"):
        runs.run(model, DATA, tmp_path, SMALL)
    with pytest.raises(InputError, match=r"cannot be written|not a folder"):
        runs.run(model, DATA, tmp_path / "file", SMALL)
    assert (tmp_path / "file").read_text() == "mine"
    for text in ("", "[]", '{"format": "other"}', '{"format": "jstrace-run", "version": 99, "config": {}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=r"manifest|format version 99"):
            runs.run(model, DATA, tmp_path, SMALL)
    with pytest.raises(InputError, match="limit = 0"):
        runs.run(model, DATA, tmp_path / "new", SMALL, limit=0)
    with pytest.raises(InputError, match="without a tokenizer"):
        runs.run(Model(model.decoder), DATA, tmp_path / "new", SMALL)


def test_a_run_that_fails_at_once_leaves_no_folder(model: Model, tmp_path: Path) -> None:
    """Neither its own nor those above it; folders that were there stay, and so does what holds anything."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "older" / "sibling").mkdir(parents=True)

    def fails() -> Model:
        raise InputError("no such model")

    for out in ("new", "new/inner", "mine", "older/inner"):
        for start, message in ((fails, "no such model"), (Model(model.decoder), "without a tokenizer")):
            with pytest.raises(InputError, match=message):
                runs.run(start, DATA, tmp_path / out, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "older"]
    assert [path.name for path in (tmp_path / "older").iterdir()] == ["sibling"]
    with pytest.raises(ZeroDivisionError):
        runs.run(model, DATA, tmp_path / "kept", SMALL, limit=1, progress=Stops(0, ZeroDivisionError()))
    assert (tmp_path / "kept" / "manifest.json").exists()
    assert runs.run(model, DATA, tmp_path / "kept", SMALL, limit=1).computed == 1


def test_two_runs_in_one_folder(model: Model, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path), pytest.raises(InputError, match="another run is writing there"):
        runs.run(model, DATA, tmp_path, SMALL)
    assert runs.run(model, DATA, tmp_path, SMALL).computed == 4


def test_a_damaged_part(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
    whole = {name: read(tmp_path, name) for name in ("curves", "inputs", "components")}
    path = sorted((tmp_path / "curves").glob("*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF  # a page, not the footer
    path.write_bytes(content)
    for damage in (bytes(content), b"", bytes(content[: len(content) // 2])):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=f"{path.name}: damaged .* remove inputs/{path.name}, and"):
            runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
        assert path.read_bytes() == damage
    (tmp_path / "inputs" / path.name).unlink()
    (tmp_path / "curves" / ".jstrace-left").touch()
    assert runs.run(model, DATA, tmp_path, SMALL, part_inputs=2).computed == 2
    assert not list(tmp_path.glob("*/.jstrace*"))
    for name, table in whole.items():
        assert read(tmp_path, name).equals(table)


def test_strata_may_be_removed(model: Model, tmp_path: Path) -> None:
    """One file of them or all: nothing that is finished is removed, or computed again."""
    runs.run(model, DATA, tmp_path, SMALL, limit=2, part_inputs=1, save_strata=True)
    (tmp_path / "strata" / parts.Part(0, 0).file).unlink()
    files = {path: path.read_bytes() for path in tmp_path.glob("*/*.parquet")}
    assert runs.run(model, DATA, tmp_path, SMALL, limit=3, part_inputs=1, save_strata=True) == runs.Summary(3, 0, 1)
    assert {path: path.read_bytes() for path in files} == files
    assert {path.name for path in (tmp_path / "strata").iterdir()} == {parts.Part(n, n).file for n in (1, 2)}
    shutil.rmtree(tmp_path / "strata")
    assert runs.run(model, DATA, tmp_path, SMALL, part_inputs=1, save_strata=True) == runs.Summary(4, 0, 1)
    assert read(tmp_path, "inputs")["input"].to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize("folder", [True, False])
def test_a_table_that_was_moved_away(model: Model, tmp_path: Path, folder: bool) -> None:
    """What is left of finished inputs is not removed for it."""
    runs.run(model, DATA, tmp_path / "run", SMALL, limit=2)
    (moved,) = (tmp_path / "run" / "components").iterdir()
    moved.rename(tmp_path / moved.name)
    if folder:
        moved.parent.rmdir()
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="components of finished inputs is not there; put those files back"):
        runs.run(model, DATA, tmp_path / "run", SMALL)
    assert {path: path.read_bytes() for path in files} == files
    shutil.rmtree(tmp_path / "run" / "inputs")
    assert runs.run(model, DATA, tmp_path / "run", SMALL).computed == 4


def test_parts_that_cannot_be_read(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for more open files is no damage; a part that holds other inputs than its name says is."""
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=2)
    (one, two) = sorted((tmp_path / "inputs").glob("*.parquet"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    with pytest.raises(InputError, match="does not hold the inputs that its name says"):
        runs.run(model, DATA, tmp_path, SMALL)
    one.write_bytes(content)

    def refused(_: Path) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(InputError, match=r"cannot be read \(Too many open files\)"):
        parts.read_part(tmp_path, "inputs", parts.Part(0, 1), "")


def failing(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """Memory runs out in those calls of the evaluation, counted from 1 over all runs."""
    run_cases, calls = masked.evaluate_batch, [0]

    def some_fail(*rest: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] in numbers:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
        return run_cases(*rest, **options)

    monkeypatch.setattr(masked, "evaluate_batch", some_fail)
    monkeypatch.setattr(Resolved, "most_inputs", lambda *_: 1)


TWO = Data("d", (Row("abc"), Row("cab")), ())


# Two batches of one part, and two parts: what a run knows of memory outlives its parts.
@pytest.mark.parametrize("part_inputs", [2, 1])
def test_memory_that_somebody_else_took(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_inputs: int
) -> None:
    """Where as long an input fitted before, the run stops rather than call this one invalid."""
    failing(monkeypatch, {2, 3})  # beside the first input, and again alone
    with (
        pytest.warns(RuntimeWarning, match="another in flight; going on with one at a time"),
        pytest.raises(jax.errors.JaxRuntimeError),
    ):
        runs.run(model, TWO, tmp_path, SMALL, part_inputs=part_inputs)
    again = runs.run(model, TWO, tmp_path, SMALL, part_inputs=part_inputs)
    assert again == runs.Summary(2, 0, 1), "what was finished before was written"


@pytest.mark.parametrize("part_inputs", [2, 1])
def test_memory_that_another_input_held(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part_inputs: int
) -> None:
    """An input that failed beside another runs again alone, and the run goes on to its end."""
    failing(monkeypatch, {2})
    with pytest.warns(RuntimeWarning, match="another in flight; going on with one at a time"):
        found = runs.run(model, TWO, tmp_path, SMALL, part_inputs=part_inputs)
    assert found == runs.Summary(2, 0, 2)


def test_a_model_is_loaded_when_the_folder_is_free(model: Model, tmp_path: Path) -> None:
    with run_folder.locked(tmp_path / "a"), pytest.raises(InputError, match="another run"):
        runs.run(lambda: pytest.fail("loaded"), DATA, tmp_path / "a", SMALL)
    (tmp_path / "a" / ".lock-3").touch()
    with run_folder.locked(tmp_path / "a"), pytest.raises(InputError, match="another run"):
        run_folder._acquired(tmp_path / "a")
    assert runs.run(lambda: model, DATA, tmp_path / "a", SMALL, limit=1).computed == 1


def test_parts_that_overlap(model: Model, tmp_path: Path) -> None:
    runs.run(model, DATA, tmp_path, SMALL, part_inputs=4)
    for name in ("curves", "inputs", "components"):
        (tmp_path / name / "00000001-00000001.parquet").write_bytes(
            (tmp_path / name / "00000000-00000003.parquet").read_bytes()
        )
    with pytest.raises(InputError, match="inputs 1 to 3 stand in two parts"):
        runs.run(model, DATA, tmp_path, SMALL)


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """The system refuses to let files grow beyond a number of bytes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(model: Model, tmp_path: Path, small_files: Callable[[int], None]) -> None:
    runs.run(model, DATA, tmp_path, SMALL, limit=1, part_inputs=1)
    whole = {name: read(tmp_path, name) for name in ("curves", "inputs", "components")}
    small_files(3000)
    with pytest.raises(InputError, match="cannot be written"):
        runs.run(model, DATA, tmp_path, SMALL, part_inputs=1)
    small_files(resource.RLIM_INFINITY)
    for name, table in whole.items():
        assert read(tmp_path, name).slice(0, table.num_rows).equals(table)
        assert not list((tmp_path / name).glob(".*"))
    assert runs.run(model, DATA, tmp_path, SMALL, part_inputs=1).computed == 3


def test_invalid_inputs_are_recorded(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose forward pass is not finite, one that does not fit into memory, one without tokens, one too long."""
    params = tiny_params()
    params["embed"] = params["embed"].at[Letters().encode("q")[0]].set(jnp.nan)
    broken = Model(Decoder(TINY, params), Letters())
    texts = ("abc", "aq", "b" * 20, " ", "c" * 40, "cab")
    data = Data("broken", tuple(Row(text) for text in texts), texts)
    run_cases, n_edges = masked.evaluate_batch, full_graph.n_edges

    def small_memory(decoder: Decoder, tokens: jax.Array, *rest: Any, **options: Any) -> Any:
        if tokens.shape[1] == 32:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 TB")
        return run_cases(decoder, tokens, *rest, **options)

    def few_edges(config: Any, length: int, n_outputs: int = 1) -> int:
        if length == 40:
            raise InputError("40 tokens make a graph of too many edges")
        return int(n_edges(config, length, n_outputs))

    monkeypatch.setattr(masked, "evaluate_batch", small_memory)
    monkeypatch.setattr(full_graph, "n_edges", few_edges)
    assert batching.bucket(20) == 32
    done = runs.run(broken, data, tmp_path, SMALL)
    assert done == runs.Summary(inputs=6, invalid=4, computed=6)
    rows = read(tmp_path, "inputs").to_pylist()
    assert [row["valid"] for row in rows] == [True, False, False, False, False, True]
    assert [row["reason"] for row in rows] == [
        None,
        "the forward pass over 2 tokens is not finite",
        "20 tokens do not fit into memory",
        "the text is empty; a trace needs at least one token",
        "40 tokens make a graph of too many edges",
        None,
    ]
    for name in ("curves", "components"):
        assert set(read(tmp_path, name)["input"].to_pylist()) == {0, 5}


def test_predictions_that_are_not_finite(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision can overflow under a mask alone."""
    run_cases = masked.evaluate_batch

    def overflow(*rest: Any, **options: Any) -> Any:
        first, *others = run_cases(*rest, **options)
        spoilt = jax.tree.map(lambda leaf: leaf, first)
        object.__setattr__(spoilt.measures, "tv", spoilt.measures.tv.at[0, 1].set(jnp.nan))
        return (spoilt, *others)

    monkeypatch.setattr(masked, "evaluate_batch", overflow)
    runs.run(model, Data("", DATA.rows[:1], ()), tmp_path, SMALL)
    assert read(tmp_path, "inputs")["reason"].to_pylist() == ["a prediction under l1/all is not finite"]


def test_pace() -> None:
    assert progress._pace(10, 3600, 20.0) == "0.5 inputs/s, about 2:00:00 left"
    assert progress._pace(0, 10, 0.0).startswith("0 inputs/s")


def test_only_whole_parts_count(tmp_path: Path) -> None:
    for name, there in (("curves", (0, 1)), ("inputs", (1,)), ("components", (0, 1, 2))):
        (tmp_path / name).mkdir()
        for part in there:
            (tmp_path / name / parts.Part(part, part).file).touch()
    (tmp_path / "inputs" / "notes.parquet").touch()
    assert parts.complete_parts(tmp_path, ("curves", "inputs", "components")) == {parts.Part(1, 1)}


def test_strata_survive_the_table() -> None:
    tree = EdgeTree(*(np.arange(np.prod(s), dtype=np.uint8).reshape(s) for s in ((2, 3), (2, 4, 3, 3), (2, 3), (2, 3))))
    row = {"layers": 2, "n_heads": 4, "n_tokens": 3, **{name: leaf.tobytes() for name, leaf in tree.items()}}
    for name, leaf in schema.strata_arrays(row).items():
        np.testing.assert_array_equal(leaf, getattr(tree, name))
