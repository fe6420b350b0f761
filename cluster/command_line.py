"""The command line of a search: its options by groups, with what they are by default."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.arguments import unknown, with_flags
from cluster.dispatch.slots import ClusterLostError
from cluster.settings import OBJECTIVES, SPAN, TUNABLE, TUNED, StudyConfig
from cluster.study import pruners, samplers
from search_spaces.spaces import SPACES
from trainables import suites
from trainables.assets import AssetError
from trainables.config import EMBEDDED_SUITE, EMBEDDED_TASKS, ConfigError, TrialConfig

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
  python -m cluster.search --study rates --mode factorial --space pooling --factors pooling.head \\
      --tune 6 --tune-over training.learning_rate=10 training.weight_decay
      what is tuned: the rate up to ten times either way, the weight decay up to four times
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

STUDY, TRIAL = StudyConfig(), TrialConfig()  # whose values are the defaults

SPACE = f"what may vary: {', '.join(SPACES)} (default: {STUDY.space})"
MODE = (
    "search looks for the best designs and confirms them; factorial runs all cells of the space, "
    f"or some, for an ablation (default: {STUDY.mode})"
)
SET = (
    "any other setting of the trials, as training.steps=100 or engine.precision=fp32; may be "
    "given again. All names and defaults: trainables/config.py and training_config.py"
)
TRAIN_DATA = (
    "each a JSONL or parquet file, a datasets folder, a hub id or boolq, with its weight among "
    "the steps (default: 1); or one .json file: a list of objects with name, weight, "
    "query_instruction, document_instruction (default: boolq)"
)
TASKS = (
    f"suites ({suites.HELP}), embedded tasks ({', '.join(EMBEDDED_TASKS)}) and any of mteb's, "
    f"mixed (default: {EMBEDDED_SUITE})"
)
STARTUP = (
    "designs that end before the sampler models what it has seen (default: "
    f"{samplers.STARTUP}; {', '.join(samplers.WITH_STARTUP)}) and before the pruner stops any "
    f"(default: {pruners.STARTUP}; {', '.join(pruners.WITH_STARTUP)}); "
    "refused where neither has it"
)
FIRST_RUNG = (
    f"{' and '.join(pruners.WITH_RUNGS)}: first step at which trials are compared (default: the "
    "first report)"
)
ETA = (
    f"{' and '.join(pruners.WITH_RUNGS)}: one of so many goes on from a rung, and the next rung "
    f"is so many times later (default: {pruners.FACTOR})"
)
RACE = (
    "score a finished design task by task, and drop it when a paired test over the tasks says "
    "that it is behind the best one; the probability with which an equal one is dropped, at the "
    "most, as 0.05 (default: 0, which scores all designs on all tasks)"
)
OBJECTIVES_HELP = (
    f"what is searched for, a front of compromises if there are several: {', '.join(OBJECTIVES)} "
    "(default: score); all but the score are to be small. Finalists come from the front"
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
    "a database for the trials, as sqlite:////shared/studies.db or postgresql://host/name, whose "
    "driver ('psycopg[binary]') must be installed (default: a journal in the study's folder); "
    "optuna-dashboard shows either"
)
FRACTION = (
    "cells to run, or main (effects) or pairs (two-factor interactions too) for as many as tell "
    "them (default: all)"
)
TUNE_OVER = (
    "what --tune varies and how far from its own value, as a factor either way (default: "
    f"{' '.join(f'{name}={span:g}' for name, span in TUNED.items())}; {SPAN:g} where none is "
    f"given); of {', '.join(TUNABLE)}"
)
CONFIRM_HELP = (
    "what runs the confirmation, or a factorial's cells: tune, whose workers are warm, or train, "
    "for long runs: Ray Train starts each anew and heeds nodes that are to go (default: tune)"
)
BUDGET = (
    "hours of GPUs, or of workers where there are none, that a search and its confirmation may "
    "take: no trial is begun that would leave too little for the confirmation (default: no limit)"
)
PRICE = "of an hour of a GPU, or of a worker where there are none, to say what a study has cost"
MAX_LOSSES = (
    "losses of a trial's processes in a row, without a new report, after which it fails; those "
    "that hit several trials at once, or come with a node's death, do not count (default: 3)"
)
HANG_TIMEOUT = (
    "seconds without a step or a scored batch after which a trial's workers count as dead "
    "(default: an hour, or twenty times the trial's longest step so far)"
)


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the command line's definition; defaults stand in the dataclasses."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.search",
        usage="%(prog)s [options]",
        description=description,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --seed is no short --seeds
    )
    for add in (_study, _budget, _engine, _factorial, _trials, _here):
        add(made)
    return made


def parse(
    made: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, dict[str, str | None]]:
    """Return a command line's values, and the fault of each argument that is no option."""
    given, extra = made.parse_known_args(argv)
    known = [name for action in made._actions for name in action.option_strings]
    return given, unknown(extra, known)


