"""Options that nothing would read, or that do not go together: one line, exit code 2, and no model is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.quick

TRACE, VIEW = ("trace", "hello"), ("view", "hello", "--out", "p.html")
SELECTIVITY = ("selectivity", "hello", "--others", "texts.txt", "--score", "rounds")
RUN = ("run", "--data", "texts.txt", "--out", "run")
FIT = ("train-scorer", "--data", "texts.txt", "--out", "a.safetensors")
EXPORT = ("export", "t.npz", "--size", "0.1", "--out", "o")
TEXTS = ("--reference", "texts.txt")
NO_TEXTS = "--reference has texts for --replace mean or resample; ablated edges carry none of them here"
NO_SCORE = "--score-replace is for scores from gradients, such as rounds; l1 looks at no ablation"
NO_SEED = "--seed is for the scores random, random-nodes and fitted"

REFUSED = [
    ((*TRACE, *TEXTS), NO_TEXTS),
    ((*TRACE, *TEXTS, "--replace", "zero", "--score", "rounds"), NO_TEXTS),
    ((*TRACE, *TEXTS, "--replace", "mean", "--score-replace", "mean"), NO_SCORE),
    ((*TRACE, *TEXTS, "--counterfactual", "jello", "--score", "rounds"), NO_TEXTS),
    ((*SELECTIVITY, *TEXTS), NO_TEXTS),
    ((*RUN, *TEXTS), NO_TEXTS),
    ((*FIT, *TEXTS, "--replace", "zero"), "--reference has texts for means; give --replace mean or resample, too"),
    ((*TRACE, "--score-replace", "mean"), NO_SCORE),
    ((*VIEW, "--score-replace", "mean"), NO_SCORE),
    ((*VIEW, "--score", "relp", "--against", "relp"), "--against relp is the score of the first trace, too"),
    ((*RUN, "--score-replace", "mean"), "score_replace is for scores from gradients"),
    ((*TRACE, "--pre-softmax", "--replace", "mean"), "leaves nothing to replace by mean: give --replace zero"),
    ((*TRACE, "--pre-softmax", "--ablate", "residual+mlp"), "--ablate residual+mlp leaves in place: give one"),
    ((*TRACE, "--seed", "3"), f"{NO_SEED}; l1 draws nothing"),
    ((*SELECTIVITY, "--seed", "3"), f"{NO_SEED}; rounds draws nothing"),
    ((*RUN, "--seed", "3"), "--alter, random baselines and WikiText; l1 draws nothing"),
    (("task", "pairs.jsonl", "--held-out", "0", "--seed", "3"), "and for --held-out; rounds draws nothing"),
    (("info", "t.npz", "--seed", "3"), "--seed is for the graph of a trace: add --graph 0.01"),
    (("info", "llama-3.1-8b", "--top", "3"), "--top is for the graph of a trace: add --graph 0.01"),
    ((*TRACE, "--score", "random", "--seed", str(2**31)), "seed = 2147483648, expected 0 to 2147483647"),
    ((*FIT, "--seed", str(2**31)), "seed = 2147483648, expected 0 to 2147483647"),
    ((*TRACE, "--save", "a.txt"), "a.txt: expected a file that ends in .npz"),
    (("task", "pairs.jsonl", "--save", "a.txt"), "a.txt: expected a file that ends in .npz"),
    (("view", "hello", "--out", "a.txt"), "a.txt: expected a file that ends in .html or .htm"),
    (("task", "pairs.jsonl", "--held-out", "1"), "--held-out 1: expected a share of the pairs"),
    ((*RUN, "--words", "9"), "--words and --count are for WikiText; for the first rows of texts.txt give --limit"),
    ((*RUN, "--temperature", "1"), "temperature is for generated tokens"),
    ((*EXPORT, "--format", "json", "--dtype", "float16"), "--dtype says how a model is loaded; add --model"),
    ((*EXPORT, "--format", "json", "--scan", "me"), "--model and --scan are for --format neuronpedia"),
    (("view", "old", "--input", "0", "--revision", "main"), "--revision says how a model is loaded; add --model"),
    ((*TRACE, "--sizes", "0.1,x"), "--sizes '0.1,x': expected shares of all edges, such as 0.01,0.1 or 1%,10%"),
    ((*VIEW, "--sizes", "10%,1%"), "--sizes '10%,1%': sizes must increase strictly"),
    ((*RUN, "--sizes", "2"), "--sizes '2': size 2.0 is outside (0, 1]"),
    (("view", "t.npz", "--sizes", "0.1", "--out", "p.html"), "--sizes: the trace in t.npz is made"),
    ((*TRACE, "--score", "round"), "or a .safetensors file of a scorer; did you mean 'rounds'?"),
    ((*SELECTIVITY[:-1], "l1"), "selectivity is for scores from gradients; l1 does not look at the prediction"),
    ((*RUN, "--order", "best_first"), "each once; did you mean 'best-first'?"),
    ((*RUN, "--baselines", "randm"), "did you mean 'random'?"),
    ((*FIT, "--replace", "noise"), "replace = ('noise',), expected some of zero, mean, resample"),
    (("trace", "texts.txt"), "texts.txt is a file, and a text is expected: jstrace trace --file texts.txt traces its"),
    (("trace", "gone.txt"), "gone.txt is the name of a file that is not there, and a text is expected: add --text if"),
    (("view", "texts.txt"), 'texts.txt is a file, and a text is expected: "$(cat texts.txt)" is the text in it'),
    (("view", "./old"), "./old is a folder, and a text is expected"),
    (("selectivity", "texts.txt", "--others", "texts.txt"), "texts.txt is a file, and a text is expected"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "texts.txt").write_text("some words\nand more\n")
    (tmp_path / "pairs.jsonl").write_text("{}")
    np.savez(tmp_path / "t.npz")
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jstrace.load", lambda *_, **__: pytest.fail("loaded"))
    code, out, error = run(*words)
    assert (code, out, error.count("\n")) == (2, "", 1), error
    assert message in error
    assert {path.name for path in tmp_path.iterdir()} == {"texts.txt", "pairs.jsonl", "t.npz", "old"}
