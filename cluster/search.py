"""The main job: search a space, confirm the best designs, report the verdict.

Or run the space as a factorial: its cells with the same seeds, each against the control.

Interrupt it whenever you like: the same command continues where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.arguments import no_file, set_fault, settings, value
from cluster.command_line import ended, parse, parser, say
from cluster.dispatch.losses import Patience
from cluster.dispatch.slots import CONFIRM_UNDER
from cluster.observers.bill import Budget
from trainables.faults import number, one_of, whole_or_none

if TYPE_CHECKING:
    from cluster.preflight.surroundings import Place


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments, unknown = parse(parser(__doc__), argv)
    return ended(lambda: _run(arguments, unknown))


def _run(arguments: argparse.Namespace, unknown: dict[str, str | None]) -> int:
    from cluster.run import describe, prepare, run_study

    place, checks = place_of(arguments)
    config, forecast = prepare(*settings(arguments), unknown | checks, place, log=say)
    if arguments.dry_run:
        for line in [*describe(config, forecast), "All checks passed; nothing was started."]:
            say(line)
        return 0
    from cluster.preflight.plan import summary

    say(summary(forecast))
    then = not arguments.search_only
    return 0 if run_study(config, place, log=say, confirm=then) or not then else 1


def place_of(arguments: argparse.Namespace) -> tuple[Place, dict[str, str | None]]:
    """Return where a study is to run, as far as that is fine, and the faults of these options."""
    from cluster.preflight.surroundings import Place
    from cluster.submission.checks import job_fault

    at_once, gpus = value(arguments.at_once), value(arguments.gpus_per_worker)
    losses, hang = value(arguments.max_losses), value(arguments.hang_timeout)
    hours, price = value(arguments.budget_gpu_hours), value(arguments.gpu_hour_price)
    under = arguments.confirm_under
    checks = {
        "gpus-per-worker": None if gpus is None else number(gpus, above=0, at_most=1),
        "at-once": whole_or_none(at_once, at_least=1),
        "confirm-under": one_of(under, CONFIRM_UNDER),
        "budget-gpu-hours": None if hours is None else number(hours, above=0),
        "gpu-hour-price": None if price is None else number(price, at_least=0),
        "max-losses": whole_or_none(losses, at_least=1),
        "hang-timeout": None if hang is None else number(hang, at_least=1),
        "deepspeed": no_file(arguments.deepspeed),
        "outputs of a job": job_fault(arguments.outputs),
        "set": set_fault(arguments.set),
    }
    place = Place(
        outputs=arguments.outputs.resolve(),
        address=arguments.address,
        at_once=None if checks["at-once"] else at_once,
        gpus_per_worker=None if checks["gpus-per-worker"] else gpus,
        confirm_under=under,
        budget=Budget(hours=hours, price=price),
        patience=Patience(losses=losses or Patience().losses, hang_timeout_s=hang),
    )
    return place, checks


if __name__ == "__main__":
    sys.exit(main())
