"""What runs add to their inputs: generated tokens and the geometry of hidden states."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet

from jstrace import runs
from jstrace.method.measure.geometry import geometry
from jstrace.method.plans import Plan
from jstrace.models import InputError, Model
from jstrace.pipeline.generation import generated
from jstrace.runs import Extras, inputs, manifest, parts
from jstrace.runs.data import Data, Row
from jstrace.runs.inputs import written_tokens
from jstrace.scale import hosts
from tests.stand_ins import Halves, Letters

DATA = Data("letters", (Row("abc", "d"), Row(" "), Row("hello")), ("hello",))
PLAN = Plan(sizes=(0.05, 0.3), ablations=("residual+mlp",))
WARM = Extras(generate=3, temperature=1.0)


def test_every_generated_token_is_an_input(model: Model, tmp_path: Path) -> None:
    """However it is divided: stopped between tokens of one row, it makes the same ones again."""
    assert runs.run(model, DATA, tmp_path / "one", PLAN, extras=WARM, part_inputs=2) == runs.Summary(9, 3, 9)
    assert runs.run(model, DATA, tmp_path / "two", PLAN, extras=WARM, limit=7, part_inputs=2).computed == 7
    assert runs.run(model, DATA, tmp_path / "two", PLAN, extras=WARM, part_inputs=2).computed == 2
    found = parquet.read_table(tmp_path / "one" / "inputs").to_pylist()
    again = parquet.read_table(tmp_path / "two" / "inputs").sort_by("input").to_pylist()
    assert [(row["row"], row["step"]) for row in found] == [(n, s) for n in range(3) for s in range(3)]
    for one, other in zip(found, again, strict=True):
        for name, value in one.items():
            assert other[name] == value, name
    prompt = np.asarray(Letters().encode("hello"), np.int32)
    tokens, probs = generated(model, prompt, 3, temperature=1.0, seed=0, row=2)
    word = Letters().token
    for step, row in enumerate(found[6:]):
        assert row["tokens"] == [*prompt, *tokens[:step]]
        assert row["text"] == "hello" + "".join(map(word, tokens[:step].tolist()))
        assert (row["generated_token"], row["generated_text"]) == (tokens[step], word(int(tokens[step])))
        assert row["generated_prob"] == pytest.approx(probs[step])
        assert row["surprisal"] == pytest.approx(-np.log(probs[step]), rel=1e-3), "of the token that was taken"
        assert row["next_token"] == tokens[step]
    assert {row["reason"] for row in found[3:6]} == {"the text is empty; a trace needs at least one token"}
    assert not any(row["valid"] for row in found[3:6])
    config = manifest.read_manifest(tmp_path / "one")["config"]
    assert (config["generate"], config["temperature"]) == (3, 1.0)
    with pytest.raises(InputError, match=r"generate is 3 there, 2 here$"):
        runs.run(model, DATA, tmp_path / "one", PLAN, extras=dataclasses.replace(WARM, generate=2))
    with pytest.raises(InputError, match=r"generate is 3 there, 0 here; temperature is 1\.0 there, 0\.0 here$"):
        runs.run(model, DATA, tmp_path / "one", PLAN)


def test_a_text_goes_on_with_the_tokens_that_are_written(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the same seed draws others now, as on another device: what is written is read, and not made again."""

    def drawn(*given: Any, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        return generated(*given, **how | {"seed": 5})

    prompt = np.asarray(Letters().encode("hello"), np.int32)
    assert (
        drawn(model, prompt, 3, temperature=1.0, row=2)[0][0]
        != generated(model, prompt, 3, temperature=1.0, row=2)[0][0]
    )
    runs.run(model, DATA, tmp_path, PLAN, extras=WARM, limit=7, part_inputs=2)
    first = parquet.read_table(tmp_path / "inputs").to_pylist()[6]
    monkeypatch.setattr(inputs, "generated", drawn)
    assert runs.run(model, DATA, tmp_path, PLAN, extras=WARM, part_inputs=2).computed == 2
    found = parquet.read_table(tmp_path / "inputs").sort_by("input").to_pylist()[6:]
    assert found[0] == first
    for one, other in itertools.pairwise(found):
        assert other["tokens"] == [*one["tokens"], one["generated_token"]]


def test_which_tokens_are_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that is there has all before it, also where others of the row are missing; any host's count."""
    runs.run(model, DATA, tmp_path, PLAN, extras=WARM, part_inputs=1)
    mark = manifest.mark_of(manifest.read_manifest(tmp_path)["config"])
    rows = parquet.read_table(tmp_path / "inputs").to_pylist()

    def known(left: set[int], missing: set[int], data: Data = DATA) -> dict[int, list[int]]:
        done = np.asarray([index not in missing for index in range(9)])
        there = [parts.Part(index, index) for index in left]
        found = written_tokens(tmp_path, there, mark, done, model, data.rows, 3)
        return {row: tokens.tolist() for row, tokens in found.items()}

    taken = [[one["generated_token"] for one in rows[start : start + 3]] for start in (0, 3, 6)]
    assert known(set(range(9)), set()) == {}
    assert known({0, 1, 7}, {2, 6, 8}) == {0: taken[0][:2], 2: taken[2][:2]}
    assert known({3, 4}, {5}) == {}, "an input that is none has no tokens"
    with monkeypatch.context() as patched:
        patched.setattr(hosts, "gathered", lambda own: [own, b"[[2, [1, 2]], [0, [3]]]"])
        assert known({1, 6}, {2, 7, 8}) == {0: taken[0][:2], 2: [1, 2]}
    other = Data("other", (Row("abd"), *DATA.rows[1:]), ())
    with pytest.raises(InputError, match=r"00000001-00000001\.parquet: the tokens of input 1 do not follow the text"):
        known({1}, {2}, other)


def test_memory_that_ran_out_while_tokens_were_made(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer prompt than any before does not fit, and is not tried again; one no longer is somebody else's doing."""
    full, tried = {"abcd"}, list[int]()

    def short(_: Model, prompt: np.ndarray, n_tokens: int, **how: Any) -> tuple[np.ndarray, np.ndarray]:
        tried.append(how["row"])
        if rows[how["row"]].text in full:
            raise MemoryError
        return np.zeros(n_tokens, np.int32), np.ones(n_tokens, np.float32)

    rows = [Row("abc"), Row("abcd"), Row("ab")]
    monkeypatch.setattr(inputs, "generated", short)
    made = inputs.Inputs(model, rows, WARM, 0)
    assert made.made(0).given is not None
    assert [made.made(index).reason for index in (3, 4, 5)] == ["4 tokens do not fit into memory"] * 3
    assert tried == [0, 1]
    full.add("ab")
    with pytest.raises(MemoryError):
        made.made(6)


def test_generated_text_is_decoded_together(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the prompt; whole letters stay what they are beside the part of one."""
    after = np.asarray(Halves().encode("日本"), np.int32)
    monkeypatch.setattr(inputs, "generated", lambda *_, **how: (after, np.ones(len(after), np.float32)))
    made = inputs.Inputs(Model(tiny.decoder, Halves()), [Row("é")], Extras(generate=12), 0)
    rows = [made.made(step) for step in range(12)]
    assert [row.row.text for row in rows[::2]] == ["é", *("é\ufffd",) * 2, "é日", *("é日\ufffd",) * 2]
    assert [row.columns["generated_text"] for row in rows[:2]] == ["<E>", "<6>"]


def test_geometry_of_every_layer(model: Model, tmp_path: Path) -> None:
    """Of the states that the model itself has, at the input's own length."""
    runs.run(model, DATA, tmp_path, PLAN, extras=Extras(geometry=True))
    found = parquet.read_table(tmp_path / "inputs").to_pylist()
    states = whole_states(model, np.asarray(found[2]["tokens"], np.int32))
    expected = geometry(states)
    assert found[2]["dimension"] == pytest.approx(expected.dimension.tolist(), rel=1e-4)
    assert found[2]["anisotropy"] == pytest.approx(expected.anisotropy.tolist(), rel=1e-4)
    assert len(found[2]["dimension"]) == model.config.n_layers
    assert found[1]["dimension"] is None, "an invalid input has none"


def whole_states(model: Model, tokens: np.ndarray) -> np.ndarray:
    """The residual stream after each layer: what masked passes of fewer and fewer layers would embed, by hand."""
    from jstrace.models import layers as fn
    from jstrace.models.layers import attention_output, project_qkv, turned, with_constants
    from jstrace.models.mlp import mlp

    config, decoder = model.config, model.decoder
    sight = jax.tree.map(lambda table: table[0], fn.sights(config, len(tokens), None))
    x, found = decoder.embedded(jnp.asarray(tokens)), []
    for layer in range(config.n_layers):
        w = jax.tree.map(lambda leaf, layer=layer: leaf[layer], decoder.layers.weights())
        q, k, v = project_qkv(config, w, x)
        logits = fn.attention_logits(config, fn.rotate(q, sight.cos, sight.sin), fn.rotate(k, sight.cos, sight.sin))
        x = x + attention_output(config, turned(w), fn.mix_values(fn.attention_probs(logits, sight.visible), v))
        x = with_constants(w, x)
        x = x + mlp(config, w, x)
        found.append(np.asarray(x))
    return np.stack(found)


def test_older_runs_stay_the_same() -> None:
    """Neither the configuration nor the fingerprint of data says anything of what is not asked for."""
    config = manifest.configuration(PLAN, DATA, save_strata=False)
    assert not {"generate", "temperature", "geometry"} & set(config)
    assert DATA.fingerprint == "ed2704c7eafbcf92", "as version 0.1 gave it"


@pytest.mark.parametrize(
    ("extras", "plan", "message"),
    [
        (Extras(generate=-1), PLAN, "generate = -1, expected a number of tokens"),
        (Extras(generate=10**30), PLAN, "expected a number of tokens up to 1,048,576"),
        (Extras(generate=True), PLAN, "generate = True"),
        (Extras(generate=1, temperature=-1.0), PLAN, "temperature = -1"),
        (Extras(temperature=1.0), PLAN, "temperature is for generated tokens"),
        (WARM, Plan(("gradient",), selectivity=1), "selectivity tells an input what others predict"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, extras: Extras, plan: Plan, message: str) -> None:
    def unloaded() -> Model:
        raise AssertionError("refused before anything is loaded")

    with pytest.raises(InputError, match=message):
        runs.run(unloaded, DATA, tmp_path / "run", plan, extras=extras)
    assert not (tmp_path / "run").exists()
