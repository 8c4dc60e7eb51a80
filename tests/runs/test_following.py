"""The token that follows in a text as it is written: after a space, or without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jstrace.runs import read_data
from jstrace.runs.row import Row, between, next_token
from jstrace.runs.wikitext import passages

pytestmark = pytest.mark.quick


class Characters:
    """A tokenizer of single characters, spaces among them."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


SPACED = [
    ("The capital of Italy is", "Rome"), ("Столица России", "Москва"), ("대한민국의 수도는", "서울"),
    ("The word for cat is", "猫"), ("The word 猫", "means"), ("It ends.", "Next"), ("one,", "two"), ("Answer:", "four"),
    ('He said "Hello"', "and"), ("the 'word'", "is"), ("(in brackets)", "and"), ("the dogs'", "tails"),
    ("it costs 5 €", "in"), ("won 3 –", "0"), ("x =", "5"), ("x ==", "5"), ("C++", "is"), ("C#", "is"),
    ("platform", ".NET"), ("is", "-5"), ("see", "(below)"), ("a list\n-", "first"),
]  # fmt: skip
GLUED = [
    ("日本の首都は", "東京"), ("中国的首都是", "北京"), ("เมืองหลวงของไทยคือ", "กรุงเทพ"), ("今年は2020", "年"),
    ("我喜欢用", "Python"), ("我喜欢用Python", "写代码"), ("答案：", "four"), ("Answer：", "four"),
    ("答えは", "「東京」"), ("「東京」", "と"), ("首都は東京", "。"),
    ("Answer:\n", "four"), ("Answer: ", "four"), ("a tab\t", "word"), ("The capital is", " Rome"),
    ("答え\u3000", "東京"),
    ("f(x) = (", "x"), ("a[", "0"), ("{", "x"), ("the “", "word"), ("он сказал «", "да"), ('He said "', "Hello"),
    ("the '", "word"), ("a well-", "known"), ("a word—", "and"), ("and/", "or"), ("my_", "name"), ("def __", "init__"),
    ("it costs $", "5"), ("US$", "5"), ("tell @", "them"), ("the #", "tag"), ("https://", "example"), ("x=", "5"),
    ("La capitale de l'", "Italie"), ("It is", "."), ("It is", ","), ("(in brackets", ")"), ("100", "%"),
    ("the dog", "'s"), ("the dog", "’s"), ("do", "n't"), ('He said "Hello', '"'), ("the “word", "”"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "word", "space"), [*((*pair, " ") for pair in SPACED), *((*pair, "") for pair in GLUED)]
)
def test_what_stands_between(text: str, word: str, space: str) -> None:
    assert between(text, word) == space
    tokens = Characters().encode(text)
    assert next_token(Characters(), Row(text, word), tokens) == ord((space + word)[0])


def test_rows_of_files_are_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "Answer:\\n", "next": "four"}\n{"text": "It is", "next": " Rome"}\n')
    rows = read_data(str(tmp_path / "rows.jsonl")).rows
    assert [next_token(Characters(), row, Characters().encode(row.text)) for row in rows] == [ord("f"), ord(" ")]
    assert rows == (Row("Answer:\n", "four"), Row("It is", " Rome"))


def test_words_of_passages_follow_as_in_the_paragraph() -> None:
    """WikiText has a space after $, which running text has not."""
    (row,) = passages("It causes damages of $ 3 million", 5)
    assert (row.text, row.next_word) == ("It causes damages of $", "3")
    assert next_token(Characters(), row, Characters().encode(row.text)) == ord(" ")
