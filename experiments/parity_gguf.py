"""GGUF files read by jstrace and by transformers: the same logits, top tokens and token ids.

Both dequantise to float32 and run on the CPU. Texts are what tokenizers get wrong: code, Chinese, emoji, leading and
repeated spaces, special tokens, bytes that are no token. Logits are compared after six prefixes of every text, of which
the whole text is one, on jstrace's ids.

Command: python experiments/parity_gguf.py --out experiments/results/four-models/parity.jsonl NAME=FILE.gguf ...
Needs torch and accelerate. Prints a table; each line of --out is a model.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jstrace
from jstrace.method.scores.measured import Norm
from jstrace.models import Decoder, Model, clean_forward

TEXTS = {
    "prose": "The capital of France is",
    "code": (
        'def f(x: int) -> str:\n    """Doc."""\n\treturn f"{x!r:>10}"  # 0xFF != 1_000\n\n\n'
        'if __name__ == "__main__":\n'
    ),
    "chinese": "今天天气很好，我们去公园散步吧。东京は日本の首都です。서울",
    "emoji": "👩‍👩‍👧‍👦 🇫🇷 naïve café 🤷🏽‍♂️ ½ ﬁ Å",
    "spaces": "   three before,  two between\t\ttabs \n \n\n  and after  ",
    "special": "<|im_start|>user\nHi<|im_end|>\n<start_of_turn>user\nHi<end_of_turn>\n<bos></s><|endoftext|>",
    "bytes": "\u0000\u0007\u200b\ufeff\ufffd\U000e0041ꙮ𒐫 Ω≈ç√ ﷽",
    "numbers": "3.14159 1234567890 2026-11-26 1,000,000 x²+y² = z² IVⅧ ٣",
    "contractions": "I'M WE'RE they'll don't ’tis 'tis o'clock CamelCaseHTTPServer snake_case",
}


PREFIXES = 6


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print a table, and write a line of JSON for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=FILE", help="what to call a file, and where it is")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file, which grows")
    asked = parser.parse_args(arguments)
    print(f"{'model':28} {'text':13} {'tokens':>6} {'same ids':>8} {'largest':>10} {'of':>7} {'top 1':>6} {'top 5':>6}")
    for one in asked.models:
        name, _, file = one.partition("=")
        found = compared(name, Path(file))
        with asked.out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(found) + "\n")
        for row in found["texts"]:
            print(
                f"{name:28} {row['text']:13} {row['tokens']:6} {row['same_ids']!s:>8} {row['largest']:10.2e}"
                f" {row['scale']:7.1f} {row['same_top']:6.1%} {row['same_top_5']:6.1%}"
            )
        print(json.dumps({key: value for key, value in found.items() if key != "texts"}), flush=True)


def compared(name: str, file: Path) -> dict[str, Any]:
    """What both make of all texts."""
    import torch
    import transformers

    start = time.perf_counter()
    ours = jstrace.load(str(file))
    our_seconds, start = time.perf_counter() - start, time.perf_counter()
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    words = transformers.AutoTokenizer.from_pretrained(**where)
    rows = []
    for kind, text in TEXTS.items():
        assert ours.tokenizer is not None
        ids, their_ids = ours.tokenizer.encode(text), list(words(text)["input_ids"])
        row: dict[str, Any] = {"text": kind, "tokens": len(ids), "same_ids": ids == their_ids}
        if ids != their_ids:
            row |= {"ids": ids, "their_ids": their_ids, "places": first_difference(ids, their_ids)}
        ends = sorted({max(1, round(share * len(ids) / PREFIXES)) for share in range(1, PREFIXES + 1)})
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0].numpy()[[end - 1 for end in ends]]
        rows.append(row | {"positions": len(ends)} | differences(logits_of(ours, ids, ends), expected))
    versions = {"jstrace": jstrace.__version__, "jax": jax.__version__, "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "python": platform.python_version()}
    found = {
        "model": name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(ours.decoder)),
        "versions": versions,
    }
    found |= {"load_seconds": round(our_seconds, 1), "their_seconds": round(time.perf_counter() - start, 1)}
    return found | {"texts": rows}


@jax.jit
def _logits(decoder: Decoder, tokens: jax.Array, length: jax.Array) -> jax.Array:
    return clean_forward(decoder, tokens, Norm(1), length=length).logits


def logits_of(model: Model, ids: Sequence[int], ends: Sequence[int]) -> np.ndarray:
    """After prefixes of these lengths: float32 ``[N, V]``; all are padded alike, so that one program serves them."""
    padded = np.zeros(-(-len(ids) // 64) * 64, np.int32)
    padded[: len(ids)] = ids
    return np.stack([np.asarray(_logits(model.decoder, jnp.asarray(padded), jnp.asarray(end))) for end in ends])


def differences(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Largest difference of logits, on what scale, and how often the first tokens are the same."""
    top, their_top = (np.argsort(-logits, axis=-1, kind="stable")[:, :5] for logits in (ours, theirs))
    return {
        "largest": float(np.abs(ours - theirs).max()),
        "scale": float(np.abs(theirs).max()),
        "same_top": float((top[:, 0] == their_top[:, 0]).mean()),
        "same_top_5": float((top == their_top).all(axis=-1).mean()),
    }


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """The first place at which two lists differ."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(ours), len(theirs)))


if __name__ == "__main__":
    main()
