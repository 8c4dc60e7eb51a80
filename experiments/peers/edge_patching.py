"""Edge attribution patching by its authors' code, in an environment that has TransformerLens; nothing of jstrace.

Commands, for ``experiments/peers_compared.py``, which writes FOLDER (SOURCE is ``src`` of a clone of hannamw/EAP-IG):

    python edge_patching.py SOURCE FOLDER attribute
    python edge_patching.py SOURCE FOLDER evaluate

It was run with commit 795f560, transformer-lens 2.16.1, transformers 4.57 and torch 2.13 on one CPU core. ``attribute``
scores the edges of every input and keeps the first so many (``SHARES`` of all edges, by absolute score, pruned);
``evaluate`` runs its own evaluation, where edges that are left out carry the other text's activations, of those edges
and of what jstrace's traces were translated to. Both leave what is there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments.peers.selections import packed, unpacked

SHARES = (0.0005, 0.001, 0.002, 0.004, 0.01, 0.02, 0.07, 0.2)
METHODS = ("EAP", "EAP-IG", "EAP-IG, logit difference", "EAP-IG, foreign")
AT_HOME = 6
"""Selections of each score that its own evaluation gets, the smallest."""
STEPS = 5
"""Of integrated gradients, as its page has them."""


class OnCpu(TorchFunctionMode):
    """The code asks for "cuda" by name."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The same call on the CPU."""
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def hooked(folder: Path) -> Any:
    """The weights in TransformerLens, as ``from_pretrained`` would have them without folded norms."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights
    from transformers import LlamaForCausalLM

    llama = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    c = llama.config
    config = HookedTransformerConfig(
        n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_heads=c.num_attention_heads, n_ctx=512,
        d_head=c.hidden_size // c.num_attention_heads, d_mlp=c.intermediate_size, d_vocab=c.vocab_size,
        n_key_value_heads=c.num_key_value_heads, act_fn=c.hidden_act, eps=c.rms_norm_eps, normalization_type="RMS",
        positional_embedding_type="rotary", rotary_adjacent_pairs=False, rotary_base=int(c.rope_theta),
        rotary_dim=c.hidden_size // c.num_attention_heads, final_rms=True, gated_mlp=True, device="cpu",
        original_architecture="LlamaForCausalLM", model_name="SmolLM2", dtype=torch.float32,
    )  # fmt: skip
    model = HookedTransformer(config)
    with torch.no_grad():
        weights = convert_llama_weights(llama, config)
        model.load_and_process_state_dict(
            weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    model.set_ungroup_grouped_query_attention(True)
    return model


def as_tokens(model: Any, inputs: Any, max_length: Any = None) -> tuple[Any, None, Any, int]:
    """In the place of its tokenisation: the token ids that jstrace has."""
    del model, max_length
    tokens = torch.as_tensor(np.stack(inputs), dtype=torch.long)
    return tokens, None, torch.full((len(tokens),), tokens.shape[1]), tokens.shape[1]


def difference(own: int, other: int) -> Callable[..., Any]:
    """The logit of the clean text's next token less that of the other's; the first alone where they are one."""
    return lambda logits, *_: logits[0, -1, own] - (logits[0, -1, other] if other != own else 0)


def divergence(target: Any) -> Callable[..., Any]:
    """KL of a prediction from what it is asked to keep, ``[V]``."""
    target = torch.as_tensor(target, dtype=torch.float32)
    logs = torch.log(target.clamp_min(1e-30))
    return lambda logits, *_: (target * (logs - torch.log_softmax(logits[0, -1], -1))).sum()


def error_of(model: Any, one: dict[str, Any]) -> float:
    """The largest difference from jstrace's logits."""
    with torch.inference_mode():
        logits = model(torch.as_tensor(one["tokens"])[None].long())[0, -1].numpy()
    return float(np.abs(logits - one["logits"]).max())


