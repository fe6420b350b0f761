"""The search engine: its overhead for each trial, its pace in virtual time, what it saves.

On the formula over all designs of a real space, without training a model; or what it saves on the
curves of a study that `record` has made:

    python -m tests.benchmarks.engine --recorded outputs/recorded
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cluster.settings import StudyConfig
from cluster.simulation.intervals import spread
from cluster.simulation.searches import quiet, recorded, simulate
from cluster.simulation.workloads import Formula, Recorded
from cluster.study.storage import journal
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.overlay import as_dict, flatten, overlay
from trainables.shape import EMBEDDED, Shape

NUM_TRIALS = 1000
REPORTS = 8
SEEDS = 50
AT_RANDOM, MODELLED = 300, 80  # trials of the searches that are compared
BASE = overlay(TrialConfig(), {"training.steps": 64, "training.report_every": 64 // REPORTS})


def run(device: str) -> Iterator[str]:
    """Yield the lines of the table."""
    with warnings.catch_warnings():
        quiet()
        yield from _pace()
        formula = Formula(SPACES["attention"], BASE, EMBEDDED)
        yield from _saved(StudyConfig(space="attention", base=BASE), formula, EMBEDDED)


def _pace() -> Iterator[str]:
    """Time 1,000 trials through the ledger, beside Optuna's own ask and tell."""
    formula = Formula(SPACES["joint"], BASE, EMBEDDED)
    config = StudyConfig(name="b", space="joint", base=BASE, num_trials=NUM_TRIALS, pruner="none")
    rungs = overlay(BASE, {"training.steps": 256, "training.report_every": 1})  # 1, 2, … 128
    halving = replace(config, pruner="halving", factor=2, base=rungs)
    tall = Formula(SPACES["joint"], rungs, EMBEDDED)
    with tempfile.TemporaryDirectory() as folder:
        file = journal(Path(folder))
        kept = JournalStorage(JournalFileBackend(f"{folder}/theirs.journal"))
        yield _line(
            f"ledger, {REPORTS} reports a trial, journal",
            lambda: simulate(config, formula, 8, storage=file),
        )
        yield _line(
            "Optuna's TPE: ask + tell, memory", lambda: _ask(formula, InMemoryStorage(), 0)
        )
        yield _line(
            "Optuna's TPE: ask + reports + tell, journal", lambda: _ask(formula, kept, REPORTS)
        )
    yield _line("simulated halving, 8 rungs, 8 workers", lambda: simulate(halving, tall, 8))


def _line(name: str, work: Callable[[], object]) -> str:
    start, busy = time.perf_counter(), time.process_time()
    work()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    each, alone = 1e3 * seconds / NUM_TRIALS, 1e3 * busy / NUM_TRIALS
    pace = f"{seconds:6.1f} s, {each:5.1f} ms each ({alone:.1f} of CPU)"
    return f"{name:45} {NUM_TRIALS} trials: {pace}"


def _ask(formula: Formula, storage: BaseStorage, reports: int) -> None:
    """Let Optuna alone search the same space with the same sampler."""
    sampler = optuna.samplers.TPESampler(
        seed=0, multivariate=True, group=True, constant_liar=True, n_startup_trials=6
    )
    study = optuna.create_study(storage=storage, sampler=sampler, direction="maximize")
    usual = flatten(as_dict(BASE))
    for _ in range(NUM_TRIALS):
        trial = study.ask()
        design = SPACES["joint"](trial, BASE, EMBEDDED)
        for step in range(reports):
            trial.report(0.5, step)
        study.tell(trial, formula.score(usual | design), state=TrialState.COMPLETE)


def _saved(given: StudyConfig, workload: Formula | Recorded, shape: Shape) -> Iterator[str]:
    """Count the steps until a design within 1 % of the best of all is trained to the end."""
    usual = replace(given, sampler="random", pruner="none")
    arms = {
        "random, full budget": replace(usual, num_trials=AT_RANDOM),
        "TPE, percentile (the default)": replace(
            usual, num_trials=MODELLED, sampler="tpe", pruner="percentile"
        ),
        "TPE, halving": replace(usual, num_trials=MODELLED, sampler="tpe", pruner="halving"),
    }
    yield (
        f"steps to within 1 % of the best of {workload.num_designs} designs, 4 workers, "
        f"median of {SEEDS} seeds [95 % interval]"
    )
    first = None
    for name, arm in arms.items():
        seeded = (replace(arm, seed=seed) for seed in range(SEEDS))
        found = spread([simulate(each, workload, 4, shape=shape).steps_to_best for each in seeded])
        first = first or found.middle
        yield f"{name:34} {found.text(',.0f'):>26}  {found.middle / first:5.2f} of random's"


def main() -> None:
    """Print what is saved on a recorded study."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--recorded", type=Path, required=True, metavar="FOLDER")
    with warnings.catch_warnings():
        quiet()
        for line in _saved(*recorded(parser.parse_args().recorded)):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
