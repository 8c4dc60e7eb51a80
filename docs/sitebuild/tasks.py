"""The public names by what they are for: a page of the reference for each task, with the examples of its docstrings."""

from __future__ import annotations

from collections.abc import Iterator

from docs.sitebuild import reference

EXAMPLES = {
    "model": 'a small model with random weights: `jstrace.load("my-model")`',
    "text": "`Mary and John met. John called`",
    "other": "`Mary and John met. Mary called`",
    "tokens": "the token ids of `text`",
    "trace": "`jstrace.trace(model, text)`",
    "evaluation": "`jstrace.evaluate(model, trace)`",
    "means": "`jstrace.mean_replacement(model, [text, other])`",
    "texts": "a list of four texts, `text` and `other` first",
    "others": "a list of two other texts",
    "pairs": "a list of two `jstrace.Pair`",
}
"""What examples have beside ``jstrace``, ``jax``, numpy as ``np`` and ``dataclasses``."""

TASKS = {
    "Load a model": (
        "Guide: [load your model](../../models.md).",
        ("load", "Model", "ModelConfig", "make_mesh", "enable_cache", "InputError"),
    ),
    "Trace a text": (
        "Guide: [many texts and saved traces](../../how-to/many-texts.md).",
        ("trace", "trace_iter", "Trace", "Invalid", "SIZES", "extract"),
    ),
    "Measure what a trace keeps": (
        "Guide: [predictions, plots and tables](../../how-to/tables.md).",
        ("evaluate", "evaluate_iter", "Evaluation", "smallest", "Smallest", "measures"),
    ),
    "Compare two prompts": (
        "Guide: [compare two prompts](../../pairs.md).",
        ("logit_difference", "log_prob", "LogitDifference", "LogProb", "effects", "Effects", "plot_effects"),
    ),
    "Find the circuit of a task": (
        "Guide: [`jstrace task`](../../commands/task.md).",
        ("task", "Pair", "pairs_of", "TaskCircuit", "cpr", "cmd"),
    ),
    "Choose or write a score": (
        "Guides: [choose an ablation and a score](../../scores.md), [your own scores](../../how-to/scores.md).",
        ("Score", "GradientScore", "RelP", "Rounds", "Scorer", "train_scorer", "edge_scores"),
    ),
    "Fit a trace, and control it": (
        "Guide: [fitted scores and their control](../../scores.md#computation-or-the-capacity-of-a-mask).",
        ("fit_trace", "Fitted", "selectivity", "Selectivity"),
    ),
    "Edges and your own masks": (
        "Guide: [your own masks](../../how-to/masks.md).",
        ("EdgeTree", "Edges", "Edge", "masked_logits"),
    ),
    "Replace what is ablated": (
        "Guide: [which ablation](../../scores.md).",
        ("mean_replacement", "resample_replacement", "noise_replacement", "Replacement"),
    ),
    "Generate text and look inside": (
        "Guide: [along a generation](../../how-to/many-texts.md#along-a-generation).",
        ("generate", "trace_generation", "Generation", "activations", "Activations"),
    ),
    "See, plot and export": (
        "Guides: [the page of a trace](../../view.md), [traces as networks](../../analysis.md).",
        ("view", "Page", "plot_curves", "export", "analyse", "Analysis"),
    ),
}
"""Each task, the guide to it, and its names."""

_OPTIONS = "    options: {heading_level: 3, skip_local_inventory: true, show_root_members_full_path: false}\n"


def page_of(task: str) -> str:
    """Where a task's page stands on the site."""
    return f"reference/tasks/{task.lower().replace(',', '').replace(' ', '-')}.md"


def texts() -> Iterator[tuple[str, str]]:
    """Every page, and its markdown."""
    public = reference.public()
    for task, (guide, names) in TASKS.items():
        parts = [f"## `jstrace.{name}` {{ #jstrace.{name} }}\n\n::: {public[name]}\n{_OPTIONS}" for name in names]
        yield (
            page_of(task),
            f"# {task}\n\n{guide} [What the examples have](../index.md#examples).\n\n" + "\n".join(parts),
        )


def tables() -> str:
    """All public names by task, each with what it is in a line, and what the examples have."""
    public, parts = reference.public(), list[str]()
    for task, (_, names) in TASKS.items():
        page = page_of(task).removeprefix("reference/")
        rows = [f"| [`{name}`]({page}#jstrace.{name}) | {reference.summary(public[name])} |" for name in names]
        parts.append("\n".join([f"### [{task}]({page})", "", "| name | what it is |", "|---|---|", *rows]))
    given = "\n".join(f"| `{name}` | {said} |" for name, said in EXAMPLES.items())
    about = "Every public name has an example, which is run by a test. Examples start from `import jstrace` and these:"
    return "\n\n".join([*parts, f"## Examples\n\n{about}\n\n| name | what it is |\n|---|---|\n{given}"])


def navigation() -> list[object]:
    """The pages in the site's navigation."""
    return [{task: page_of(task)} for task in TASKS]
