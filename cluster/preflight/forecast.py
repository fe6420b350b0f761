"""What a study will take: trials, memory, time, disk; and when it will have ended.

Some designs of the space are built without memory for them and counted; the rest is arithmetic
with this machine's own pace of matrix products, measured now. Training's texts are counted in some
steps, and no trial is taken to be stopped early, so a study mostly ends sooner. Memory is that of
texts as long as they may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cluster.acts import confirm
from cluster.dispatch.slots import Node
from cluster.observers.tracking import tracking_uri
from cluster.preflight.folders import free_bytes
from cluster.preflight.surroundings import Place, nodes, placed
from cluster.settings import StudyConfig
from search_spaces.drawing import CONTROL, Overlay
from trainables import suites
from trainables.config import EMBEDDED_TASKS, Split, TrialConfig
from trainables.cost import Cost, count_cost
from trainables.estimate import EFFICIENCY, Estimate, estimate, matrix_rate, num_threads
from trainables.overlay import overlay
from trainables.shape import Shape

BUILT = 6  # designs that are built and counted
STARTUP_S = 25.0  # of the workers of an act: imports, process group, the first model
TRIAL_S = 3.0  # of each trial: building, probing, reading the tasks, fitting the classifiers
BYTES_KEPT = 4.0  # of a trained weight in a finished trial's folder, and again in MLflow's
BYTES_CHECKPOINT = 16.0  # of a trained weight, with AdamW's state, in a checkpoint
CHARACTERS = 4  # of a token of English
ITEMS_BYTES = 1e6  # of a trial's items and rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What one trial of a design needs."""

    config: TrialConfig
    needed: Estimate
    cost: Cost


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """Trials that run one after the other or at once."""

    name: str
    num_trained: int
    num_untrained: int
    split: Split

    @property
    def num_trials(self) -> int:
        """How many trials there are."""
        return self.num_trained + self.num_untrained


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a study will take of the machines that it runs on."""

    acts: tuple[Act, ...]
    demands: tuple[Demand, ...]  # of some designs, the control first
    place: Place
    nodes: tuple[Node, ...]
    at_once: int
    threads: int  # of each worker
    act_seconds: tuple[float, ...]
    rate: float  # this machine's operations per second
    disk_bytes: float
    free_bytes: int
    uncounted: tuple[str, ...]  # tasks whose texts nobody has counted
    filled: float = 1.0  # the part of the tokens that they may have, which training texts have

    @property
    def gpus_each(self) -> float:
        """The GPUs of a worker, where there are any."""
        return self.place.gpus_per_worker or 1

    @property
    def seconds(self) -> float:
        """The time from start to end."""
        return sum(self.act_seconds)

    @property
    def largest(self) -> Demand:
        """The design that needs most memory."""
        return max(self.demands, key=lambda demand: demand.needed.total_bytes)


def forecast(
    config: StudyConfig,
    acts: Sequence[Act],
    drawn: Sequence[Overlay],
    shape: Shape,
    place: Place,
    filled: float = 1.0,
) -> Forecast:
    """Return what a study of designs such as those drawn will take.

    Raises:
        ConfigError: If no cluster answers, or it cannot place a single trial.
    """
    machines = nodes(place.address, place.shares_gpus)
    workers = config.base.engine.num_workers
    at_once, threads = placed(machines, workers, place)
    rate = matrix_rate(config.base.engine.precision)
    demands = tuple(_demand(config.base, params, rate) for params in _some(drawn, shape))
    on_gpus = any(node.gpus for node in machines)
    slowness = 1.0 if on_gpus else num_threads() / threads  # a worker's, against the rate
    training = filled * fmean(_training_seconds(demand, rate) for demand in demands)
    found = [_act_seconds(act, demands, rate, slowness, at_once, training) for act in acts]
    tasks = suites.expand(config.base.evaluation.tasks)
    return Forecast(
        acts=tuple(acts),
        demands=demands,
        place=place,
        nodes=machines,
        at_once=at_once,
        threads=threads,
        act_seconds=tuple(found),
        rate=rate,
        disk_bytes=_disk_bytes(acts, demands, at_once, place),
        free_bytes=free_bytes(place.outputs),
        uncounted=tuple(task for task in tasks if task not in EMBEDDED_TASKS),
        filled=filled,
    )


def acts_of_search(config: StudyConfig, num_designs: int | None = None) -> tuple[Act, ...]:
    """Return the acts of a search that stops nothing early, of at most `num_designs`."""
    num_trials = min(config.num_trials, num_designs or config.num_trials)
    finalists = num_finalists(config, num_trials)
    return (
        Act(name="search", num_trained=num_trials, num_untrained=0, split="choosing"),
        Act(
            name="confirm",
            num_trained=(1 + finalists) * config.num_seeds,
            num_untrained=len(confirm.UNTRAINED) + finalists,
            split="confirming",
        ),
    )


def num_finalists(config: StudyConfig, num_trials: int) -> int:
    """Return how many designs are confirmed at the most: the control is one of the trials."""
    return min(config.num_finalists, num_trials - 1)


def _some(drawn: Sequence[Overlay], shape: Shape) -> list[Overlay]:
    """Return the control, the widest of the designs and others evenly spread."""
    widest = max(drawn, key=lambda params: _width(params, shape))
    step = max(1, len(drawn) // (BUILT - 2))
    return [dict(CONTROL), widest, *drawn[::step][: BUILT - 2]]


def _width(params: Overlay, shape: Shape) -> float:
    """Return what a head's parameters grow with."""
    width = params.get("pooling.hidden_size") or shape.width
    heads = params.get("pooling.num_heads", 0) * params.get("pooling.head_size", 0)
    return float(width * heads + width * params.get("pooling.num_latents", 0))


