"""Make the recorded study that the benchmark `engine` can take: short real trials, none stopped.

    python -m tests.benchmarks.record outputs/recorded
    python -m tests.benchmarks.engine --recorded outputs/recorded

Designs are drawn at random, and each is trained and scored in this process, one after the other;
the same command goes on where it was interrupted. Some 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cluster.observers.results import ResultsTable
from cluster.settings import StudyConfig, write_once
from cluster.simulation.searches import open_ledger, quiet
from cluster.study.ledger import Ledger
from cluster.study.storage import journal
from cluster.study.trials import Assignment
from trainables import assets, designs, engine, trial
from trainables.config import ConfigError, TrialConfig
from trainables.overlay import overlay
from trainables.warm import Warm

SHORT = {
    "backbone.num_layers": 3,
    "training.steps": 24,
    "training.report_every": 3,
    "training.batch_size": 8,
    "training.max_query_tokens": 16,
    "training.max_passage_tokens": 32,
    "evaluation.max_tokens": 32,
    "evaluation.tasks": ("Lee50STS", "BoolQRetrieval"),
    "adaptation.steps": 8,
    "adaptation.batch_size": 8,
    "lora.rank": 8,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Record a study."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--space", default="attention", help="default: attention")
    parser.add_argument("--designs", type=int, default=80, metavar="N", help="default: 80")
    given = parser.parse_args(argv)
    quiet()
    assets.prepare(_say)
    config = StudyConfig(
        name="recorded",
        space=given.space,
        sampler="random",
        pruner="none",
        num_trials=given.designs,
        base=overlay(TrialConfig(), SHORT),
    )
    write_once(config, given.folder)
    table = ResultsTable(config.name, given.folder / "results")
    shape = designs.shape(config.base.backbone)
    ledger = open_ledger(config, journal(given.folder), given.folder, shape, table)
    engine.join_process_group(0, 1, "127.0.0.1:0")
    kept = Warm()
    while (assignment := ledger.next_trial()) is not None:
        _train(ledger, assignment, kept)
        _say(f"{assignment.name} {assignment.label}")


def _train(ledger: Ledger, assignment: Assignment, kept: Warm) -> None:
    """Run a trial to its end and tell the ledger."""
    session = trial.Session(rank=0, folder=assignment.folder, warm=kept)
    try:
        for event in trial.run(assignment.config, session):
            if isinstance(event, trial.Report):
                ledger.report(assignment.number, asdict(event))
            else:
                ledger.complete(assignment.number, asdict(event))
    except (ConfigError, trial.TrainingError) as error:
        ledger.fail(assignment.number, f"{type(error).__name__}: {error}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
