"""Try samplers and pruners in virtual time, before a search costs anything.

The ledger and the adapters are those of a search; only the trials are played: by a formula over
all designs of a space, of which the best is known, or by the curves of a search that has ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage

from cluster.command_line import known_designs
from cluster.settings import StudyConfig
from cluster.simulation.intervals import spread
from cluster.simulation.virtual import Simulation
from cluster.simulation.workloads import Formula, Recorded
from cluster.study import priors, pruners, samplers
from cluster.study.ledger import Ledger
from cluster.study.opening import open_study, rules
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check, number, one_of, whole
from trainables.overlay import flatten, overlay
from trainables.shape import EMBEDDED, Shape

EXAMPLES = """examples:
  python -m cluster.simulate
      TPE and random draws, with and without successive halving, on the space attention
  python -m cluster.simulate --samplers tpe gp nsga2 random --pruners halving none --seeds 20
      more samplers, with closer intervals
  python -m cluster.simulate --space joint --trials 500 --workers 16 --steps 1000
      how long 500 trials of 1,000 steps take on 16 workers
  python -m cluster.simulate --space joint --trials 500 --workers 16 --steps 1000 --losses 0.1
      the same on nodes that are lost every ten hours; trials go on from their last reports
  python -m cluster.simulate --first llm2vec mine.json
      known designs before any other
  python -m cluster.simulate --recorded outputs/embedded --workers 4
      the curves of a finished search, and what it would have taken on four workers

what is printed, as the median of the seeds and its 95 % interval (of fewer than six seeds: their
range):
  best       the best true score of a completed trial
  to 1 %     steps that all trials together had trained when one was completed within 1 % of the
             best design there is; inf if none was
  steps      steps trained in all
  makespan   until the last trial has ended, in minutes of the trials' own time
"""
LOSSES = "times an hour that each worker is lost with its node (default: 0)"
CLOSE = 0.99  # of the best score


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One simulated search."""

    best: float
    steps_to_best: float  # within 1 %; inf if there was none
    steps: int
    seconds: float


