"""What a command line gives: a study's settings, those of its trials, and how flags are named."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.study import pruners
from trainables.deepspeed_overlay import canonical

STUDY = {  # fields of `StudyConfig` by the flags' names
    "study": "name",
    "space": "space",
    "mode": "mode",
    "trials": "num_trials",
    "finalists": "num_finalists",
    "seeds": "num_seeds",
    "smallest_effect": "smallest_effect",
    "seed": "seed",
    "objectives": "objectives",
    "sampler": "sampler",
    "startup": "num_startup",
    "pruner": "pruner",
    "first_rung": "first_rung",
    "eta": "factor",
    "race": "race",
    "first": "first",
    "warm_start": "warm_start",
    "storage": "storage",
    "factors": "factors",
    "fraction": "fraction",
    "tune": "tune",
    "tune_over": "tuned",
}
TRIAL = {  # fields of `TrialConfig`
    "model": "backbone.model",
    "layers": "backbone.num_layers",
    "train_data": "training.data",
    "tasks": "evaluation.tasks",
    "workers": "engine.num_workers",
    "deepspeed": "engine.deepspeed",
}
NUMBERS = (
    *("trials", "finalists", "seeds", "seed", "startup", "first_rung", "eta", "fraction", "tune"),
    *("smallest_effect", "race"),
    *("layers", "workers"),
)
OWN = (  # names of faults that are not fields
    *("outputs", "address", "at-once", "gpus-per-worker", "confirm-under"),
    *(
        "budget-gpu-hours",
        "gpu-hour-price",
        "max-losses",
        "hang-timeout",
        "deepspeed",
        "set",
        "study",
        "warm-start",
    ),
)


def flag(name: str) -> str:
    """Return how a person types an option.

    >>> flag("first_rung")
    '--first-rung'
    """
    return f"--{name.replace('_', '-')}"


FLAGS = {field: flag(name) for name, field in (STUDY | TRIAL).items()} | {
    name: flag(name) for name in OWN
}
FLAGS["base.seed"] = "--set seed"  # of the trials; --seed is the study's


def settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the study's fields and the dotted trial settings that a command line gives."""
    given = {name: _read(name, text) for name, text in vars(arguments).items()}
    several = len(given["objectives"] or ()) > 1
    study = {field: given[name] for name, field in STUDY.items()}
    study["pruner"] = study["pruner"] or (pruners.NONE if several else None)
    trial = {field: given[name] for name, field in TRIAL.items()}
    trial = {field: v for field, v in trial.items() if v is not None}
    if given["layers"] == "all":
        trial["backbone.num_layers"] = None
    for text in arguments.set:
        name, equals, raw = text.partition("=")
        if equals:
            trial[name] = value(raw)
    return {field: v for field, v in study.items() if v is not None}, trial


def _read(name: str, given: Any) -> Any:
    """Return an option's value as the configuration has it."""
    if given is None:
        return None
    if name in NUMBERS:
        return value(given)
    if name in ("model", "warm_start"):
        return whole_path(given)
    if name in ("objectives", "factors", "tasks"):
        return tuple(given)
    if name == "first":
        return tuple(known for each in given for known in known_designs(each))
    reader = {"train_data": mix, "deepspeed": content, "tune_over": spans}.get(name)
    return reader(given) if reader else given


def set_fault(given: Sequence[str]) -> str | None:
    """Return the fault of settings that are no NAME=VALUE.

    >>> set_fault(["training.steps=9", "training.steps"])
    "expected NAME=VALUE, got 'training.steps'"
    """
    bad = [text for text in given if "=" not in text]
    return f"expected NAME=VALUE, got {', '.join(map(repr, bad))}" if bad else None


