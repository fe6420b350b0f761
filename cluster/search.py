"""The main job: search a space, confirm the best designs, report the verdict.

Or run the space as a factorial: its cells with the same seeds, each against the control.

Interrupt it whenever you like: the same command continues where it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cluster.command_line import no_file, parser, settings, value
from cluster.dispatch.slots import CONFIRM_UNDER, ClusterLostError
from cluster.settings import check_kept
from trainables.assets import AssetError
from trainables.config import ConfigError
from trainables.faults import number, one_of, whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    arguments = parser(__doc__).parse_args(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from cluster.preflight.plan import summary
        from cluster.preflight.surroundings import Place
        from cluster.run import describe, opened_elsewhere, prepare, run_study
        from cluster.submission.checks import job_fault

        at_once, outputs = value(arguments.at_once), arguments.outputs.resolve()
        gpus = value(arguments.gpus_per_worker)
        checks = {
            "gpus-per-worker": None if gpus is None else number(gpus, above=0, at_most=1),
            "at-once": None if at_once is None else whole(at_once, at_least=1),
            "confirm-under": one_of(arguments.confirm_under, CONFIRM_UNDER),
            "deepspeed": no_file(arguments.deepspeed),
            "outputs of a job": job_fault(arguments.outputs),
        }
        place = Place(
            outputs=outputs,
            address=arguments.address,
            at_once=None if checks["at-once"] else at_once,
            gpus_per_worker=None if checks["gpus-per-worker"] else gpus,
            confirm_under=arguments.confirm_under,
        )
        config, forecast = prepare(*settings(arguments), checks, place, log=_say)
        if arguments.dry_run:
            check_kept(config, outputs / config.name)
            opened_elsewhere(config, outputs)
            for line in [*describe(config, forecast), "All checks passed; nothing was started."]:
                _say(line)
            return 0
        _say(summary(forecast))
        confirmed = run_study(config, place, log=_say)
    except (ConfigError, AssetError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ClusterLostError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. The same command continues where this left off.\n")
        return 130
    return 0 if confirmed else 1


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
