"""From a free slot to the next trial's first optimiser step, on the embedded model.

The peers run designs of the same space one after the other: in a Tune function, which imports and
loads; and in one that starts a Ray Train run. A slot is free when the driver hears a trial's last
word; the step begins when a worker has its batch in hand. What the driver does between the two
(the results table, MLflow, the next proposal) is in our number and not in theirs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from trainables import assets
from trainables.config import EMBEDDED_MODEL, BackboneConfig, TrialConfig
from trainables.overlay import as_dict, from_dict, overlay
from trainables.ray_trainable import TrialGroup, TrialWorker

NUM_PEERS = 3  # trials of a peer; of ours there are all the designs
MARKS = "steps.jsonl"
NUM_OURS = 9


def run(device: str) -> Iterator[str]:
    """Yield a line for each number of workers and way to run trials."""
    from cluster.dispatch.tune import ray_cluster

    assets.prepare(lambda line: None)
    with tempfile.TemporaryDirectory() as name, ray_cluster(None):
        for num_workers in (1, 2):
            folder = Path(name) / str(num_workers)
            ours = _warm_groups(folder / "ours", num_workers)
            yield _line("warm worker group", num_workers, ours[0])
            yield _line("  of it until the trial's worker begins", num_workers, ours[1])
            if num_workers == 1:
                yield _line("Tune function", 1, _peer(folder / "function", _fresh, num_workers))
            train = _peer(folder / "train", _under_train, num_workers)
            yield _line("Tune function, Ray Train run", num_workers, train)


def _line(name: str, num_workers: int, seconds: list[float]) -> str:
    workers = f"{num_workers} worker" + "s" * (num_workers > 1)
    return (
        f"free slot to first step, {workers:9} {name:38} {median(seconds):6.2f} s  "
        f"({min(seconds):.2f}-{max(seconds):.2f}, {len(seconds)} trials)"
    )


def _designs(number: int, num_workers: int) -> list[dict[str, Any]]:
    """Return random designs of the joint space, the control first."""
    import optuna

    from search_spaces.drawing import CONTROL
    from search_spaces.spaces import SPACES
    from trainables import designs

    base = _config({}, num_workers)
    shape = designs.shape(base.backbone)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SPACES["joint"](study.ask(), base, shape) for _ in range(number - 1)]
    return [dict(CONTROL), *drawn]


def _config(design: dict[str, Any], num_workers: int) -> TrialConfig:
    base = TrialConfig(backbone=BackboneConfig(model=EMBEDDED_MODEL, num_layers=6))
    steps = {"training.steps": 2, "training.report_every": 1, "training.warmup_steps": 0}
    return overlay(base, {**design, **steps, "engine.num_workers": num_workers})


def mark_first_steps() -> None:
    """Have this process write into a trial's folder when it takes a step."""
    from trainables.trainer import Trainer

    class Marking(Trainer):
        def _train_step(self, step: int) -> float:
            with (self.session.folder / MARKS).open("a") as file:
                file.write(f"{time.time()}\n")
            return super()._train_step(step)

    trial = sys.modules["trainables.trial"]
    vars(trial)["Trainer"] = Marking


class MarkingWorker(TrialWorker):
    """A worker that marks its steps."""

    def __init__(self, rank: int, world_size: int, num_threads: int) -> None:
        super().__init__(rank, world_size, num_threads)
        mark_first_steps()


class MarkingGroup(TrialGroup):
    """A group of such workers."""

    worker = MarkingWorker


class Ends:
    """An observer that notes when trials end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def started(self, trial: Any) -> None:
        pass

    def reported(self, trial: Any, report: dict[str, float]) -> None:
        pass

    def paused(self, trial: Any) -> None:
        pass

    def ended(self, trial: Any, ending: Any) -> None:
        self.times.append(time.time())


def _waits(ends: list[float], folders: list[Path]) -> list[float]:
    """Return the seconds from each trial's end to the first step of the next."""
    first = [float((folder / MARKS).read_text().splitlines()[0]) for folder in folders]
    return [step - end for end, step in zip(ends, first[1:], strict=False)]


