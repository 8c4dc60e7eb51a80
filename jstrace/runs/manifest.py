"""The manifest of a run: what was asked, of what, by which model; and whether two runs are the same. No JAX."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jstrace.errors import InputError
from jstrace.files import read_regular
from jstrace.method.graph.sizes import NUCLEUS_LEVELS
from jstrace.method.naming import SCORE_NAMES, Named, identity_of, name_of, takes_passes
from jstrace.method.plans import Plan
from jstrace.runs.data import Data
from jstrace.runs.schema import MANIFEST, NOTHING, Extras

FORMAT, VERSION = "jstrace-run", 1


def configuration(
    plan: Plan,
    data: Data,
    *,
    save_strata: bool,
    reference: str | None = None,
    learned: str | None = None,
    scores: Mapping[str, Mapping[str, Any]] | None = None,
    extras: Extras = NOTHING,
) -> dict[str, Any]:
    """What makes two runs the same beside the model's fingerprint; not the number of inputs, nor the devices.

    What came with later versions is there only where it is asked for, so that older runs stay the same.

    Args:
      plan: what is asked of every input.
      data: of the run.
      save_strata: whether strata are kept, too.
      reference: a hash of the reference texts, where anything depends on them.
      learned: a hash of the scorer that comes with jstrace, where it is asked for.
      scores: the settings of each score of jstrace's own, by its name; runs of earlier versions do not have them.
      extras: what is asked beside the plan.
    """
    later = {
        "own_importances": {name_of(own): identity_of(own) for own in plan.scores if not isinstance(own, str | Named)},
        "reference": reference,
        "learned": learned,
        "scores": {name: dict(settings) for name, settings in (scores or {}).items()},
        "replace": list(plan.replacements),
        "order": list(plan.orders),
        "selectivity": plan.selectivity,
        **dataclasses.asdict(extras),
    }
    return {
        **{key: value for key, value in later.items() if value != _LATER.get(key, {})},
        **_scored(plan),
        _FLOPS: True,
        "importance": list(plan.score_names),
        "ablate": list(plan.ablations),
        "baselines": list(plan.baselines),
        "sizes": list(plan.sizes),
        "seed": plan.seed,
        "save_strata": save_strata,
        "data": data.fingerprint,
    }


def _scored(plan: Plan) -> dict[str, Any]:
    """For each replacement what scores are taken under, where any reads it. Older runs do not say it: means."""
    if not plan.scored_under:
        return {}
    own = [score.name for score in plan.scores if takes_passes(score) and not isinstance(score, str)]
    return {"score_replace": list(plan.scored_under)} | ({_OWN_GRADIENTS: own} if own else {})


_OWN_GRADIENTS = "own_gradients"
"""Which scores of one's own are from gradients; it goes with ``score_replace`` and is not compared."""

_FLOPS = "flops"
"""Whether tables have that column, which is not compared: a run of an earlier version goes on without."""

_LATER: dict[str, Any] = {
    "reference": None,
    "learned": None,
    "replace": list(Plan.replacements),
    "order": list(Plan.orders),
    "selectivity": Plan.selectivity,
    **dataclasses.asdict(NOTHING),
}
"""What a configuration means that does not have them."""


def _meant(config: dict[str, Any]) -> dict[str, Any]:
    full_config = _LATER | config
    return {"score_replace": ["mean"] * len(full_config["replace"])} | full_config


def plan_of(config: dict[str, Any]) -> Plan:
    """The plan that a configuration describes."""
    names = ("importance", "ablate", "baselines", "sizes")
    scores, ablations, baselines, sizes = (tuple(config[name]) for name in names)
    gradients = config.get(_OWN_GRADIENTS, [])
    scores = tuple(name if name in SCORE_NAMES else Named(name, name in gradients) for name in scores)
    later = _meant(config)
    replacements, orders, scored = (tuple(later[name]) for name in ("replace", "order", "score_replace"))
    under = scored[0] if scored != replacements and any(map(takes_passes, scores)) else None
    plan = Plan(
        scores, ablations, baselines, sizes, config["seed"], replacements, orders, later["selectivity"], under
    )  # fmt: skip
    if plan.scored_under not in ((), scored):
        raise ValueError(f"its scores are under {scored}, its traces under {replacements}")
    return plan


