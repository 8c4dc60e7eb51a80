"""Everything of the paper at a chosen scale: runs of the models, then every figure and table.

Command: ``python experiments/reproduce.py --scale tiny --out FOLDER`` (or laptop, gpu, paper), with ``--data FILE`` in
the place of WikiText. It goes on where it stopped; a model that cannot be had is named and left out.

Runtime: tiny, 8 inputs of SmolLM2, some minutes on two CPU cores; laptop, 200 inputs of SmolLM2, half an hour to an
hour there; gpu, 500 inputs of Llama-3.1-8B in bfloat16, unmeasured; paper, 5,000 inputs of the ten models, unmeasured,
which wants a GPU or a slice of a pod for each.
Expected: as ``python experiments/figures/draw.py --list`` says.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from experiments.figures.draw import draw_all

ROOT = Path(__file__).parents[1]
TEN_MODELS = (
    "allenai/OLMo-2-1124-7B",
    "allenai/OLMo-2-1124-13B",
    "Qwen/Qwen3-8B-Base",
    "Qwen/Qwen3-14B-Base",
    "Qwen/Qwen2.5-7B",
    "Qwen/Qwen2.5-14B",
    "meta-llama/Llama-3.1-8B",
    "mistralai/Mistral-7B-v0.1",
    "deepseek-ai/deepseek-llm-7b-base",
    "microsoft/phi-4",
)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of the paper is run."""

    models: tuple[str, ...]
    inputs: int
    options: tuple[str, ...] = ()


_SCORES = ("--score", "l1,l2,ifr,cosine")
SCALES = {
    "tiny": Scale(("smollm2",), 8, _SCORES),
    "laptop": Scale(("smollm2",), 200),
    "gpu": Scale(("meta-llama/Llama-3.1-8B",), 500, ("--dtype", "bfloat16", *_SCORES)),
    "paper": Scale(TEN_MODELS, 5000, ("--dtype", "bfloat16")),
}


def run(model: str, scale: Scale, data: str, out: Path) -> bool:
    """One model's run in a process of its own, whose memory ends with it; whether it came to its end."""
    command = [sys.executable, "-m", "jstrace.cli", "run", "--model", model, "--data", data, "--out", str(out)]
    command += ["--limit", str(scale.inputs), "--baselines", "random,inverse,pre-softmax", *scale.options]
    print(" ".join(command), flush=True)
    return subprocess.run(command, check=False, cwd=ROOT).returncode == 0


def main() -> None:
    """Runs first, then figures and tables, one folder each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), required=True)
    parser.add_argument("--data", default="wikitext-2", help="as for jstrace run")
    parser.add_argument("--mesh", help="as for jstrace run; docs/pods.md says what each model wants")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    scale, out = SCALES[given.scale], given.out.resolve()
    if given.mesh:
        scale = dataclasses.replace(scale, options=(*scale.options, "--mesh", given.mesh))
    data = str(Path(given.data).resolve()) if Path(given.data).exists() else given.data
    folders = {model: out / "runs" / model.replace("/", "--") for model in scale.models}
    done = [folder for model, folder in folders.items() if run(model, scale, data, folder)]
    missing = [model for model, folder in folders.items() if folder not in done]
    if missing:
        print(f"left out, as they did not come to their end: {', '.join(missing)}", file=sys.stderr)
    if not done:
        sys.exit("error: no run to make figures of")
    draw_all(done, out)


if __name__ == "__main__":
    main()
