"""Successive halving: the rule against Optuna's, and a trial's ways through pauses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from cluster.study.ledger import Ledger
from cluster.study.pruners import Halving, make_pruner, rungs
from tests.cluster.test_ledger import Witness, open_study, outcome, propose, report, take


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_it_pauses_where_optunas_rule_stops(factor: int, seed: int) -> None:
    """Trials report in turn; one that was stopped reports no more, so none is promoted."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, size=(30, 20)) / 12  # with ties
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=2, reduction_factor=factor)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    halving = Halving(rungs(2, factor, 1000), factor)
    theirs = [study.ask() for _ in scores]
    alive = set(range(len(scores)))
    for step in range(1, 21):
        for number in sorted(alive, key=lambda n: rng.random()):
            value = float(scores[number, step - 1])
            theirs[number].report(value, step)
            goes_on = halving.goes_on(number, step, value)
            assert goes_on == (not theirs[number].should_prune()), (number, step)
            alive -= set() if goes_on else {number}
    assert 0 < len(alive) < len(scores) / 2


def test_rungs_are_reporting_steps_before_the_last() -> None:
    assert rungs(8, 2, 64, every=8) == (8, 16, 32)
    assert rungs(2, 2, 64, every=8) == (8, 16, 32)
    assert rungs(64, 2, 64) == ()


def test_a_score_that_is_no_number_is_the_worst() -> None:
    halving = Halving([1], 2)
    assert halving.goes_on(0, 1, 0.1)
    assert not halving.goes_on(1, 1, float("nan"))
    assert halving.promotable([1]) is None


def test_of_the_highest_rung_the_best_is_promoted() -> None:
    halving = Halving([1, 2], 2)
    for number, score in enumerate([0.9, 0.5, 0.7, 0.6]):
        halving.goes_on(number, 1, score)
    assert halving.promotable([1, 2, 3]) == 2  # two of four may go on
    assert halving.goes_on(0, 2, 0.8)
    assert not halving.goes_on(2, 2, 0.1)
    assert halving.promotable([1, 2, 3]) is None
    for number in range(4, 8):
        halving.goes_on(number, 1, 0.0)
    assert halving.promotable([1, 2, 3]) == 3  # four of eight, and 1 is the fourth
    assert halving.promotable([1]) == 1


def open_halving(folder: Path) -> tuple[Ledger, optuna.Study, Witness]:
    """The ledger's usual space of four designs, with one rung at step 2 of 8."""
    study, witness = open_study(folder), Witness()
    study.pruner = make_pruner("halving")
    ledger = Ledger(
        study,
        propose,
        num_trials=4,
        folder=folder / "search",
        observers=[witness],
        halving=Halving([2], 2),
    )
    return ledger, study, witness


def compete(ledger: Ledger) -> list[int]:
    """Let the control and three designs come to the rung, of which the last is to wait."""
    trials = [take(ledger) for _ in range(4)]
    order = sorted((t for t in trials if t.role == "search"), key=lambda t: t.number)
    control = next(t for t in trials if t.role == "control")
    assert not ledger.report(control.number, report(2, 0.1))
    stopped = []
    for trial, score in zip(order, (0.8, 0.9, 0.7), strict=True):
        if ledger.report(trial.number, report(2, score)):
            (trial.folder / "checkpoints").mkdir()
            ledger.stop(trial.number)
            stopped.append(trial.number)
    assert stopped == [t.number for t in order[2:]]
    return [control.number, *(t.number for t in order)]


def test_a_paused_trial_is_running_to_optuna_and_pruned_to_samplers(tmp_path: Path) -> None:
    ledger, study, witness = open_halving(tmp_path)
    *_, paused = compete(ledger)
    stored = study.trials[paused]
    assert stored.state == TrialState.RUNNING
    assert [r["step"] for r in stored.user_attrs["paused"]["curve"]] == [2]
    assert ("paused", paused, None) in witness.events
    (seen,) = (t for t in ledger._study.trials if t.number == paused)
    assert (seen.state, seen.value) == (TrialState.PRUNED, stored.intermediate_values[2])


@pytest.mark.parametrize("restored", [False, True])
def test_a_trial_that_stays_paused_ends_as_pruned_with_its_last_step(
    restored: bool, tmp_path: Path
) -> None:
    ledger, study, witness = open_halving(tmp_path)
    control, second, best, paused = compete(ledger)
    if restored:
        ledger, study, witness = open_halving(tmp_path)
        assert {take(ledger).number for _ in range(3)} == {control, best, second}
    assert ledger.next_trial() is None
    assert not ledger.is_done  # others may yet lift it
    for number in (control, best, second):
        ledger.complete(number, outcome(a=0.5))
    folder = tmp_path / "search" / f"{paused:04d}" / "checkpoints"
    assert folder.exists()
    assert ledger.next_trial() is None
    assert ledger.is_done
    trial = study.trials[paused]
    assert (trial.state, trial.value) == (TrialState.PRUNED, trial.intermediate_values[2])
    assert trial.user_attrs["reason"] == "paused at step 2"
    assert witness.events[-1][0] == "ended"
    assert [r["step"] for r in witness.events[-1][2].curve] == [2]
    assert not folder.exists()
    assert ledger.num_ended == 4


@pytest.mark.parametrize("restored", [False, True])
def test_a_paused_trial_is_promoted_when_others_lift_it(restored: bool, tmp_path: Path) -> None:
    """With a fifth and a sixth trial at the rung three may go on."""
    ledger, study, _ = open_halving(tmp_path)
    control, second, best, paused = compete(ledger)
    if restored:
        ledger, study, _ = open_halving(tmp_path)
        assert {take(ledger).number for _ in range(3)} == {control, best, second}
    assert ledger._halving is not None
    for number in (91, 92):
        ledger._halving.goes_on(number, 2, 0.0)
    again = take(ledger)
    assert again.number == paused
    assert study.trials[paused].user_attrs["paused"] is None
    assert not ledger.report(paused, report(2, 0.7))  # told again from its checkpoint
    assert not ledger.report(paused, report(4, 0.95))
    ledger.complete(paused, outcome(a=0.9))
    trial = study.trials[paused]
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.COMPLETE, [2, 4])


def test_a_driver_that_dies_before_a_stop_is_carried_out_ends_the_trial_at_once(
    tmp_path: Path,
) -> None:
    study, witness = open_study(tmp_path), Witness()
    folder = tmp_path / "search"
    study.pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    ledger = Ledger(study, propose, num_trials=4, folder=folder, observers=[witness])
    trial = take(ledger)
    while trial.role == "control":
        trial = take(ledger)
    assert ledger.report(trial.number, report(2, 0.1))
    reopened = Ledger(study, propose, num_trials=4, folder=folder, observers=[witness])
    assert take(reopened).number != trial.number
    stored = study.trials[trial.number]
    assert (stored.state, stored.value) == (TrialState.PRUNED, 0.1)
    assert stored.user_attrs["reason"] == "stopped early at step 2"


def test_a_process_that_is_lost_after_the_word_to_stop_has_stopped(tmp_path: Path) -> None:
    ledger, study, _ = open_halving(tmp_path)
    trials = [take(ledger) for _ in range(4)]
    first, second, third = [t.number for t in trials if t.role == "search"]
    for number, score in ((first, 0.9), (second, 0.8)):
        ledger.report(number, report(2, score))
    assert ledger.report(third, report(2, 0.1))
    ledger.fail(third, "the process was lost")
    assert study.trials[third].state == TrialState.RUNNING
    assert study.trials[third].user_attrs["paused"]
