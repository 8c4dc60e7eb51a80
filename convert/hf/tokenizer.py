"""The tokenizer of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jstrace.convert.fast_tokenizer import FastTokenizer, put_around
from jstrace.models import InputError

_PIPELINE, _CONFIG, _NAMES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"


class HfTokenizer(FastTokenizer):
    """The tokenizer of a Hugging Face folder, never by remote code.

    ``tokenizer.json`` holds all of it. The class that ``tokenizer_config.json`` names would make its steps anew, of
    which some differ from those in the file; so ``transformers`` is asked only where there is no such file.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(_whole(folder) if (folder / _PIPELINE).is_file() else _converted(folder))
        except Exception as error:  # damaged files give errors of every kind, bare Exceptions among them
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InputError(f"{folder}: its tokenizer could not be read ({reason})") from error


def _converted(folder: Path) -> Any:
    """What ``transformers`` makes of files in other formats."""
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not made.is_fast:
        raise ValueError(f"{type(made).__name__} has no {_PIPELINE}, and none could be made")
    return made.backend_tokenizer


def _whole(folder: Path) -> Any:
    """``tokenizer.json``, with what ``tokenizer_config.json`` adds where that file says nothing."""
    import tokenizers

    tokenizer, config = tokenizers.Tokenizer.from_file(str(folder / _PIPELINE)), _fields(folder / _CONFIG)
    _add_tokens(tokenizer, config.get("added_tokens_decoder") or {})
    if not tokenizer.num_special_tokens_to_add(False):
        names = _fields(folder / _NAMES) | config
        put_around(tokenizer, *(_end(tokenizer, config, names, which) for which in ("bos", "eos")))
    return tokenizer


def _fields(path: Path) -> dict[str, Any]:
    """A JSON object; of no file the empty one."""
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(fields, dict):
        raise ValueError(f"{path.name} is no object")
    return fields


def _add_tokens(tokenizer: Any, tokens: dict[str, Any]) -> None:
    """Those of ``added_tokens_decoder`` that ``tokenizer.json`` does not know as added ones."""
    from tokenizers import AddedToken

    there = {token.content: index for index, token in tokenizer.get_added_tokens_decoder().items()}
    for index, token in sorted((int(index), token) for index, token in tokens.items()):
        flags = {name: token.get(name, False) for name in ("single_word", "lstrip", "rstrip", "special")}
        content, normalized = token["content"], token.get("normalized", not flags["special"])
        if content not in there:
            tokenizer.add_tokens([AddedToken(content, normalized=normalized, **flags)])
        if tokenizer.token_to_id(content) != index:
            raise ValueError(
                f"{content!r} is token {index} in {_CONFIG} and {tokenizer.token_to_id(content)} by {_PIPELINE}"
            )


def _end(tokenizer: Any, config: dict[str, Any], names: dict[str, Any], which: str) -> int | None:
    """The id of the BOS or EOS token, if it is to be put around texts and there is one."""
    asked = config.get(f"add_{which}_token")
    if asked not in (True, False, None):
        raise ValueError(f"add_{which}_token = {asked!r} in {_CONFIG}, expected true or false")
    name = names.get(f"{which}_token")
    word = name.get("content") if isinstance(name, dict) else name
    return tokenizer.token_to_id(word) if asked and word is not None else None
