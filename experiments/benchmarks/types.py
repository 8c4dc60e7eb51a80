"""Which types of Hugging Face configs are read, how far from transformers: the tables of docs/models.md.

Command: ``python experiments/benchmarks/types.py`` (needs torch; about ten minutes on two CPU cores). With ``--write``
the tables of the page are replaced. With names of types, such as ``--write mixtral olmoe``, those alone are measured,
and the other rows are what the page has.

Tiny random models of every type (tests/hf_models.py, tests/hf_types.py), texts of 1, 13 and 40 tokens. The largest
error is that of our float32 log-probabilities against transformers' in double precision (float32 where it has no
other), over all its models. "traced" says that a trace of its first model was made, whose full graph keeps all of the
prediction.
Expected: below 1e-5, and traced.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import jstrace
from jstrace.convert.hf.registry import UNSUPPORTED
from tests import hf_models, hf_types

LENGTHS, LONGEST = (1, 13, 40), 40
SIZES = (0.01, 0.05, 0.3, 0.7)
PAGE = Path(__file__).parents[2] / "docs" / "models.md"
EXAMPLES = {
    "llama": "Llama 2, 3, 3.1, 3.2; SmolLM2; DeepSeek-LLM; Yi",
    "mistral": "Mistral 7B, Nemo, Small 24B; Zephyr",
    "qwen2": "Qwen1.5, 2, 2.5; DeepSeek-R1-Distill-Qwen",
    "qwen3": "Qwen3, dense",
    "olmo2": "OLMo 2",
    "phi3": "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 270M and 1B",
    "gemma4": "Gemma 4 26B-A4B, 31B",
    "gemma4_text": "Gemma 4 26B-A4B, 31B, the text part alone",
    "gemma4_unified": "Gemma 4 12B",
    "gemma4_unified_text": "Gemma 4 12B, the text part alone",
    "gemma3": "Gemma 3 4B, 12B, 27B",
    "gpt2": "gpt2 to gpt2-xl, DialoGPT",
    "gpt_neox": "Pythia, GPT-NeoX, Dolly",
    "apertus": "Apertus",
    "arcee": "AFM-4.5B",
    "bloom": "BLOOM, BLOOMZ",
    "codegen": "CodeGen",
    "cohere": "Command R, Aya",
    "cohere2": "Command R7B, Command A",
    "cwm": "Code World Model",
    "ernie4_5": "ERNIE 4.5 0.3B",
    "exaone4": "EXAONE 4.0",
    "falcon": "Falcon 7B, 40B, RW",
    "gemma": "Gemma 2B, 7B; CodeGemma",
    "glm": "GLM-4-9B, GLM-Edge",
    "glm4": "GLM-4-0414",
    "gpt_bigcode": "StarCoder, SantaCoder",
    "gpt_neo": "GPT-Neo, TinyStories",
    "gptj": "GPT-J",
    "granite": "Granite 3",
    "helium": "Helium 1",
    "internlm3": "InternLM3",
    "ministral": "Ministral 8B",
    "ministral3": "Ministral 3",
    "idefics3": "Idefics3",
    "internvl": "InternVL3, converted",
    "llava": "LLaVA 1.5",
    "llava_next": "LLaVA 1.6",
    "llava_onevision": "LLaVA-OneVision",
    "smolvlm": "SmolVLM, SmolVLM2",
    "mistral3": "Mistral Small 3.1, 3.2; Ministral 3",
    "mpt": "MPT",
    "nemotron": "Nemotron 4, Minitron",
    "nemotron_h": "Nemotron-H 4B to 56B, Nemotron Nano 2, Nemotron 3 Nano",
    "olmo": "OLMo 1",
    "olmo3": "Olmo 3",
    "bamba": "Bamba 9B",
    "granitemoehybrid": "Granite 4.0 Tiny, Small, Micro, with or without Mamba-2",
    "olmo_hybrid": "OLMo Hybrid 7B",
    "opt": "OPT",
    "phi": "Phi-1, 1.5, 2",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL, dense",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM 2, 3B",
    "starcoder2": "StarCoder2",
    "vaultgemma": "VaultGemma",
    "deepseek_v2": "DeepSeek-V2, V2-Lite, Coder-V2",
    "deepseek_v3": "DeepSeek-V3, V3.1, R1; Moonlight",
    "deepseek_v32": "DeepSeek-V3.2",
    "ernie4_5_moe": "ERNIE 4.5 21B-A3B, 300B-A47B",
    "exaone_moe": "K-EXAONE",
    "glm4_moe": "GLM-4.5, 4.6, 4.7, Air",
    "glm4_moe_lite": "GLM-4.7-Flash",
    "glm_moe_dsa": "GLM-5",
    "kimi_k25": "Kimi K2.5, K2.6",
    "llama4": "Llama 4 Scout, Maverick",
    "llama4_text": "Llama 4, the text part alone",
    "flex_olmo": "FlexOlmo",
    "gpt_oss": "gpt-oss-20b, 120b",
    "granitemoe": "Granite 3 1B-A400M, 3B-A800M",
    "hunyuan_v1_dense": "Hunyuan 0.5B to 7B, Hunyuan-MT",
    "minimax_m2": "MiniMax-M2, in bfloat16",
    "mixtral": "Mixtral 8x7B, 8x22B",
    "olmoe": "OLMoE-1B-7B",
    "phimoe": "Phi-3.5-MoE",
    "qwen2_moe": "Qwen1.5-MoE, Qwen2-57B-A14B",
    "qwen3_next": "Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
    "qwen3_5": "Qwen3.5 0.8B to 27B, Qwen3.6-27B",
    "qwen3_5_moe": "Qwen3.5-35B-A3B, 122B, 397B",
    "qwen3_moe": "Qwen3-30B-A3B, 235B; Qwen3-Coder-30B",
    "xglm": "XGLM",
}
"""Checkpoints that people know, by type."""
_OWN = "a family of its own"


def measured(folder: str, torch_model: Any, *, double: bool, trace: bool) -> tuple[float, bool]:
    """The largest error of log-probabilities, and whether a trace, if one is to be made, keeps the prediction whole."""
    model, theirs = (
        hf_types.alike(jstrace.load(folder, say=lambda _: None)),
        torch_model.double() if double else torch_model,
    )
    errors = []
    for n_tokens in LENGTHS:
        tokens = np.random.default_rng(n_tokens).integers(3, 45, n_tokens)
        plain, _ = hf_types.logits(model, tokens, hf_types.everything(model.config, LONGEST), LONGEST)
        errors.append(np.abs(hf_types.log_softmax(plain) - hf_types.theirs(theirs, tokens)).max())
    if not trace:
        return float(max(errors)), True
    result = jstrace.evaluate(model, jstrace.trace(model, np.arange(3, 11), sizes=SIZES))
    return float(max(errors)), bool(result.tv[-1] < 1e-6)


def rows(only: list[str]) -> dict[str, list[tuple[float, bool, str]]]:
    """Of every type, or of those named: error, whether it was traced, and what it needs, of each of its models."""
    found: dict[str, list[tuple[float, bool, str]]] = {}

    def add(name: str, make: Callable[[Path], Any], needs: str, *, double: bool = True) -> None:
        with tempfile.TemporaryDirectory() as folder:
            torch_model = make(Path(folder))
            error, traced = measured(folder, torch_model, double=double, trace=name not in found)
        found.setdefault(name, []).append((error, traced, needs))
        print(f"{name} {error:.1e} {traced}", file=sys.stderr)

    for variant in hf_models.VARIANTS.values():
        if only and hf_models.TYPE_OF[variant.family] not in only:
            continue
        alike = hf_models.varied(variant, {"initializer_range": 0.2})  # as those of the other types
        add(hf_models.TYPE_OF[variant.family], functools.partial(hf_models.make, alike), _OWN)
    for kind in hf_types.TYPES.values():
        if only and kind.model_type not in only:
            continue
        add(kind.model_type, functools.partial(hf_types.make, kind), kind.needs, double=kind.double)
    return found


def tables(only: list[str]) -> str:
    """Both tables in Markdown."""
    page = PAGE.read_text(encoding="utf-8").splitlines() if only else []
    found = {line.split("`")[1]: line for line in page if line.startswith("| `") and line.count(" | ") == 4}
    for name, all_of in rows(only).items():
        error, traced = max(row[0] for row in all_of), all(row[1] for row in all_of)
        needs = "; ".join(dict.fromkeys(part for row in all_of for part in row[2].split("; ")))
        cells = [f"`{name}`", EXAMPLES[name], needs, f"{error:.1e}", "traced" if traced else "loads"]
        found[name] = f"| {' | '.join(cells)} |"
    head = ["| type | such as | what it needs | largest error | |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(found[name] for name in sorted(found)), "", *refused()])


def refused() -> list[str]:
    """The second table: what is missing, and the types that want it."""
    wanting: dict[str, list[str]] = {}
    for name, missing in sorted(UNSUPPORTED.items()):
        wanting.setdefault(missing, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {missing} |" for missing, names in sorted(wanting.items())]
    return ["| type | what is missing |", "|---|---|", *rows]


def main() -> None:
    """Print the tables, or put them into the page."""
    warnings.simplefilter("ignore")
    made = tables([word for word in sys.argv[1:] if word != "--write"])
    print(made)
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        for marker, table in zip(("read", "refused"), made.split("\n\n"), strict=True):
            before, _, rest = text.partition(f"<!-- {marker} -->")
            text = f"{before}<!-- {marker} -->\n{table}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
