from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cluster.study.ledger import Ledger
from cluster.study.samplers import Reseeded
from cluster.study.trials import Assignment, Ending, Proposal
from search_spaces.spaces import SPACES
from trainables.config import TrialConfig
from trainables.overlay import overlay
from trainables.shape import Shape

BASE = overlay(TrialConfig(), {"training.steps": 8, "training.report_every": 2})


@dataclass
class Witness:
    events: list[tuple[str, int, Any]] = field(default_factory=list)

    def started(self, trial: Assignment) -> None:
        self.events.append(("started", trial.number, trial.params))

    def reported(self, trial: Assignment, report: dict[str, float]) -> None:
        self.events.append(("reported", trial.number, report["step"]))

    def paused(self, trial: Assignment) -> None:
        self.events.append(("paused", trial.number, None))

    def ended(self, trial: Assignment, ending: Ending) -> None:
        self.events.append(("ended", trial.number, ending))


def propose(trial: optuna.Trial) -> Proposal:
    """A space of two masks by two scopes."""
    params = {
        "attention.mask": trial.suggest_categorical("attention.mask", ("causal", "bidirectional")),
        "pooling.token_scope": trial.suggest_categorical(
            "pooling.token_scope", ("last_token", "mean")
        ),
    }
    control = params == {"attention.mask": "causal", "pooling.token_scope": "last_token"}
    role = "control" if control else "search"
    return Proposal(config=overlay(BASE, params), params=params, role=role)


def open_study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=2),
    )


def open_ledger(folder: Path, num_trials: int = 4) -> tuple[Ledger, optuna.Study, Witness]:
    study, witness = open_study(folder), Witness()
    ledger = Ledger(
        study, propose, num_trials=num_trials, folder=folder / "search", observers=[witness]
    )
    return ledger, study, witness


def report(step: int, score: float) -> dict[str, float]:
    return {"step": step, "loss": 1.0, "quick_score": score, "seconds": float(step)}


def outcome(**scores: float) -> dict[str, Any]:
    return {
        "scores": scores,
        "categories": {"a": "STS", "b": "STS", "c": "Retrieval"},
        "failures": {},
        "items": "",
        "cost": {"trainable_parameters": 1},
        "seconds": 1.0,
        "versions": {},
    }


def take(ledger: Ledger) -> Assignment:
    assignment = ledger.next_trial()
    assert assignment is not None
    return assignment


def test_complete_is_told_with_the_mean_over_categories(tmp_path: Path) -> None:
    ledger, study, witness = open_ledger(tmp_path)
    number = take(ledger).number
    ledger.report(number, report(2, 0.3))
    ledger.complete(number, outcome(a=0.2, b=0.4, c=0.9))
    trial = study.trials[number]
    assert trial.state == TrialState.COMPLETE
    assert trial.value == pytest.approx(0.6)
    assert trial.intermediate_values == {2: 0.3}
    ending = witness.events[-1][2]
    assert (ending.status, len(ending.curve)) == ("complete", 1)
    assert ending.score == pytest.approx(0.6)


def test_a_missing_score_fails_the_trial_with_its_reason(tmp_path: Path) -> None:
    ledger, study, witness = open_ledger(tmp_path)
    number = take(ledger).number
    ledger.complete(number, outcome(a=0.2) | {"failures": {"c": "KeyError: no such text"}})
    assert study.trials[number].state == TrialState.FAIL
    assert study.trials[number].value is None
    ending = witness.events[-1][2]
    assert (ending.status, ending.score) == ("failed", None)
    assert ending.reason == "c: KeyError: no such text"


def test_failure_keeps_its_reason_and_no_value(tmp_path: Path) -> None:
    ledger, study, _ = open_ledger(tmp_path)
    number = take(ledger).number
    ledger.fail(number, "TrainingError: loss: expected a finite number, got nan at step 1")
    trial = study.trials[number]
    assert trial.state == TrialState.FAIL
    assert trial.value is None
    assert trial.user_attrs["reason"].startswith("TrainingError")


def test_weak_trials_are_stopped_by_their_own_steps(tmp_path: Path) -> None:
    ledger, study, _ = open_ledger(tmp_path)
    trials = [take(ledger) for _ in range(4)]
    scores = {t.number: 0.9 - 0.2 * t.number for t in trials}
    stopped = {t.number for t in trials if ledger.report(t.number, report(2, scores[t.number]))}
    weak_search = {t.number for t in trials[1:] if t.role == "search" and scores[t.number] < 0.4}
    assert weak_search <= stopped
    for number in stopped:
        ledger.stop(number)
        assert study.trials[number].state == TrialState.PRUNED


