"""``jstrace task``: one circuit for many prompts of a task, judged on prompts that it was not found in."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jstrace.cli import options as opt
from jstrace.cli.checks import check_suffix, seed_of
from jstrace.errors import InputError
from jstrace.files import check_writable, read_text

if TYPE_CHECKING:
    from jstrace.pipeline.tasks.circuit import TaskCircuit
    from jstrace.pipeline.tasks.prompts import Pair

_FILE_HELP = (
    "A file of JSON lines with clean, counterfactual, answer, rival and, if you like, roles. With --template each line"
    " has the values of the template's fields."
)
_TEMPLATE_HELP = 'A text with fields, such as "When {S1} and {IO} met, {S2} called".'
_HELD_HELP = "The share of pairs that the circuit is judged on and not found in. 0 judges it on none."
_SEED_HELP = (
    "The random seed of the choice of held-out pairs, of the random order, and of scores that draw. The default is 0."
)
_FIELDS = ("clean", "counterfactual", "answer", "rival")


def task_command(
    file: Annotated[Path, typer.Argument(help=_FILE_HELP)],
    template: Annotated[str | None, opt.asked(metavar="TEXT", help=_TEMPLATE_HELP)] = None,
    held_out: Annotated[float, opt.asked(metavar="SHARE", help=_HELD_HELP)] = 0.5,
    model: opt.ModelOption = "smollm2",
    revision: opt.Revision = None,
    ignore_field: opt.IgnoreField = None,
    dtype: opt.DtypeOption = opt.Dtype.FLOAT32,
    weights: opt.WeightsOption = None,
    score: Annotated[str, opt.ranked(metavar="rounds|gradient|...", help=opt.SCORE_HELP)] = "rounds",
    sizes: opt.SizesOption = None,
    seed: Annotated[int | None, opt.ranked(help=_SEED_HELP, **opt.SEED_RANGE)] = None,
    as_json: opt.JsonOption = False,
    save: Annotated[Path | None, opt.printed(metavar="FILE", help="Write the circuit into this .npz file.")] = None,
) -> None:
    """Find one circuit in many prompts of a task, and judge it on pairs that were held out.

    Each line of FILE is a pair of prompts with an answer and its rival. The
    table shows, by size, how much of the answer's lead the circuit recovers,
    beside each pair's own trace, a random order and the exchanged pairs.
    """
    chosen, shares = opt.score_of(score), opt.sizes_of(sizes)
    if not 0 <= held_out < 1:
        raise InputError(f"--held-out {held_out:g}: expected a share of the pairs, from 0 to below 1, such as 0.5")
    drawn = seed_of(seed, [chosen], held_out > 0, also=" and for --held-out")
    check_suffix(save, ".npz")
    if save is not None:
        check_writable(save)
    rows = read_pairs(file, template)
    loaded = opt.load(model, dtype.value, revision, weights=weights, ignore_fields=ignore_field)
    import jstrace
    from jstrace.pipeline.progress import bar
    from jstrace.pipeline.tasks.prompts import prompt_of

    for where, pair in rows:
        prompt_of(loaded, pair, where)
    with bar("tracing and judging pairs (the first compiles)") as report:
        circuit = jstrace.task(
            loaded, [pair for _, pair in rows], score=chosen, held_out=held_out, sizes=shares, seed=drawn,
            progress=report,
        )  # fmt: skip
    if save is not None:
        circuit.save(save)
        sys.stderr.write(f"jstrace: wrote {save}\n")
    if as_json:
        columns = {name: list(map(_known, values)) for name, values in circuit.columns().items()}
        typer.echo(json.dumps({"pairs": circuit.n_pairs, "classes": list(circuit.classes), **columns}))
        return
    typer.echo(str(circuit))
    typer.echo("\n".join(_table(circuit)))


def read_pairs(file: Path, template: str | None) -> list[tuple[str, Pair]]:
    """The pairs in a file of JSON lines, each after the name of its line."""
    from jstrace.pipeline.tasks.prompts import Pair

    rows = [(f"{file}:{n}: ", line) for n, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    if not rows:
        raise InputError(f"{file}: no line holds a pair")
    values = {where: _row(where, line) for where, line in rows}
    if template is not None:
        return [(where, _of_template(template, value, where)) for where, value in values.items()]
    for where, value in values.items():
        if not {*_FIELDS} <= set(value) <= {*_FIELDS, "roles"}:
            expected = f"{', '.join(_FIELDS)}, and roles or nothing else; for fields of a text give --template"
            raise InputError(f"{where}fields {', '.join(value)}: expected {expected}")
        _check_kinds(where, value)
    return [(where, Pair(**value)) for where, value in values.items()]


def _check_kinds(where: str, row: dict[str, Any]) -> None:
    """Refuse values of a pair that are no text, token ids or roles, with the name of the field."""
    for name in _FIELDS:
        single = name in ("answer", "rival")
        if not isinstance(row[name], str | (int if single else list)) or isinstance(row[name], bool):
            expected = "a word, or its token id" if single else "a text, or a list of token ids"
            raise InputError(f"{where}{name} is {json.dumps(row[name])[:60]}, expected {expected}")
    if not isinstance(row.get("roles", {}), dict):
        raise InputError(f"{where}roles: expected a start and an end for each name")


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
    from jstrace.method.graph.sizes import percent
    from jstrace.show.words import told_once

    if not circuit.judged:
        return ["no pair is held out, so nothing is judged"]
    task, others = circuit.judged["task"], [name for name in circuit.judged if name != "task"]
    known, unknown = int(task.defined.sum()), int((~task.defined).sum())
    apart = f"; undefined for {unknown} more" if unknown else ""
    lines = [f"recovered share of logit(answer) - logit(rival), means over {known} held-out pairs{apart}"]
    lines.append("  size  circuit     TV  accuracy" + "".join(f"  {name:>10}" for name in others))
    rows = []
    for k, size in enumerate(circuit.row_sizes):
        beside = "".join(f"  {_unsigned(circuit.judged[name].mean()[k]):>10.2f}" for name in others)
        row = f"{_unsigned(task.mean()[k]):>7.2f}  {task.tv.mean(axis=0)[k]:>5.2f}  {100 * task.accuracy[k]:>7.0f}%"
        rows.append((percent(size, 3), row + beside))
    return lines + told_once(rows)


def _unsigned(value: float) -> float:
    """To two digits, and zero without a minus."""
    return round(float(value), 2) + 0.0


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