def simulate(
    config: StudyConfig,
    workload: Formula | Recorded,
    num_workers: int,
    *,
    shape: Shape = EMBEDDED,
    storage: BaseStorage | None = None,
    losses_per_hour: float = 0.0,
) -> Result:
    """Run the search of a study in virtual time; each worker is lost so many times an hour."""
    world = Simulation(workload, num_workers, losses_per_hour, seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        world.run(open_ledger(config, storage or InMemoryStorage(), Path(folder), shape))
    close = [found.steps for found in world.found if found.score >= CLOSE * workload.best]
    return Result(
        best=max((found.score for found in world.found), default=float("nan")),
        steps_to_best=close[0] if close else float("inf"),
        steps=world.steps,
        seconds=world.seconds,
    )


def open_ledger(
    config: StudyConfig, storage: BaseStorage, folder: Path, shape: Shape, *observers: Any
) -> Ledger:
    """Return the ledger of a search, the control and the known designs in its queue."""
    space, base = SPACES[config.space], config.base
    study = open_study(config, storage)
    priors.queue(study, (priors.CONTROL_KNOWN, *config.first), space, base, shape)
    return Ledger(
        study,
        priors.proposer(space, base, shape),
        num_trials=config.num_trials,
        folder=folder / "search",
        observers=observers,
        **rules(config),
    )


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.simulate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    search = made.add_argument_group("the search")
    search.add_argument("--recorded", type=Path, metavar="FOLDER", help="a finished study")
    search.add_argument("--space", help=f"{', '.join(SPACES)} (default: attention)")
    search.add_argument("--steps", type=int, metavar="N", help="of a trial (default: 64)")
    search.add_argument("--report-every", type=int, metavar="N", help="steps (default: 8)")
    search.add_argument("--trials", type=int, default=100, metavar="N", help="default: 100")
    search.add_argument("--workers", type=int, default=4, metavar="N", help="default: 4")
    search.add_argument("--losses", type=float, default=0.0, metavar="RATE", help=LOSSES)
    compared = made.add_argument_group("what is compared")
    compared.add_argument(
        "--samplers", nargs="+", default=["tpe", "random"], metavar="NAME", help=samplers.HELP
    )
    compared.add_argument(
        "--pruners", nargs="+", default=["halving", "none"], metavar="NAME", help=pruners.HELP
    )
    compared.add_argument("--startup", type=int, default=6, metavar="N", help="default: 6")
    compared.add_argument("--first-rung", type=int, metavar="STEPS", help="default: a report")
    compared.add_argument("--eta", type=int, default=3, metavar="N", help="default: 3")
    compared.add_argument(
        "--first", nargs="+", default=[], metavar="FILE.json|PRESET", help="designs to try first"
    )
    compared.add_argument("--seeds", type=int, default=6, metavar="N", help="default: 6")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    given = parser().parse_args(argv)
    quiet()
    try:
        arms, workload, shape = setting(given)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    first = arms[0]
    _say(
        f"space {first.space}, {workload.num_designs} designs, the best {workload.best:.3f}; "
        f"{first.num_trials} trials of {first.base.training.steps} steps on {given.workers} "
        f"workers, {given.seeds} seeds"
    )
    _say(row("sampler", "pruner", "best", "to 1 %", "steps", "makespan (min)"))
    for arm in arms:
        seeded = [dataclasses.replace(arm, seed=seed) for seed in range(given.seeds)]
        more: Any = {"shape": shape, "losses_per_hour": given.losses}
        results = [simulate(each, workload, given.workers, **more) for each in seeded]
        _say(
            row(
                arm.sampler,
                arm.pruner,
                spread([r.best for r in results]).text(".3f"),
                spread([r.steps_to_best for r in results]).text(",.0f"),
                spread([r.steps for r in results]).text(",.0f"),
                spread([r.seconds / 60 for r in results]).text(",.1f"),
            )
        )
    return 0


def setting(
    given: argparse.Namespace,
) -> tuple[list[StudyConfig], Formula | Recorded, Shape]:
    """Return what is compared and on what.

    Raises:
        ConfigError: With every fault of the command line.
    """
    is_recorded = given.recorded is not None
    own = {"space": given.space, "steps": given.steps, "report-every": given.report_every}
    check(
        {
            "workers": whole(given.workers, at_least=1),
            "losses": number(given.losses, at_least=0),
            "seeds": whole(given.seeds, at_least=1),
        }
        | {name: one_of(v, tuple(SPACES)) for name, v in own.items() if name == "space" and v}
        | {
            name: "the recorded study has its own; leave it out"
            for name, value in own.items()
            if is_recorded and value is not None
        }
    )
    usual, workload, shape = recorded(given.recorded) if is_recorded else _formula(given)
    arms = [
        dataclasses.replace(
            usual,
            sampler=sampler,
            pruner=pruner,
            num_trials=given.trials,
            num_startup=given.startup,
            first_rung=given.first_rung,
            factor=given.eta,
            first=tuple(known for each in given.first for known in known_designs(each)),
        )
        for sampler in given.samplers
        for pruner in given.pruners
    ]
    if given.first:
        priors.check_known(arms[0].first, usual.base, shape)
    return arms, workload, shape


def recorded(folder: Path) -> tuple[StudyConfig, Recorded, Shape]:
    """Return a search of a finished study's space, its trials, and its decoder's shape.

    Raises:
        ConfigError: If no trial of the search there was completed.
    """
    from trainables import designs

    workload = Recorded(folder)
    kept = json.loads((folder / "study.json").read_text())
    base = overlay(TrialConfig(), flatten(kept["base"]))
    usual = StudyConfig(name="simulated", space=kept["space"], base=base)
    return usual, workload, designs.shape(base.backbone)


def _formula(given: argparse.Namespace) -> tuple[StudyConfig, Formula, Shape]:
    steps = {
        "training.steps": 64 if given.steps is None else given.steps,
        "training.report_every": 8 if given.report_every is None else given.report_every,
    }
    base = overlay(TrialConfig(), steps)
    usual = StudyConfig(name="simulated", space=given.space or "attention", base=base)
    return usual, Formula(SPACES[usual.space], base, EMBEDDED), EMBEDDED


def row(*cells: str) -> str:
    """Return a line of the table."""
    widths = (9, 12, 24, 26, 26, 26)
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def quiet() -> None:
    """Keep Optuna's chatter off the console."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", module="optuna")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