def _demand(base: TrialConfig, params: Overlay, rate: float) -> Demand:
    config = overlay(base, params)
    return Demand(config=config, needed=estimate(config, rate), cost=count_cost(config))


def _act_seconds(
    act: Act,
    demands: Sequence[Demand],
    rate: float,
    slowness: float,
    at_once: int,
    training: float,
) -> float:
    """Return the time of an act: each trial trains and is scored, so many at once."""
    scoring = fmean(_scoring_seconds(demand, act.split, rate) for demand in demands)
    trials = act.num_trials
    work = trials * scoring + act.num_trained * training
    return STARTUP_S + (work * slowness + trials * TRIAL_S) / min(at_once, max(trials, 1))


def _scoring_seconds(demand: Demand, split: Split, rate: float) -> float:
    """Return the time of encoding the embedded tasks' texts once; a token has some characters."""
    from trainables.embedded import scored_texts

    evaluation = demand.config.evaluation
    known = [task for task, _ in suites.parts(evaluation.tasks, split) if task in EMBEDDED_TASKS]
    texts = (text for task in known for text in scored_texts(task, split))
    tokens = sum(min(len(text) / CHARACTERS + 1, evaluation.max_tokens) for text in texts)
    return tokens * demand.cost.flops_per_token / (EFFICIENCY * rate)


def _training_seconds(demand: Demand, rate: float) -> float:
    """Return the time of the trainings of a trial whose texts are as long as they may be."""
    return demand.needed.seconds + _adaptation_seconds(demand, rate)


def _adaptation_seconds(demand: Demand, rate: float) -> float:
    """Return the time of a warm-up, without the language model's head."""
    given, training = demand.config.adaptation, demand.config.training
    if given.kind == "none":
        return 0.0
    tokens = given.steps * given.batch_size * training.max_passage_tokens
    workers = demand.config.engine.num_workers
    return 3 * tokens * demand.cost.flops_per_token / (EFFICIENCY * rate) / workers


def _disk_bytes(
    acts: Sequence[Act], demands: Sequence[Demand], at_once: int, place: Place
) -> float:
    """Return what the trials leave behind, and two checkpoints of each that runs at once."""
    trained = [demand.cost.trainable_parameters for demand in demands]
    copies = 2 if tracking_uri(place.outputs).startswith("sqlite") else 1
    num = sum(act.num_trials for act in acts)
    kept = num * copies * (BYTES_KEPT * fmean(trained) + ITEMS_BYTES)
    return kept + at_once * 2 * BYTES_CHECKPOINT * max(trained)
