"""``jstrace trace --answer`` with one token and with several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jstrace.models import Model
from tests.cli.conftest import Run

pytestmark = pytest.mark.quick


def test_an_answer_of_several_tokens(run: Run, stub: Model) -> None:
    code, out, err = run("trace", "abc", "--counterfactual", "abd", "--answer", "xyz", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    answer = stub.tokenizer.encode("xyz") if stub.tokenizer else []
    assert found["answer"] == answer
    assert found["tokens"] == [*(ord(letter) % 97 for letter in "abc"), *answer[:-1]]
    assert found["n_edges"] == sum(int(leaf.sum()) for _, leaf in stub.full_mask(5, n_outputs=3).items())
    assert found["metric"]["name"].startswith("log p(")
    code, out, _ = run("trace", "abc", "--answer", "xyz")
    assert code == 0
    assert "outputs again" in out or "no trace smaller" in out


def test_one_token_stays_a_metric(run: Run, stub: Model) -> None:
    code, out, _ = run("trace", "abc", "--answer", "x", "--json")
    found = json.loads(out)
    assert (code, "answer" in found, len(found["tokens"])) == (0, False, 3)
    code, _, err = run("trace", "abc", "--answer", "xyz", "--instead-of", "y")
    assert code != 0
    assert "--instead-of compares single tokens" in err
    assert stub.config.n_layers


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trace", "abc", "--answer", ""), "--answer and --instead-of: expected words as they would follow the text"),
        (("trace", "abc", "--answer", "x", "--instead-of", ""), "--answer and --instead-of: expected words"),
        (("trace", "abc", "--instead-of", "x"), "--instead-of names the rival of --answer"),
        (("trace", "abc", "--counterfactual", "ab"), "error: the counterfactual has 2 tokens, the text 3"),
        (
            ("view", "abc", "--answer", "xyz", "--out", "@.html"),
            "--answer 'xyz' is several tokens, and the page is of one",
        ),
    ],
)
def test_bad_answers_are_one_line(run: Run, stub: Model, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*(word.replace("@", str(tmp_path / "page")) for word in words))
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
