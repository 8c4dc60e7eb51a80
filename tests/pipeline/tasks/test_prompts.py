"""Pairs of a template, and the roles of their tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import jstrace
from jstrace.models import InputError, Model
from jstrace.pipeline.tasks.alignment import names_of
from jstrace.pipeline.tasks.prompts import prompts_of, token_roles, token_spans
from tests.pipeline.tasks.conftest import ROWS, TEMPLATE, Syllables
from tests.stand_ins import Halves

pytestmark = pytest.mark.quick


def test_pairs_of_a_template(reader: Model, pairs: list[jstrace.Pair]) -> None:
    assert pairs[0] == jstrace.Pair("xory:x", "xory:y", "y", "x", {"A": (0, 1), "B": (3, 4), "C": (5, 6)})
    prompt = prompts_of(reader, pairs)[1]
    assert prompt.roles == ("A", "", "", "B", "", "C")
    assert prompt.tokens.tolist() == [ord(letter) % 97 for letter in "aorb:a"]
    assert prompt.counterfactual.tolist()[-1] == ord("b") % 97
    assert (int(prompt.metric.answer), int(prompt.metric.rival)) == (1, 0)
    other = prompt.exchanged()
    assert other.tokens is prompt.counterfactual
    assert (int(other.metric.answer), int(other.metric.rival)) == (0, 1)
    assert other.exchanged() == prompt


def test_another_template_and_fields_that_stand_twice() -> None:
    row = {"N": "ann", "M": "bob", "answer": "x", "rival": "y"}
    (pair,) = jstrace.pairs_of("{N}, {N} and {{{M}}}", [row], "{M}, {N} and {{{M}}}")
    assert (pair.clean, pair.counterfactual) == ("ann, ann and {bob}", "bob, ann and {bob}")
    assert pair.roles == {"N": (0, 3), "N#2": (5, 8), "M": (14, 17)}


def test_tokens_have_the_role_whose_characters_they_share() -> None:
    """Of a token over two roles it is the one that it shares more of, or the first; special tokens have none."""
    tokenizer = Syllables()
    ids = np.asarray(tokenizer.encode("abcdefgh"), np.int32)
    assert token_spans(tokenizer, ids, "abcdefgh").tolist() == [[-3, 0], [0, 2], [2, 4], [4, 6], [6, 8]]
    roles = {"X": (0, 3), "Y": (3, 5)}
    assert token_roles(tokenizer, ids, "abcdefgh", roles) == ("", "X", "X", "Y", "")
    with pytest.raises(InputError, match="role Z: its token is role Y's, and a token has one role"):
        token_roles(tokenizer, ids, "abcdefgh", {**roles, "Z": (5, 6)})


def test_parts_of_a_character_have_its_role() -> None:
    """Each letter is two tokens, and the accented one four, of which none is a character alone."""
    text, tokenizer = "aéz", Halves()
    ids = np.asarray(tokenizer.encode(text), np.int32)
    assert len(ids) == 8
    assert token_roles(tokenizer, ids, text, {"E": (1, 2)}) == ("", "", "E", "E", "E", "E", "", "")


def test_roles_of_token_ids(tiny: Model) -> None:
    pair = jstrace.Pair([1, 2, 3, 4], [1, 2, 5, 4], 7, 8, {"S": (1, 3)})
    assert pair.clean == (1, 2, 3, 4)
    assert prompts_of(tiny, [pair])[0].roles == ("", "S", "S", "")


def test_places_from_the_end_count_a_role_once() -> None:
    """So that names of one and of two tokens leave what stands before them in its place."""
    one, two = names_of("roles", ("", "S", "", "")), names_of("roles", ("", "S", "S", "", ""))
    assert one == ["-4", "S", "-2", "-1"]
    assert two == ["-4", "S", "S", "-2", "-1"]
    assert names_of("roles", ("S", "R", "S")) == ["S", "R", "S"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "no"}, "row 1: it has no answer"),
        ({"counterfactual": "b"}, "row 1: counterfactual is 'b', expected a mapping"),
        ({"counterfactual": {}}, "row 1: it has no counterfactual: give the fields"),
        ({"B": ""}, "row 1: field B of the template has '', expected a text"),
        ({"counterfactual": {"D": "b"}}, "row 1: counterfactual changes 'D', but the template has A, B, C"),
    ],
)
def test_bad_rows_are_one_line(change: dict[str, Any], message: str) -> None:
    row = {**ROWS[0], **change}
    if message.endswith("no answer"):
        del row["answer"]
    with pytest.raises(InputError) as caught:
        jstrace.pairs_of(TEMPLATE, [ROWS[0], row])
    assert message in str(caught.value)


@pytest.mark.parametrize("template", ["{}", "{A!r}", "{A:>3}", "{A.b}", "{A", "{0}"])
def test_bad_templates_are_one_line(template: str) -> None:
    with pytest.raises(InputError, match="template"):
        jstrace.pairs_of(template, ROWS)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("xory", "xorya", "y", "x"), "pair 0: the counterfactual has 5 tokens"),
        (("xory", "xory", "y", "x"), "pair 0: the counterfactual is the text itself"),
        (("xory", "xorz", "yy", "x"), "pair 0: 'yy' is 2 tokens"),
        (("xory", "xorz", "y", "y"), "pair 0: logit_difference: 'y' twice"),
        (("xory", "xorz", "y", "x", {"A": (4, 5)}), "pair 0: role A: there is no token at characters (4, 5)"),
        (("xory", "xorz", "y", "x", {"A": 4}), "pair 0: role A: 4, expected its start and its end"),
        (("xory", "xorz", "y", "x", {"A": (0, math.inf)}), "pair 0: role A: (0, inf), expected its start and its end"),
        (("xory", "xorz", "y", "x", {"-1": (0, 1)}), "pair 0: role '-1': a name starts with a letter"),
    ],
)
def test_bad_pairs_are_one_line(reader: Model, pair: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        prompts_of(reader, [jstrace.Pair(*pair)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_pair(reader: Model) -> None:
    with pytest.raises(InputError, match=r"pair 0: str, expected a jstrace\.Pair"):
        prompts_of(reader, ["a text"])


def test_a_tokenizer_that_changes_the_text(tiny: Model) -> None:
    from tests.stand_ins import Letters

    model = Model(tiny.decoder, Letters())
    with pytest.raises(InputError, match="roles cannot be found in it"):
        prompts_of(model, [jstrace.Pair("x or y", "x or z", "y", "x", {"A": (0, 1)})])
