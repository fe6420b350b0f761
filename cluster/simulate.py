"""Try samplers and pruners in virtual time, before a search costs anything.

The ledger and the adapters are those of a search; only the trials are played: by a formula over
all designs of a space, of which the best is known, or by the curves of a search that has ended.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.arguments import FLAGS, known_designs, value, with_flags
from cluster.command_line import ETA, FIRST_RUNG, STARTUP, parse, say
from cluster.preflight.faults import Faults
from cluster.preflight.unread import unread_by
from cluster.settings import StudyConfig
from cluster.simulation.intervals import spread
from cluster.simulation.searches import quiet, recorded, simulate
from cluster.simulation.workloads import Formula, Recorded
from cluster.study import priors, pruners, samplers
from search_spaces.spaces import SPACES
from trainables.config import ConfigError, TrialConfig
from trainables.faults import check, number, one_of, whole
from trainables.overlay import overlay
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
OWN_FLAGS = FLAGS | {
    **{name: f"--{name}" for name in ("recorded", "steps", "report-every", "losses")},
    "sampler": "--samplers",
    "pruner": "--pruners",
    "training.steps": "--steps",
    "training.report_every": "--report-every",
    "workers": "--workers",
    "seeds": "--seeds",
}


def parser() -> argparse.ArgumentParser:
    """Return the command line's definition."""
    made = argparse.ArgumentParser(
        prog="python -m cluster.simulate",
        usage="%(prog)s [options]",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    search = made.add_argument_group("the search")
    recorded = "a finished study's folder, whose curves are played instead of the formula's"
    search.add_argument("--recorded", type=Path, metavar="FOLDER", help=recorded)
    search.add_argument("--space", help=f"{', '.join(SPACES)} (default: attention)")
    search.add_argument("--steps", metavar="N", help="of a trial (default: 64)")
    search.add_argument("--report-every", metavar="N", help="steps (default: 8)")
    search.add_argument("--trials", default="100", metavar="N", help="default: 100")
    search.add_argument("--workers", default="4", metavar="N", help="default: 4")
    search.add_argument("--losses", default="0", metavar="RATE", help=LOSSES)
    compared = made.add_argument_group("what is compared")
    compared.add_argument(
        "--samplers", nargs="+", default=["tpe", "random"], metavar="NAME", help=samplers.HELP
    )
    compared.add_argument(
        "--pruners", nargs="+", default=["halving", "none"], metavar="NAME", help=pruners.HELP
    )
    compared.add_argument("--startup", metavar="N", help=STARTUP)
    compared.add_argument("--first-rung", metavar="STEPS", help=FIRST_RUNG)
    compared.add_argument("--eta", metavar="N", help=ETA)
    compared.add_argument(
        "--first", nargs="+", default=[], metavar="FILE.json|PRESET", help="designs to try first"
    )
    compared.add_argument("--seeds", default="6", metavar="N", help="default: 6")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    given, unknown = parse(parser(), argv)
    quiet()
    try:
        arms, workload, shape = setting(given, unknown)
    except ConfigError as error:
        sys.stderr.write(f"{with_flags(str(error), OWN_FLAGS)}\n")
        return 2
    first, num_seeds, num_workers = arms[0], int(given.seeds), int(given.workers)
    losses = float(given.losses)
    say(
        f"space {first.space}, {workload.num_designs} designs, the best {workload.best:.3f}; "
        f"{first.num_trials} trials of {first.base.training.steps} steps on {num_workers} "
        f"workers, {num_seeds} seeds"
    )
    say(row("sampler", "pruner", "best", "to 1 %", "steps", "makespan (min)"))
    for arm in arms:
        seeded = [dataclasses.replace(arm, seed=seed) for seed in range(num_seeds)]
        more: Any = {"shape": shape, "losses_per_hour": losses}
        results = [simulate(each, workload, num_workers, **more) for each in seeded]
        say(
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
    given: argparse.Namespace, unknown: Mapping[str, str | None]
) -> tuple[list[StudyConfig], Formula | Recorded, Shape]:
    """Return what is compared and on what.

    Raises:
        ConfigError: With every fault of the command line.
    """
    faults = Faults()
    faults.during(lambda: check({**unknown, **_own_faults(given)}))
    found = faults.during(lambda: recorded(given.recorded) if given.recorded else _formula(given))
    arms = faults.during(lambda: _arms(given, found[0] if found else StudyConfig()))
    if found and arms:
        faults.during(lambda: priors.check_known(arms[0].first, arms[0].base, found[2]))
    faults.refuse()
    assert found is not None
    assert arms is not None
    return arms, found[1], found[2]


def _own_faults(given: argparse.Namespace) -> dict[str, str | None]:
    """Return the faults of what is no field of a study, and of what nothing would read."""
    own = {"space": given.space, "steps": given.steps, "report-every": given.report_every}
    faults = {
        name: whole(value(getattr(given, name)), at_least=1) for name in ("workers", "seeds")
    }
    faults["losses"] = number(value(given.losses), at_least=0)
    if given.recorded:
        theirs = "the recorded study has its own; leave it out"
        faults |= {name: theirs for name, value in own.items() if value is not None}
    read = {
        "num_startup": given.startup,
        "first_rung": given.first_rung,
        "factor": given.eta,
    }
    names = {name for name, value in read.items() if value is not None}
    return faults | unread_by(names, given.samplers, given.pruners)


def _arms(given: argparse.Namespace, usual: StudyConfig) -> list[StudyConfig]:
    """Return a study for each pair of a sampler and a pruner."""
    faults = Faults()
    eta = pruners.FACTOR if given.eta is None else value(given.eta)
    found = [
        faults.during(
            partial(
                dataclasses.replace,
                usual,
                sampler=sampler,
                pruner=pruner,
                num_trials=value(given.trials),
                num_startup=value(given.startup),
                first_rung=value(given.first_rung),
                factor=eta,
                first=tuple(known for each in given.first for known in known_designs(each)),
            )
        )
        for sampler in given.samplers
        for pruner in given.pruners
    ]
    faults.refuse()
    return [arm for arm in found if arm is not None]


def _formula(given: argparse.Namespace) -> tuple[StudyConfig, Formula, Shape]:
    steps = {
        "training.steps": 64 if given.steps is None else value(given.steps),
        "training.report_every": 8 if given.report_every is None else value(given.report_every),
    }
    faults, space = Faults(), given.space or "attention"
    base = faults.during(lambda: overlay(TrialConfig(), steps))
    faults.during(lambda: check({"space": one_of(space, tuple(SPACES))}))
    faults.refuse()
    assert base is not None
    usual = StudyConfig(name="simulated", space=space, base=base)
    return usual, Formula(SPACES[usual.space], base, EMBEDDED), EMBEDDED


def row(*cells: str) -> str:
    """Return a line of the table."""
    widths = (9, 12, 24, 26, 26, 26)
    return "".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


if __name__ == "__main__":
    sys.exit(main())