def unknown(extra: Sequence[str], known: Sequence[str]) -> dict[str, str | None]:
    """Return the fault of each argument that is no option, with the nearest that is one.

    >>> unknown(["--trails", "5"], ["--trials", "--seeds"])
    {'--trails': 'no such option; did you mean --trials?'}
    """
    faults: dict[str, str | None] = {}
    for text in extra:
        if text.startswith("-"):
            name = text.partition("=")[0]
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "--help names all"
            faults[name] = f"no such option; {remedy}"
        elif not faults:
            faults[text] = "expected an option, such as --trials 10, before it; --help names all"
    return faults


def with_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    r"""Return faults under the names of the flags that were typed, a setting's own name beside.

    >>> print(with_flags("num_startup: expected a number\nbackbone.num_layers: expected 3"))
    --startup: expected a number
    --layers (backbone.num_layers): expected 3
    """
    return "\n".join(_with_flag(line, flags) for line in message.splitlines())


def _with_flag(line: str, flags: Mapping[str, str]) -> str:
    name, colon, fault = line.partition(": ")
    name = name if name in flags else name.removeprefix("base.")
    parts = name.split(".")
    heads = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    head = next((head for head in heads if head in flags), None)
    if not colon:
        return line
    if head is None:
        return f"{name}: {fault}"
    plain = name == head and "." not in name
    return f"{flags[head]}: {fault}" if plain else f"{flags[head]} ({name}): {fault}"


def value(text: str | None) -> Any:
    """Return a command line's value: JSON where it is JSON, else the text itself.

    >>> value("3"), value("causal")
    (3, 'causal')
    """
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def spans(given: Sequence[str]) -> dict[str, Any]:
    """Return how far each named setting is tried, as a factor either way; None: as usual.

    >>> spans(["training.learning_rate=10", "objective.temperature"])
    {'training.learning_rate': 10, 'objective.temperature': None}
    """
    parts = [text.partition("=") for text in given]
    return {name: value(raw) if equals else None for name, equals, raw in parts}


def content(name: str | None) -> str | None:
    """Return the JSON in a file in its canonical form; what is no JSON comes as it stands."""
    if name is None or not Path(name).is_file():
        return None
    text = Path(name).read_text(errors="replace")
    try:
        return canonical(text)
    except ValueError:
        return text


def mix(given: Sequence[str]) -> Any:
    """Return the data sets of a command line, or of the one .json file that it names, as written.

    A file that is no JSON comes back as a text that says so, and is refused with all else.

    >>> mix(["boolq=0.5", "user/pairs"])
    [{'name': 'boolq', 'weight': 0.5}, {'name': 'user/pairs'}]
    """
    if len(given) > 1 or not given[0].endswith(".json"):
        return [_data_set(text) for text in given]
    try:
        sets = json.loads(Path(given[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{given[0]}: {error}"
    for each in sets if isinstance(sets, list) else []:
        if isinstance(each, dict) and isinstance(each.get("name"), str):
            each["name"] = whole_path(each["name"])
    return sets


def known_designs(given: str) -> list[Any]:
    """Return the designs of a JSON file, or the name of a preset; faults are found later.

    >>> known_designs("nv_embed")
    ['nv_embed']
    """
    if not given.endswith(".json"):
        return [given]
    try:
        read = json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        return [f"{given} ({error.strerror})"]
    except ValueError as error:
        return [f"{given} ({error})"]
    return read if isinstance(read, list) else [read]


def _data_set(text: str) -> dict[str, Any]:
    """Return the name and the weight, if there is one; a path may have a "=" of its own."""
    name, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return {"name": whole_path(text)}
    return {"name": whole_path(name), "weight": value(weight)}


def whole_path(name: str | None) -> str | None:
    """Return the whole path of what is here; a hub id or an embedded name stays as it is."""
    return str(Path(name).resolve()) if name and Path(name).exists() else name


def no_file(name: str | None) -> str | None:
    """Return the fault if a file is named that is not there."""
    missing = name is not None and not Path(name).is_file()
    return f"expected a file, got {name!r}" if missing else None
