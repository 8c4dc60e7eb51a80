"""Which files are read: the tables of docs/formats.md, from the tables of the code.

Command: ``python experiments/benchmarks/formats.py``. With ``--write`` the tables of the page are replaced.
A second, on a CPU; it reads no model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jstrace.convert.gguf.architectures import ARCHITECTURES
from jstrace.convert.gguf.splits import PRE_TOKENIZERS
from jstrace.convert.hf.quantised import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
MODELS = {
    "apertus": "Apertus",
    "arcee": "AFM-4.5B",
    "bloom": "BLOOM, BLOOMZ",
    "chatglm": "GLM-4-9B",
    "cohere2": "Command R7B, Command A",
    "command-r": "Command R, Aya",
    "deepseek2": "DeepSeek-V2, V3, R1; Moonlight, Kimi K2, GLM-4.7-Flash",
    "ernie4_5": "ERNIE 4.5 0.3B",
    "ernie4_5-moe": "ERNIE 4.5 21B-A3B, 300B-A47B",
    "exaone4": "EXAONE 4.0",
    "falcon": "Falcon 7B, 40B",
    "gemma": "Gemma 2B, 7B; CodeGemma",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3, the text part",
    "gemma4": "Gemma 4 12B, 26B, 31B, the text part",
    "glm4": "GLM-4-0414",
    "glm4moe": "GLM-4.5, 4.6, 4.7, Air",
    "gpt-oss": "gpt-oss 20B and 120B",
    "gpt2": "gpt2 to gpt2-xl, DialoGPT",
    "gptneox": "Pythia, GPT-NeoX, Dolly",
    "granite": "Granite 3",
    "llama": "Llama 1 to 3.2, Mistral, SmolLM2, DeepSeek-LLM, Yi, InternLM3",
    "llama4": "Llama 4 Scout, Maverick, the text part",
    "mistral3": "Mistral Small 3.1, 3.2; Ministral 3",
    "mpt": "MPT",
    "nemotron": "Nemotron 4, Minitron",
    "olmo": "OLMo 1",
    "olmo2": "OLMo 2, Olmo 3",
    "phi2": "Phi-1, 1.5, 2",
    "phi3": "Phi-3, Phi-3.5, Phi-4, Phi-4-mini",
    "qwen2": "Qwen1.5, 2, 2.5; DeepSeek-R1-Distill-Qwen",
    "qwen2vl": "Qwen2-VL and Qwen2.5-VL, the text part",
    "qwen3": "Qwen3, dense",
    "qwen35": "Qwen3.5, Qwen3.6, dense, the text part",
    "qwen35moe": "Qwen3.5, Qwen3.6 with experts, the text part",
    "qwen3moe": "Qwen3 with experts",
    "qwen3next": "Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
    "qwen3vl": "Qwen3-VL, dense, the text part",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM 3B, StableLM 2 1.6B",
    "starcoder": "StarCoder",
    "starcoder2": "StarCoder2",
}
"""Checkpoints that people know, by architecture."""
ALSO = {"deepseek2": "deepseek_v2", "mistral3": "ministral3", "olmo2": "olmo3"}
"""What some files of an architecture are read as, by what their fields say."""
STORED = {
    "awq": "four bits in groups, version `gemm`",
    "bitsandbytes": "four bits (`nf4`, `fp4`), with quantised scales too; int8",
    "compressed-tensors": "`float-quantized`, `int-quantized`, `naive-quantized`; `pack-quantized` of 4 or 8 bits",
    "fbgemm_fp8": "fp8, with a scale for each row",
    "fp8": "fp8, with a scale for each block or for the whole matrix",
    "gptq": "2, 4 or 8 bits in groups, both versions, in any order of columns (`desc_act`)",
    "mxfp4": "four-bit floats in blocks of 32, of experts",
}
"""What is read of each method."""


QUANTISATIONS = (
    *("BF16", "F16", "F32", "IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ3_S", "IQ3_XXS", "IQ4_NL", "IQ4_XS"),
    *(
        "MXFP4",
        "NVFP4",
        "Q2_K",
        "Q3_K",
        "Q4_0",
        "Q4_1",
        "Q4_K",
        "Q5_0",
        "Q5_1",
        "Q5_K",
        "Q6_K",
        "Q8_0",
        "TQ1_0",
        "TQ2_0",
    ),
)
"""Of GGUF files, which version 0.19 of the gguf package dequantises; earlier ones have fewer."""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _read_as(name: str) -> str:
    """The types of an architecture's files."""
    return " or ".join(f"`{each}`" for each in (ARCHITECTURES[name].model_type, ALSO.get(name)) if each)


def tables() -> dict[str, str]:
    """Each table of the page by its name there."""
    named: dict[str, list[str]] = {}
    for name, how in PRE_TOKENIZERS.items():
        named.setdefault(how.split, []).append(name)
    return {
        "architectures": _table(
            ("architecture", "such as", "read as"),
            ((f"`{name}`", MODELS[name], _read_as(name)) for name in sorted(ARCHITECTURES)),
        ),
        "quantisations": ", ".join(QUANTISATIONS) + ".",
        "pre-tokenizers": _table(
            ("split", "values of `tokenizer.ggml.pre`"), ((split, ", ".join(named[split])) for split in sorted(named))
        ),
        "methods": _table(("`quant_method`", "what is read"), ((f"`{name}`", STORED[name]) for name in METHODS)),
    }


def page_with(tables_of_page: dict[str, str], page: str) -> str:
    """The page with these tables in their places."""
    for name, table in tables_of_page.items():
        before, rest = page.split(f"<!-- {name} -->\n", 1)
        page = f"{before}<!-- {name} -->\n{table}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
    return page


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page_with(tables(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(tables().values()))