def test_the_control_is_never_stopped(tmp_path: Path) -> None:
    ledger, _, _ = open_ledger(tmp_path)
    trials = [take(ledger) for _ in range(4)]
    control = next(t for t in trials if t.role == "control")
    for trial in trials:
        if trial is not control:
            ledger.report(trial.number, report(2, 0.9))
    assert not ledger.report(control.number, report(2, 0.0))


def test_the_last_report_never_stops(tmp_path: Path) -> None:
    ledger, _, _ = open_ledger(tmp_path)
    trials = [take(ledger) for _ in range(4)]
    assert not any(ledger.report(t.number, report(8, -t.number)) for t in trials)


def test_repeated_steps_are_told_once(tmp_path: Path) -> None:
    ledger, study, witness = open_ledger(tmp_path)
    number = take(ledger).number
    ledger.report(number, report(2, 0.3))
    ledger.report(number, report(2, 0.7))
    assert study.trials[number].intermediate_values == {2: 0.3}
    assert [event[0] for event in witness.events] == ["started", "reported"]


def test_no_design_is_trained_twice_and_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    ledger, study, _ = open_ledger(tmp_path, num_trials=10)
    designs = []
    while (trial := ledger.next_trial()) is not None:
        designs.append(tuple(sorted(trial.params.values())))
        ledger.complete(trial.number, outcome(a=0.1, c=0.1))
    assert len(designs) == len(set(designs)) == 4
    assert ledger.num_trials == ledger.num_ended == 4
    assert len(study.trials) == 4


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_a_sampler_that_only_repeats_itself_is_helped_out(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    same = {"attention.mask": "causal", "pooling.token_scope": "mean"}
    study.sampler = optuna.samplers.PartialFixedSampler(same, study.sampler)
    ledger = Ledger(study, propose, num_trials=4, folder=tmp_path / "search", observers=[])
    designs = [tuple(take(ledger).params.values()) for _ in range(4)]
    assert designs[0] == ("causal", "mean")
    assert len(set(designs)) == 4
    assert len(study.trials) == 4  # what was drawn in vain leaves no trace


def test_what_a_dead_driver_left_running_is_handed_out_first(tmp_path: Path) -> None:
    ledger, _, _ = open_ledger(tmp_path)
    left = [take(ledger) for _ in range(2)]
    ledger.report(left[0].number, report(2, 0.3))
    reopened, study, witness = open_ledger(tmp_path)
    again = [take(reopened) for _ in range(2)]
    assert [(t.number, t.config, t.folder) for t in again] == [
        (t.number, t.config, t.folder) for t in left
    ]
    reopened.report(left[0].number, report(2, 0.3))  # replayed from the trial's checkpoint
    reopened.report(left[0].number, report(4, 0.4))
    assert [e[0] for e in witness.events] == ["started", "started", "reported"]
    reopened.complete(left[0].number, outcome(a=0.5, c=0.5))
    assert study.trials[left[0].number].intermediate_values == {2: 0.3, 4: 0.4}
    assert [report["step"] for report in witness.events[-1][2].curve] == [2, 4]
    assert take(reopened).number not in {t.number for t in left}


def test_checkpoints_of_finished_trials_do_not_survive_a_kill(tmp_path: Path) -> None:
    ledger, _, _ = open_ledger(tmp_path)
    done, running = take(ledger), take(ledger)
    ledger.complete(done.number, outcome(a=0.2))
    kept = [trial.folder / "checkpoints" / "latest" for trial in (done, running)]
    for file in kept:  # as if the driver was killed before it removed them
        file.parent.mkdir()
        file.touch()
    open_ledger(tmp_path)
    assert [file.exists() for file in kept] == [False, True]


def test_a_new_trial_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken(trial: optuna.Trial) -> Proposal:
        propose(trial)
        raise RuntimeError("the driver dies")

    study, folder = open_study(tmp_path), tmp_path / "search"
    with pytest.raises(RuntimeError):
        Ledger(study, broken, num_trials=4, folder=folder, observers=[]).next_trial()
    assert not study.trials
    ledger, reopened, _ = open_ledger(tmp_path)
    first = take(ledger)
    assert first.number == 0
    assert reopened.trials[0].user_attrs["params"] == reopened.trials[0].params == first.params


def test_a_queued_trial_that_was_not_decided_still_waits(tmp_path: Path) -> None:
    def broken(trial: optuna.Trial) -> Proposal:
        propose(trial)
        raise RuntimeError("the driver dies")

    study, folder = open_study(tmp_path), tmp_path / "search"
    queued = {"attention.mask": "bidirectional", "pooling.token_scope": "mean"}
    study.enqueue_trial(queued, user_attrs={"mark": True})
    with pytest.raises(RuntimeError):
        Ledger(study, broken, num_trials=4, folder=folder, observers=[]).next_trial()
    ledger, reopened, _ = open_ledger(tmp_path)
    trial = take(ledger)
    assert trial.params == queued
    stored = reopened.trials[trial.number]
    assert (stored.state, stored.params, stored.user_attrs["mark"]) == (
        TrialState.RUNNING,
        queued,
        True,
    )


def test_a_queued_design_that_is_known_fails_as_a_repeat(tmp_path: Path) -> None:
    _, study, _ = open_ledger(tmp_path)
    queued = {"attention.mask": "bidirectional", "pooling.token_scope": "mean"}
    for _ in range(2):
        study.enqueue_trial(queued)
    ledger, reopened, _ = open_ledger(tmp_path)
    assert take(ledger).params == queued
    assert take(ledger).params != queued
    assert reopened.trials[1].state == TrialState.FAIL
    assert reopened.trials[1].user_attrs["repeats"] == 0


def test_an_exhausted_space_is_remembered(tmp_path: Path) -> None:
    ledger, _, _ = open_ledger(tmp_path, num_trials=10)
    while (trial := ledger.next_trial()) is not None:
        ledger.complete(trial.number, outcome(a=0.1, c=0.1))
    reopened, study, _ = open_ledger(tmp_path, num_trials=10)
    before = len(study.trials)
    assert reopened.next_trial() is None
    assert len(study.trials) == before


@pytest.mark.filterwarnings("ignore:Argument")
def test_the_usual_sampler_fills_a_search_over_the_joint_space(tmp_path: Path) -> None:
    base = BASE
    shape = Shape(depth=6, width=576, num_heads=9, num_key_value_heads=3)

    def joint(trial: optuna.Trial) -> Proposal:
        params = SPACES["joint"](trial, base, shape)
        return Proposal(config=overlay(base, params), params=params, role="search")

    study = optuna.create_study(direction="maximize", sampler=Reseeded("tpe", 0, startup=6))
    ledger = Ledger(study, joint, num_trials=40, folder=tmp_path, observers=[])
    designs = set()
    while (trial := ledger.next_trial()) is not None:
        designs.add(trial.label)
        score = 0.9 if trial.params["pooling.head"] == "none" else 0.1  # where designs are few
        ledger.complete(trial.number, outcome(a=score, c=score))
    assert len(designs) == 40


def test_several_objectives_are_told_and_nothing_is_stopped(tmp_path: Path) -> None:
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "study.journal"))),
        directions=["maximize", "minimize"],
        sampler=Reseeded("nsga2", 0, startup=2),
    )
    ledger = Ledger(
        study,
        propose,
        num_trials=2,
        folder=tmp_path / "search",
        observers=[],
        objectives=("score", "embedding_size"),
    )
    first, second = take(ledger), take(ledger)
    assert not ledger.report(second.number, report(2, -1.0))
    for trial, score, size in ((first, 0.5, 64), (second, 0.4, 32)):
        found = outcome(a=score) | {"cost": {"embedding_size": size, "head_parameters": 0}}
        ledger.complete(trial.number, found)
    assert [trial.values for trial in study.trials] == [[0.5, 64], [0.4, 32]]
    assert {trial.number for trial in study.best_trials} == {0, 1}
    assert study.trials[1].intermediate_values == {2: -1.0}


def test_a_trial_knows_where_it_is_shown(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    links = {"mlflow_run": "run-of-search-0000"}
    ledger = Ledger(
        study,
        propose,
        num_trials=1,
        folder=tmp_path / "search",
        observers=[],
        link=lambda name: {"mlflow_run": f"run-of-{name}"},
    )
    take(ledger)
    assert study.trials[0].user_attrs.items() >= links.items()
