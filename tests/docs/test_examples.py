"""The example of every public docstring is run, on a tiny model of random weights with a tokenizer of a few words."""

from __future__ import annotations

import dataclasses
import doctest
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
import tokenizers.decoders
import tokenizers.models
import tokenizers.pre_tokenizers

import jstrace
from docs.sitebuild import reference, tasks
from tests import hf_models

TEXT, OTHER = (tasks.EXAMPLES[name].strip("`") for name in ("text", "other"))
MORE = ["John and Mary met. Mary called", "Mary and Mary met. John met"]
WORDS = ["Mary", " Mary", "John", " John", " and", " met", ".", " called"]


def folder_of_a_model(folder: Path) -> Path:
    """A model as ``jstrace.load`` reads it, whose tokens are words with the space before them."""
    hf_models.make(hf_models.VARIANTS["llama-gqa"], folder)
    words = [*WORDS, *(f" word{n}" for n in range(88)), "<unk>"]
    known = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(known)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r" ?\w+|."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the first page of the reference says that examples have."""
    folder = folder_of_a_model(tmp_path_factory.mktemp("examples") / "my-model").parent
    model = jstrace.load(folder / "my-model")
    trace = jstrace.trace(model, TEXT)
    assert model.tokenizer is not None
    found: dict[str, Any] = {
        "model": model,
        "text": TEXT,
        "other": OTHER,
        "tokens": np.asarray(model.tokenizer.encode(TEXT)),
        "trace": trace,
        "evaluation": jstrace.evaluate(model, trace),
        "texts": [TEXT, OTHER, *MORE],
        "others": MORE,
        "means": jstrace.mean_replacement(model, [TEXT, OTHER]),
        "pairs": [
            jstrace.Pair(TEXT, OTHER, " Mary", " John"),
            jstrace.Pair(MORE[0], "John and Mary met. John called", " John", " Mary"),
        ],
    }
    assert found.keys() == tasks.EXAMPLES.keys()
    return found | {"folder": folder, "jstrace": jstrace, "jax": jax, "np": np, "dataclasses": dataclasses}


def test_examples(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, in one process, as they share programs; each prints what it says."""
    monkeypatch.chdir(names["folder"])
    runner = doctest.DocTestRunner()
    public = reference.public()
    for name, full in public.items():
        said = reference.docstring(full)
        test = doctest.DocTestParser().get_doctest(said, dict(names), name, None, None)
        assert test.examples, f"{name} has no example"
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert sorted(name for names in tasks.TASKS.values() for name in names[1]) == sorted(public)