def scores_under_means(folder: Path) -> bool:
    """Whether a folder holds a run whose scores from gradients are under means, whatever its traces are under.

    All runs were, before scores followed the evaluation.
    """
    return (folder / MANIFEST).exists() and "score_replace" not in read_manifest(folder)["config"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
      InputError: the folder holds no run, or one of a newer format.
    """
    path = folder / MANIFEST
    try:
        facts = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder}: no folder of a run ({MANIFEST} cannot be read: {error})") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{path}: not the manifest of a run of jstrace")
    if facts.get("version") != VERSION:
        raise InputError(f"{path}: format version {facts.get('version')}, this jstrace reads version {VERSION}")
    try:
        _check_manifest(facts)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {error})") from error
    return facts


def _check_manifest(facts: dict[str, Any]) -> None:
    """Raise an error of some kind where the manifest lacks what others rely on."""
    config, plan = facts["config"], plan_of(facts["config"])
    names = [case.name for case in plan.cases], [source.name for source in plan.sources]
    if (facts["conditions"], facts["sources"], facts["nucleus_levels"]) != (*names, list(NUCLEUS_LEVELS)):
        raise ValueError("its conditions are not those of its configuration")
    facts["model"]["name"].encode()
    texts = [facts["model"]["name"], facts["model"]["dtype"], facts["data"]["name"], config["model"]]
    texts += [facts["model"].get("revision", ""), facts["model"].get("weights", "")]
    numbers, place = (facts["data"]["rows"], facts["model"]["config"]["n_layers"]), facts["model"].get("place", 0)
    counted = all(_is_count(number) for number in (*numbers, place + 1))
    if not all(isinstance(text, str) for text in texts) or not counted:
        raise TypeError("names are texts, and counts are numbers")
    for settings in config.get("scores", {}).values():
        settings.items()
    for session in facts["sessions"]:
        session["versions"].items(), [session["hardware"][key] for key in ("devices", "device", "cpu")]
        session["hardware"]["device"].encode()
        for name, took in session.get("seconds", {}).items():
            name.encode()
            seconds = took["seconds"]
            known = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < math.inf
            if not (known and _is_count(took["inputs"])):
                raise ValueError(f"the seconds of {name} are none")


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 2**31


def added_columns(config: Mapping[str, Any], asked: Sequence[str]) -> tuple[str, ...]:
    """The groups of columns that the tables of a run have beside those of all runs."""
    return (*asked, *([_FLOPS] if config.get(_FLOPS) else []))


def mark_of(config: dict[str, Any]) -> str:
    """A short hash of a run's configuration, which all its files carry."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def adopted(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration to go on with: as the folder has it, which may write the same otherwise (1 for 1.0).

    One of an earlier version says nothing of what scores are, or of what they are under, and goes on so.
    """
    if not (folder / MANIFEST).exists():
        return config
    there = read_manifest(folder)["config"]
    unsaid = {"scores", "score_replace", _OWN_GRADIENTS, _FLOPS} - set(there)
    known = {key: value for key, value in config.items() if key not in unsaid}
    return {key: there[key] if key in there and there[key] == value else value for key, value in known.items()}


def check_same(folder: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuse to go on in the folder of another run.

    Args:
      folder: that may hold a run.
      config: from ``configuration``, or a part of it.
      facts: what the manifest would say beside it; names of data and models go into the message.

    Raises:
      InputError: the folder holds something else; the message shows every difference.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder")
    if not (folder / MANIFEST).exists():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"{folder}: holds files, but no run; give --out a new folder")
        return
    manifest = read_manifest(folder)
    there = manifest["config"]
    meant = _meant(there)
    asked = {key: value for key, value in _meant(config).items() if key in there} | config
    differences = [
        f"{_OPTIONS.get(key, key)} is {_shown(meant.get(key), manifest.get(key))} there,"
        f" {_shown(value, facts.get(key))} here"
        for key, value in asked.items()
        if key not in ("scores", _OWN_GRADIENTS, _FLOPS) and meant.get(key) != value
    ]
    differences += _other_scores(there.get("scores", {}), config.get("scores", {}))
    if differences:
        raise InputError(f"{folder}: holds another run: {'; '.join(differences)}")


def _other_scores(there: Mapping[str, Mapping[str, Any]], here: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The settings in which scores of one name differ, of those that the folder says anything of."""
    return [
        f"{setting} of {name} is {_shown(there[name].get(setting), None)} there, {_shown(own.get(setting), None)} here"
        for name, own in here.items()
        if name in there
        for setting in dict.fromkeys((*own, *there[name]))
        if own.get(setting) != there[name].get(setting)
    ]


def _shown(value: Any, fact: dict[str, Any] | None) -> str:
    """A setting in words; of data and models, which are compared by fingerprint, with their names."""
    if fact is not None:
        about = ", ".join(f"{fact[name]}{unit}" for name, unit in _NAMED.items() if name in fact)
        return f"{about} (fingerprint {value})"
    text = "none" if value is None else json.dumps(value)
    return text if len(text) < 120 else f"{text[:100]}... ({len(value)} of them)"


_OPTIONS = {"importance": "score", "own_importances": "own scores"}
"""What settings are called where the file has an older word."""
_NAMED = {"name": "", "dtype": "", "weights": " weights", "rows": " rows"}
