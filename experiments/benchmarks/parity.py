"""Parity with transformers per family, in float32, bfloat16 and float16: the table of docs/precision.md.

Command: ``python experiments/benchmarks/parity.py`` (needs torch; about a minute and a half on two CPU cores).

Tiny random models of every family (tests/hf_models.py), 40 tokens. The reference is transformers' torch module in
float32 on the weights that each dtype rounds. Columns: the largest error of the next-token logits over the largest
logit, and the TV distance between the two distributions; for half precision also the error of transformers' own module
in that dtype, for scale. Expected: float32 below 1e-5; half precision of the order of transformers' own.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from jstrace.method.scores.measured import Norm
from jstrace.models import Decoder, clean_forward
from tests import hf_models

N_TOKENS = 40
DTYPES = ("float32", "bfloat16", "float16")


@jax.jit
def logits_of(decoder: Decoder, tokens: jax.Array) -> jax.Array:
    """Next-token logits of the clean pass."""
    return clean_forward(decoder, tokens, Norm(1)).logits


def compared(folder: Path, torch_model: Any, dtype: str) -> dict[str, float]:
    """Our error and transformers' own against its float32 logits, both relative to the largest logit."""
    tokens = np.random.default_rng(0).integers(0, torch_model.config.vocab_size, N_TOKENS)
    batch = torch.tensor(tokens)[None]
    with torch.no_grad():
        reference = torch_model.float()(batch).logits[0, -1].numpy()
        kind = getattr(torch, dtype)
        rounded = type(torch_model)(torch_model.config).eval()
        rounded.load_state_dict(torch_model.state_dict())
        theirs = rounded.to(kind)(batch).logits[0, -1].float().numpy()
    ours = np.asarray(logits_of(jstrace.load(str(folder), dtype=dtype).decoder, jnp.asarray(tokens)))
    scale = np.abs(reference).max()
    return {
        "ours": float(np.abs(ours - reference).max() / scale),
        "transformers": float(np.abs(theirs - reference).max() / scale),
        "tv": float(0.5 * np.abs(softmax(ours) - softmax(reference)).sum()),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """In float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def main() -> None:
    """Print a Markdown table of the worst variant of each family, then JSON of all variants."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, variant in hf_models.VARIANTS.items():
        # The usual standard deviation of weights, so that errors are those of trained models' order.
        gentle = hf_models.varied(variant, {"initializer_range": 0.05})
        with tempfile.TemporaryDirectory() as folder:
            torch_model = hf_models.make(gentle, Path(folder))
            found[name] = {dtype: compared(Path(folder), torch_model, dtype) for dtype in DTYPES}
    print("| family | variants | float32 | bfloat16 (transformers) | float16 (transformers) | TV in bfloat16 |")
    print("|---|---|---|---|---|---|")
    for family in dict.fromkeys(variant.family for variant in hf_models.VARIANTS.values()):
        rows = [found[name] for name, variant in hf_models.VARIANTS.items() if variant.family == family]

        def worst(dtype: str, column: str, rows: Any = rows) -> float:
            return max(row[dtype][column] for row in rows)

        half = (f"{worst(d, 'ours'):.1e} ({worst(d, 'transformers'):.1e})" for d in DTYPES[1:])
        cells = [family, str(len(rows)), f"{worst('float32', 'ours'):.1e}", *half, f"{worst('bfloat16', 'tv'):.4f}"]
        print(f"| {' | '.join(cells)} |")
    print(json.dumps({"benchmark": "parity", "tokens": N_TOKENS, "jax": jax.__version__, "variants": found}))


if __name__ == "__main__":
    main()
