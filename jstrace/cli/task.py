"""``jstrace task``: one circuit for many prompts of a task, judged on prompts that it was not found in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli.options import MODEL_HELP, SCORE_HELP, Dtype, IgnoreField, Revision, WeightsOption, load, score_of
from jstrace.errors import InputError
from jstrace.files import read_text

if TYPE_CHECKING:
    from jstrace.pipeline.tasks.circuit import TaskCircuit
    from jstrace.pipeline.tasks.prompts import Pair

_FILE_HELP = (
    "JSON lines: clean, counterfactual, answer, rival, and roles if you like; with --template the values of its fields."
)
_TEMPLATE_HELP = 'A text with fields, such as "When {S1} and {IO} met, {S2} called".'
_FIELDS = ("clean", "counterfactual", "answer", "rival")


def task_command(
    file: Annotated[Path, typer.Argument(help=_FILE_HELP)],
    template: Annotated[str | None, typer.Option(help=_TEMPLATE_HELP)] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "smollm2",
    revision: Revision = None,
    ignore_field: IgnoreField = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of weights and residual stream.")] = Dtype.FLOAT32,
    weights: WeightsOption = None,
    score: Annotated[str, typer.Option(metavar="rounds|gradient|...", help=SCORE_HELP)] = "rounds",
    held_out: Annotated[float, typer.Option(help="The share of pairs that the circuit is judged on.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed of the pairs that are held out.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write the circuit into this .npz file.")] = None,
) -> None:
    """Find one circuit in many prompts of a task, and judge it on pairs that were held out.

    Each line of FILE is a pair of prompts with an answer and its rival. The
    table shows, by size, how much of the answer's lead the circuit recovers,
    beside each pair's own trace, a random order and the exchanged pairs.
    """
    chosen, rows = score_of(score), read_pairs(file, template)
    if save is not None:
        from jstrace.files import check_writable

        check_writable(save)
    loaded = load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    from rich.console import Console

    import jstrace
    from jstrace.pipeline.tasks.prompts import prompt_of

    for where, pair in rows:
        prompt_of(loaded, pair, where)
    with Console(stderr=True).status("tracing pairs") as status:
        circuit = jstrace.task(
            loaded, [pair for _, pair in rows], score=chosen, held_out=held_out, seed=seed,
            progress=lambda done, total: status.update(f"tracing pairs: {done} of {total} passes over prompts"),
        )  # fmt: skip
    if save is not None:
        circuit.save(save)
        sys.stderr.write(f"jstrace: wrote {save}\n")
    if as_json:
        columns = {name: [None if _nan(x) else x for x in values] for name, values in circuit.columns().items()}
        typer.echo(json.dumps({"pairs": circuit.n_pairs, "classes": list(circuit.classes), **columns}))
        return
    typer.echo(str(circuit))
    typer.echo("\n".join(_table(circuit)))


def read_pairs(file: Path, template: str | None) -> list[tuple[str, Pair]]:
    """The pairs in a file of JSON lines, each after the name of its line.

    Raises:
      InputError: with the line that is no pair.
    """
    from jstrace.pipeline.tasks.prompts import Pair

    rows = [(f"{file}:{n}: ", line) for n, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    if not rows:
        raise InputError(f"{file}: no line holds a pair")
    values = {where: _row(where, line) for where, line in rows}
    if template is not None:
        return [(where, _of_template(template, value, where)) for where, value in values.items()]
    for where, value in values.items():
        missing = [name for name in _FIELDS if name not in value]
        if missing or not set(value) <= {*_FIELDS, "roles"}:
            expected = f"{', '.join(_FIELDS)}, and roles or nothing else; for fields of a text give --template"
            raise InputError(f"{where}fields {', '.join(value)}: expected {expected}")
        if not isinstance(value.get("roles", {}), dict):
            raise InputError(f"{where}roles: expected a start and an end for each name")
    return [(where, Pair(**value)) for where, value in values.items()]


def _of_template(template: str, row: dict[str, Any], where: str) -> Pair:
    from jstrace.pipeline.tasks.prompts import pairs_of

    try:
        return pairs_of(template, [row])[0]
    except InputError as error:
        raise InputError(f"{where}{str(error).removeprefix('row 0: ')}") from error


def _row(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}no JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}expected a JSON object, got {type(value).__name__}")
    return value


def _table(circuit: TaskCircuit) -> list[str]:
    """By size what the circuit recovers of held-out pairs, and what is beside it."""
    from jstrace.show.words import percent

    if not circuit.judged:
        return ["no pair is held out, so nothing is judged"]
    task, others = circuit.judged["task"], [name for name in circuit.judged if name != "task"]
    known, unknown = int(task.defined.sum()), int((~task.defined).sum())
    apart = f"; undefined for {unknown} more" if unknown else ""
    lines = [f"recovered share of logit(answer) - logit(rival), means over {known} held-out pairs{apart}"]
    lines.append("  size  circuit     TV  accuracy" + "".join(f"  {name:>10}" for name in others))
    last, alike = "", []
    for k, size in enumerate(circuit.row_sizes):
        beside = "".join(f"  {_unsigned(circuit.judged[name].mean()[k]):>10.2f}" for name in others)
        row = f"{_unsigned(task.mean()[k]):>7.2f}  {task.tv.mean(axis=0)[k]:>5.2f}  {100 * task.accuracy[k]:>7.0f}%"
        row += beside
        if row == last and k < len(circuit.row_sizes) - 1:
            alike.append(percent(size, 3))
            continue
        lines.append(f"{percent(size, 3):>6}  {row}")
        last = row
    return lines + ([f"not shown, as they are like the size before: {', '.join(alike)}"] if alike else [])


def _unsigned(value: float) -> float:
    """To two digits, and zero without a minus."""
    return round(float(value), 2) + 0.0


def _nan(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