def ended(run: Callable[[], int]) -> int:
    """Run a program that drives a study; return its exit code, and say what ended it early."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return run()
    except ConfigError as error:
        code, message = 2, with_flags(str(error))
    except AssetError as error:
        code, message = 2, str(error)
    except ClusterLostError as error:
        code, message = 1, str(error)
    except KeyboardInterrupt:
        code, message = 130, "\nInterrupted. The same command continues where this left off."
    sys.stderr.write(f"{message}\n")
    return code


def say(line: str) -> None:
    """Write a line on the console at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _study(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "the study", "A study keeps these and all settings below but those of this run."
    )
    group.add_argument("--study", default=STUDY.name, help=f"its name (default: {STUDY.name})")
    group.add_argument("--space", help=SPACE)
    group.add_argument("--mode", help=MODE)
    group.add_argument("--seeds", metavar="N", help=_with("fresh seeds of each", STUDY.num_seeds))
    effect = _with("difference of scores that counts, 0 to 1", STUDY.smallest_effect)
    group.add_argument("--smallest-effect", metavar="D", help=effect)
    group.add_argument("--seed", metavar="N", help=_with("of the proposals", STUDY.seed))
    group.add_argument("--storage", metavar="URL", help=STORAGE)


def _budget(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("a search's budget and knowledge")
    trials = _with("designs to try, the control among them", STUDY.num_trials)
    group.add_argument("--trials", metavar="N", help=trials)
    finalists = _with("designs to confirm beside the control", STUDY.num_finalists)
    group.add_argument("--finalists", metavar="N", help=finalists)
    group.add_argument("--objectives", nargs="+", metavar="NAME", help=OBJECTIVES_HELP)
    group.add_argument("--first", nargs="+", default=[], metavar="FILE.json|PRESET", help=FIRST)
    group.add_argument("--warm-start", metavar="STUDY", help=WARM_START)


def _engine(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "a search's sampler and early stops", "python -m cluster.simulate compares them."
    )
    group.add_argument("--sampler", metavar="NAME", help=samplers.HELP)
    group.add_argument("--pruner", metavar="NAME", help=pruners.HELP)
    group.add_argument("--startup", metavar="N", help=STARTUP)
    group.add_argument("--first-rung", metavar="STEPS", help=FIRST_RUNG)
    group.add_argument("--eta", metavar="N", help=ETA)
    group.add_argument("--race", metavar="ALPHA", help=RACE)


def _factorial(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("a factorial (--mode factorial)")
    factors = "what varies, as attention.mask (default: all that the space varies)"
    group.add_argument("--factors", nargs="+", metavar="NAME", help=factors)
    group.add_argument("--fraction", metavar="N", help=FRACTION)
    tune = "settings tried in each cell, the trials' own first, all cells alike"
    group.add_argument("--tune", metavar="N", help=_with(tune, STUDY.tune))
    group.add_argument("--tune-over", nargs="+", metavar="NAME[=FACTOR]", help=TUNE_OVER)


def _trials(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("what each trial trains on and is scored by")
    model = f"a folder or a hub id (default: the embedded {TRIAL.backbone.model})"
    group.add_argument("--model", help=model)
    layers = _with("first layers kept, or all", TRIAL.backbone.num_layers)
    group.add_argument("--layers", metavar="N", help=layers)
    group.add_argument("--train-data", nargs="+", metavar="NAME[=WEIGHT]", help=TRAIN_DATA)
    group.add_argument("--tasks", nargs="+", metavar="NAME", help=TASKS)
    workers = _with("workers of each trial", TRIAL.engine.num_workers)
    group.add_argument("--workers", metavar="N", help=workers)
    group.add_argument("--deepspeed", metavar="FILE", help="more DeepSpeed settings, as JSON")
    group.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=SET)


def _here(made: argparse.ArgumentParser) -> None:
    group = this_run(made)
    only = "stop before the confirmation, which `python -m cluster.confirm` runs then"
    group.add_argument("--search-only", action="store_true", help=only)


def this_run(made: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of where and how a study is run, which it does not keep."""
    group = made.add_argument_group("this run", "Another run of the study may have others.")
    group.add_argument("--address", help="a Ray cluster, or auto (default: Ray on this machine)")
    group.add_argument("--at-once", metavar="N", help="trials at once (default: all that fit)")
    gpus = "GPUs of a worker; 0.5 lets two share one (default: 1 where there are any)"
    group.add_argument("--gpus-per-worker", metavar="N", help=gpus)
    group.add_argument("--confirm-under", metavar="RAY", default="tune", help=CONFIRM_HELP)
    group.add_argument("--budget-gpu-hours", metavar="H", help=BUDGET)
    group.add_argument("--gpu-hour-price", metavar="P", help=PRICE)
    group.add_argument("--max-losses", metavar="N", help=MAX_LOSSES)
    group.add_argument("--hang-timeout", metavar="S", help=HANG_TIMEOUT)
    outputs = "the folder of all studies (default: outputs)"
    group.add_argument(
        "--outputs", type=Path, default=Path("outputs"), metavar="DIR", help=outputs
    )
    dry = "check everything, say the plan, its cost and its end, and run nothing"
    group.add_argument("--dry-run", action="store_true", help=dry)
    return group


def _with(text: str, default: object) -> str:
    return f"{text} (default: {default})"