def attributed(model: Any, graph: Any, one: dict[str, Any], methods: list[str]) -> dict[str, Any]:
    """Edges by method, nested, with seconds."""
    from eap.attribute import attribute

    loader = [([one["tokens"]], [one["other"]], [0])]
    own = torch.softmax(torch.as_tensor(one["logits"], dtype=torch.float32), -1)
    answers = difference(int(one["logits"].argmax()), int(one["other_logits"].argmax()))
    ways: dict[str, tuple[str, Any]] = {
        "EAP": ("EAP", answers),
        "EAP-IG": ("EAP-IG-inputs", divergence(own)),
        "EAP-IG, logit difference": ("EAP-IG-inputs", answers),
        "EAP-IG, foreign": ("EAP-IG-inputs", divergence(one["foreign"])),
    }
    selections: dict[str, Any] = {}
    seconds = {}
    for name in methods:
        method, metric = ways[name]
        start = time.perf_counter()
        attribute(model, graph, loader, metric, method, ig_steps=STEPS, quiet=True)
        seconds[f"{name}|seconds"] = time.perf_counter() - start
        kept = []
        for share in SHARES:
            graph.apply_topn(int(share * len(graph.edges)), absolute=True, prune=True)
            kept.append(graph.in_graph.numpy().copy())
        selections[name] = kept
        model.zero_grad()
    return packed(selections, **seconds)


def distances(model: Any, graph: Any, one: dict[str, Any], kept: np.ndarray) -> dict[str, list[float]]:
    """Share of edges and TV from the full prediction of every selection ``[Z, F, R]``, by its evaluation."""
    from eap.evaluate import evaluate_graph

    loader = [([one["tokens"]], [one["other"]], [0])]
    full = torch.softmax(torch.as_tensor(one["logits"], dtype=torch.float32), -1)

    def total_variation(logits: Any, *_: Any) -> Any:
        return 0.5 * (torch.softmax(logits[0, -1], -1) - full).abs().sum()

    found: dict[str, list[float]] = {"edges": [], "tv": []}
    for each in kept:
        graph.in_graph[:] = torch.as_tensor(each)
        graph.nodes_in_graph[:] = True
        found["tv"].append(float(evaluate_graph(model, graph, loader, total_variation, quiet=True)))
        found["edges"].append(graph.count_included_edges() / len(graph.edges))  # what is left of it, pruned
    return found


def inputs(folder: Path, done: Path, only: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """What has no result yet, with the path of the result."""
    done.mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "inputs").glob("*.npz")):
        if path.stem.startswith(tuple(only)) and not list(done.glob(f"{path.stem}.*")):
            yield done / path.name, dict(np.load(path))


def main() -> None:
    """Run the command of the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", choices=("attribute", "evaluate"))
    parser.add_argument("--only", nargs="+", default=[""], help="inputs whose names start with one of these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--count", type=int, default=48, help="inputs, the first of those without a result")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(asked.source))
    import eap.attribute
    import eap.evaluate
    from eap.graph import Graph

    eap.attribute.tokenize_plus = eap.evaluate.tokenize_plus = as_tokens
    model, errors = hooked(asked.folder / "model"), [0.0]
    graph = Graph.from_model(model)
    found = inputs(asked.folder, asked.folder / asked.command, asked.only)
    for path, one in itertools.islice(found, asked.count):
        with OnCpu():
            if asked.command == "attribute":
                errors.append(error_of(model, one))
                np.savez_compressed(path, **attributed(model, graph, one, asked.methods))
            else:
                files = [asked.folder / name / path.name for name in ("attribute", "translated")]
                every = [unpacked(np.load(file)) for file in files if file.exists()]  # passages are not translated
                edges = {name: kept for file in every for name, kept in file.items() if "," not in name}
                rows = [{"score": name, **distances(model, graph, one, kept[:AT_HOME])} for name, kept in edges.items()]
                path.with_suffix(".json").write_text(json.dumps(rows))
        print(path.stem, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"command": asked.command, "largest_error_of_logits": max(errors), "peak_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
