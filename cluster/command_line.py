"""The command line of a search: its options, and the settings that they give."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.settings import OBJECTIVES
from cluster.study import pruners, samplers
from trainables.config import EMBEDDED_TASKS
from trainables.deepspeed_overlay import canonical

EXAMPLES = """examples:
  python -m cluster.search
      the embedded model and data, both ablations at once, into outputs/embedded
  python -m cluster.search --study masks --space attention --trials 12
      ablation 1 alone: masks, key/value heads, adaptation, attention in the pooling head
  python -m cluster.search --study grid --mode factorial --space attention --seeds 3 \\
      --factors attention.mask pooling.token_scope
      an ablation: all cells of two factors, in blocks of one seed each, against the control
  python -m cluster.search --study part --mode factorial --space attention --fraction main \\
      --tune 4 --dry-run
      as many cells of the whole space as tell its main effects; each tries four settings of the
      learning rates and the temperature first; says what it would cost and runs nothing
  python -m cluster.search --study papers --space literature --set instructions.query="Answer: "
      the designs of the literature by name, those that need an instruction too
  python -m cluster.search --study mine --model Qwen/Qwen2-0.5B --layers all \\
      --train-data pairs.jsonl --tasks STSBenchmark NFCorpus --set training.steps=1000
      your own model, data (columns query, positive, negatives) and official MTEB tasks
  python -m cluster.search --study big --workers 8 --set engine.zero_stage=3 --deepspeed ds.json
      eight workers for each trial, and DeepSpeed settings that no field makes
  python -m cluster.search --study mixed --train-data boolq=0.5 pairs.jsonl=2 mined.parquet
      a mix: four steps of seven draw from pairs.jsonl, two from mined.parquet, one from boolq
  python -m cluster.search --study long --trials 200 --pruner halving --set training.steps=512
      successive halving: weak trials wait at steps 8, 24, 72, 216 and go on if they come to lead
  python -m cluster.search --study small --objectives score embedding_size flops_per_token
      quality against the size of the vectors and the cost of encoding, without early stops
  python -m cluster.search --study more --warm-start embedded --first nv_embed llm2vec mine.json
      what the study embedded has learned, and known designs before any other
  python -m cluster.search --study embedded --address auto
      the same search on the Ray cluster that this machine belongs to
  python -m cluster.search --study embedded --address auto --confirm-under train
      the same, the long runs under Ray Train