def _warm_groups(folder: Path, num_workers: int) -> tuple[list[float], list[float]]:
    """Run our trials, each stopped at its first report; return waits and parts of them."""
    import optuna

    from cluster.dispatch.tune import run_trials, slots
    from cluster.observers.results import ResultsTable
    from cluster.observers.tracking import Tracker
    from cluster.study.ledger import Ledger
    from cluster.study.trials import Proposal
    from tests.cluster.formula import StopAll

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True)

    designs = _designs(NUM_OURS, num_workers)

    def propose(trial: optuna.Trial) -> Proposal:
        params = designs[trial.suggest_int("number", 0, NUM_OURS - 1)]
        return Proposal(config=_config(params, num_workers), params=params, role="search")

    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", direction="maximize", pruner=StopAll()
    )
    for number in range(NUM_OURS):
        study.enqueue_trial({"number": number})
    ends = Ends()
    observers: list[Any] = [ends, ResultsTable("dispatch", folder), Tracker("s", folder, {})]
    ledger = Ledger(
        study, propose, num_trials=NUM_OURS, folder=folder / "search", observers=observers
    )
    placed = slots(_config({}, num_workers), 1)
    run_trials(ledger, slots=placed, folder=folder / "ray", trainable=MarkingGroup)
    folders = sorted((folder / "search").iterdir())
    begun = [(each / "config.json").stat().st_mtime for each in folders[1:]]
    outside = [begin - end for end, begin in zip(ends.times, begun, strict=False)]
    return _waits(ends.times, folders), outside


def _peer(folder: Path, function: Any, num_workers: int) -> list[float]:
    """Run trials in a Tune function, each to its first step."""
    from ray import tune

    class Completions(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ends.append(time.time())

    ends: list[float] = []
    designs = _designs(NUM_PEERS, num_workers)
    trials: list[dict[str, Any]] = [
        {"trial": as_dict(_config(design, num_workers)), "folder": str(folder / str(number))}
        for number, design in enumerate(designs)
    ]
    cpus = 1 if function is _fresh else 0.01
    tune.Tuner(
        tune.with_resources(function, {"CPU": cpus}),
        param_space={"given": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"), verbose=0, callbacks=[Completions()]
        ),
    ).fit()
    return _waits(ends, [Path(each["folder"]) for each in trials])


def _to_first_report(given: dict[str, Any], rank: int) -> None:
    from trainables import trial

    mark_first_steps()
    session = trial.Session(rank=rank, folder=Path(given["folder"]))
    next(iter(trial.run(from_dict(given["trial"]), session)))


def _fresh(config: dict[str, Any]) -> None:
    """Import, load and train in the trial's own process."""
    import torch
    from ray import tune

    from trainables import engine

    torch.set_num_threads(1)
    engine.join_process_group(0, 1, f"127.0.0.1:{_free_port()}")
    _to_first_report(config["given"], 0)
    tune.report({"done": 1})


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _under_train(config: dict[str, Any]) -> None:
    """Start a Ray Train run for the trial."""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer

    given = config["given"]
    num_workers = given["trial"]["engine"]["num_workers"]
    TorchTrainer(
        _train_loop,
        train_loop_config=given,
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            resources_per_worker={"CPU": 0.9},  # on two CPUs the Tune function takes its share
        ),
        run_config=ray.train.RunConfig(name="run", storage_path=given["folder"]),
        torch_config=TorchConfig(backend="gloo"),
    ).fit()
    tune.report({"done": 1})


def _train_loop(config: dict[str, Any]) -> None:
    import ray.train
    import torch

    from trainables import engine

    torch.set_num_threads(1)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    engine.join_process_group(rank, size, "")
    _to_first_report(config, rank)
    ray.train.report({"done": 1})