"""

TRAIN_DATA = (
    "each a JSONL or parquet file, a datasets folder, a hub id or boolq, with its weight among "
    "the steps (default: 1); or one .json file: a list of objects with name, weight, "
    "query_instruction, document_instruction (default: boolq)"
)
STARTUP = "designs that end before the sampler models what it has seen (default: 6)"
FIRST_RUNG = "first step at which halving and hyperband compare (default: the first report)"
RACE = (
    "score a finished design task by task, and drop it when a paired test over the tasks says "
    "that it is behind the best one; the probability with which an equal one is dropped, at the "
    "most, as 0.05 (default: 0, which scores all designs on all tasks)"
)
OBJECTIVES_HELP = (
    f"what is searched for, a front of compromises if there are several: {', '.join(OBJECTIVES)} "
    "(default: score); all but the score are to be small"
)
FIRST = (
    "designs to try after the control: JSON files, each an object of names and values as in the "
    "report, or a list of them; or presets of the literature"
)
WARM_START = (
    "an earlier study of ours whose finished trials the sampler is to know: its name in the "
    "outputs folder, its folder, URL#STUDY, or, as MLflow has them, mlflow:STUDY (mlflow: for all "
    "studies); they are not among the trials of this study"
)
STORAGE = (
    "a database for the trials, as postgresql://host/name (default: a journal in the study's "
    "folder); optuna-dashboard shows either"
)
CONFIRM_HELP = (
    "what runs the confirmation, or a factorial's cells: tune, whose workers are warm, or train, "
    "for long runs: Ray Train starts each anew and heeds nodes that are to go (default: tune)"
)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the command line's definition; defaults stand in the dataclasses."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.search",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    study = made.add_argument_group("the study (a study keeps these settings)")
    study.add_argument("--study", default="embedded", help="its name (default: embedded)")
    study.add_argument("--space", help="attention, pooling, joint or literature (default: joint)")
    study.add_argument("--mode", help="search or factorial (default: search)")
    study.add_argument(
        "--fraction",
        metavar="N",
        help="factorial: cells to run, or main (effects) or pairs (two-factor interactions too) "
        "for as many as tell them (default: all)",
    )
    study.add_argument(
        "--factors",
        nargs="+",
        metavar="NAME",
        help="factorial: what varies (default: all that the space varies)",
    )
    study.add_argument(
        "--tune", metavar="N", help="factorial: settings tried in each cell (default: 0)"
    )
    study.add_argument("--trials", metavar="N", help="designs to try (default: 10)")
    study.add_argument("--finalists", metavar="N", help="designs to confirm (default: 2)")
    study.add_argument("--seeds", metavar="N", help="fresh seeds of each (default: 3)")
    study.add_argument("--seed", metavar="N", help="of the proposals (default: 0)")
    study.add_argument("--sampler", metavar="NAME", help=samplers.HELP)
    study.add_argument("--startup", metavar="N", help=STARTUP)
    study.add_argument("--pruner", metavar="NAME", help=pruners.HELP)
    study.add_argument("--first-rung", metavar="STEPS", help=FIRST_RUNG)
    study.add_argument("--eta", metavar="N", help="the factor between its rungs (default: 3)")
    study.add_argument("--race", metavar="ALPHA", help=RACE)
    study.add_argument("--objectives", nargs="+", metavar="NAME", help=OBJECTIVES_HELP)
    study.add_argument("--first", nargs="+", default=[], metavar="FILE.json|PRESET", help=FIRST)
    study.add_argument("--warm-start", metavar="STUDY", help=WARM_START)
    study.add_argument("--storage", metavar="URL", help=STORAGE)
    study.add_argument("--model", help="a folder or a hub id (default: the embedded one)")
    study.add_argument("--layers", metavar="N", help="first layers kept, or all (default: 6)")
    study.add_argument("--train-data", nargs="+", metavar="NAME[=WEIGHT]", help=TRAIN_DATA)
    study.add_argument("--tasks", nargs="+", help=f"default: {' '.join(EMBEDDED_TASKS)}")
    study.add_argument("--workers", metavar="N", help="workers of each trial (default: 1)")
    study.add_argument("--deepspeed", metavar="FILE", help="more DeepSpeed settings, as JSON")
    study.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
        metavar="NAME=VALUE",
        help="any other setting",
    )
    here = made.add_argument_group("this run of it")
    here.add_argument("--address", help="a Ray cluster (default: Ray on this machine)")
    here.add_argument("--at-once", metavar="N", help="trials at once (default: all fit)")
    here.add_argument("--gpus-per-worker", metavar="N", help="a share, as 0.5 (default: 1)")
    here.add_argument("--confirm-under", metavar="RAY", default="tune", help=CONFIRM_HELP)
    here.add_argument("--outputs", type=Path, default=Path("outputs"), help="default: outputs")
    here.add_argument(
        "--dry-run", action="store_true", help="check everything; say plan and cost, run nothing"
    )
    return made


def settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the study's fields and the dotted trial settings that a command line gives."""
    several = len(arguments.objectives or ()) > 1
    study = {
        "name": arguments.study,
        "space": arguments.space,
        "sampler": arguments.sampler,
        "num_startup": value(arguments.startup),
        "pruner": arguments.pruner or ("none" if several else None),
        "first_rung": value(arguments.first_rung),
        "factor": value(arguments.eta),
        "race": value(arguments.race),
        "objectives": arguments.objectives and tuple(arguments.objectives),
        "first": tuple(known for given in arguments.first for known in known_designs(given)),
        "warm_start": whole_path(arguments.warm_start),
        "storage": arguments.storage,
        "mode": arguments.mode,
        "fraction": value(arguments.fraction),
        "factors": arguments.factors and tuple(arguments.factors),
        "tune": value(arguments.tune),
        "num_trials": value(arguments.trials),
        "num_finalists": value(arguments.finalists),
        "num_seeds": value(arguments.seeds),
        "seed": value(arguments.seed),
    }
    trial = {
        "backbone.model": whole_path(arguments.model),
        "backbone.num_layers": value(arguments.layers),
        "training.data": arguments.train_data and mix(arguments.train_data),
        "evaluation.tasks": arguments.tasks and tuple(arguments.tasks),
        "engine.num_workers": value(arguments.workers),
        "engine.deepspeed": content(arguments.deepspeed),
    }
    given = {name: v for name, v in trial.items() if v is not None}
    if arguments.layers == "all":
        given["backbone.num_layers"] = None
    given |= dict(arguments.set)
    return {name: v for name, v in study.items() if v is not None}, given


def setting(text: str) -> tuple[str, Any]:
    """Return a dotted name and its value.

    >>> setting("training.steps=9")
    ('training.steps', 9)
    """
    name, equals, raw = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value(raw)


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
    except (OSError, ValueError) as error:
        return [f"{given}: {error}"]
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
