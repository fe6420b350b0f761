from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FixedTrial, TrialState

from cluster.settings import StudyConfig, write_once
from cluster.simulation.searches import open_ledger, quiet
from cluster.study import asking, priors
from cluster.study.ledger import Ledger
from cluster.study.opening import open_study
from cluster.study.storage import journal
from search_spaces.drawing import CONTROL
from search_spaces.spaces import SPACES
from tests.cluster.test_ledger import outcome, report, take
from trainables.config import ConfigError, TrialConfig
from trainables.identity import digest
from trainables.overlay import overlay
from trainables.shape import EMBEDDED

BASE = overlay(TrialConfig(), {"training.steps": 8, "training.report_every": 2})
LONGER = overlay(BASE, {"training.steps": 16})
MEAN = {"attention.mask": "bidirectional", "pooling.token_scope": "mean"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        quiet()
        yield


def opened(
    folder: Path, *known: priors.Known, space: str = "attention", base: TrialConfig = BASE
) -> tuple[Ledger, optuna.Study]:
    """Open a search of six designs with known ones in its queue."""
    config = StudyConfig(name="s", space=space, num_trials=6, base=base)
    folder.mkdir(exist_ok=True)
    study = open_study(config, journal(folder))
    priors.queue(study, (priors.CONTROL_KNOWN, *known), SPACES[space], base, EMBEDDED)
    propose = priors.proposer(SPACES[space], base, EMBEDDED)
    ledger = Ledger(study, propose, num_trials=6, folder=folder / "search", observers=[])
    return ledger, study


@pytest.mark.parametrize("space", SPACES)
def test_the_control_comes_first_in_every_space(space: str, tmp_path: Path) -> None:
    ledger, study = opened(tmp_path, space=space)
    control = take(ledger)
    assert (control.role, control.params) == ("control", CONTROL)
    stored = study.trials[0]
    assert stored.params
    assert "unseen" not in stored.user_attrs
    assert take(ledger).role == "search"


def test_known_designs_come_next_in_their_order_and_once(tmp_path: Path) -> None:
    opened(tmp_path, MEAN, "nv_embed")
    ledger, study = opened(tmp_path, MEAN, "nv_embed")  # the second start queues nothing again
    assert sum(t.state == TrialState.WAITING for t in study.trials) == 3
    _, mean, preset = (take(ledger) for _ in range(3))
    assert digest(mean.config) == digest(overlay(BASE, MEAN))
    assert mean.params.items() >= MEAN.items()
    assert mean.role == preset.role == "search"
    assert preset.params["pooling.head"] == "latent_attention"
    assert take(ledger).number == 3


def test_a_design_outside_the_space_is_trained_but_not_seen(tmp_path: Path) -> None:
    window = {"attention.mask": "sliding_window", "attention.window": 5}
    ledger, study = opened(tmp_path, window)
    take(ledger)
    trial = take(ledger)
    assert trial.config.attention.window == 5
    ledger.complete(trial.number, outcome(a=0.9))
    stored = study.trials[trial.number]
    assert (stored.params, stored.value) == ({}, 0.9)
    assert stored.user_attrs["unseen"]
    assert trial.number not in {t.number for t in ledger._study.trials}


def test_what_cannot_be_built_is_named_by_its_place() -> None:
    known: list[priors.Known] = ["llm2vec", {"pooling.hed": "none"}, {"pooling.layers": "all"}]
    with pytest.raises(ConfigError) as raised:
        priors.check_known(known, BASE, EMBEDDED)
    lines = str(raised.value).splitlines()
    assert lines[0] == "first.1.pooling.hed: not a parameter; did you mean 'pooling.head'?"
    assert len(lines) == 2
    assert lines[1].startswith("first.2.pooling.layers: ")


def earlier(folder: Path) -> Path:
    """A study of six designs: the control, a complete, a stopped, a failed one, two running."""
    ledger, _ = opened(folder)
    write_once(StudyConfig(name="s", num_trials=6, base=BASE), folder)
    control, complete, stopped, failed, *_ = (take(ledger) for _ in range(6))
    for trial in (control, complete, stopped):
        ledger.report(trial.number, report(2, 0.1 * trial.number))
    ledger.complete(control.number, outcome(a=0.5))
    ledger.complete(complete.number, outcome(a=0.7))
    ledger.stop(stopped.number)
    ledger.fail(failed.number, "it broke")
    return folder


def warmed(folder: Path, source: Path, base: TrialConfig) -> tuple[Ledger, optuna.Study, str]:
    config = StudyConfig(name="s", space="attention", num_trials=6, base=base)
    folder.mkdir()
    study = open_study(config, journal(folder))
    propose = priors.proposer(SPACES["attention"], base, EMBEDDED)
    opened_source = priors.open_source(str(source), folder)
    done = priors.warm_start(study, opened_source, propose)
    assert priors.warm_start(study, opened_source, propose) == done
    ledger = Ledger(study, propose, num_trials=6, folder=folder / "search", observers=[])
    return ledger, study, done


def test_a_warm_start_brings_the_finished_trials_and_trains_none_again(tmp_path: Path) -> None:
    source = earlier(tmp_path / "a")
    before = {t.user_attrs["key"] for t in priors.open_source(str(source), tmp_path).trials[:3]}
    ledger, study, done = warmed(tmp_path / "b", source, BASE)
    assert done == "3 of the 6 trials of s-search are known"
    brought = study.trials
    assert [t.state.name for t in brought] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [t.user_attrs["warm_start"] for t in brought] == [f"s-search#{n}" for n in range(3)]
    assert [t.intermediate_values for t in brought] == [{2: 0.0}, {2: 0.1}, {2: 0.2}]
    assert ledger.num_ended == 0
    keys = set()
    for _ in range(6):  # as many as were asked for, and none of those
        trial = take(ledger)
        keys.add(f"{digest(trial.config)}-{trial.config.seed}")
    assert ledger.next_trial() is None
    assert len(keys) == 6
    assert not keys & before


def test_of_another_base_only_the_scores_of_finished_trials_come(tmp_path: Path) -> None:
    _, study, done = warmed(tmp_path / "b", earlier(tmp_path / "a"), LONGER)
    assert done == "2 of the 6 trials of s-search are known"
    assert [(t.value, t.intermediate_values) for t in study.trials] == [(0.5, {}), (0.7, {})]
    assert all("key" not in t.user_attrs for t in study.trials)


def test_trials_that_the_space_does_not_have_stay_away(tmp_path: Path) -> None:
    source = priors.open_source(str(earlier(tmp_path / "a")), tmp_path)
    config = StudyConfig(name="s", space="literature", base=BASE)
    (tmp_path / "b").mkdir()
    study = open_study(config, journal(tmp_path / "b"))
    propose = priors.proposer(SPACES["literature"], BASE, EMBEDDED)
    assert priors.warm_start(study, source, propose) == "0 of the 6 trials of s-search are known"
    assert study.trials == []


def exhausted_search(folder: Path, restart_after: int) -> list[str]:
    """Ask for more designs than the literature has; go on in a new ledger after some."""
    folder.mkdir()
    config = StudyConfig(name="s", space="literature", num_trials=50, base=BASE)
    keys: list[str] = []
    while True:
        study = open_study(config, journal(folder))
        ledger = open_ledger(config, study._storage, folder, EMBEDDED)
        for _ in range(restart_after):
            trial = ledger.next_trial()
            if trial is None:
                assert ledger.is_done
                assert ledger.num_designs in (None, 9)
                return keys
            keys.append(digest(trial.config))
            ledger.complete(trial.number, outcome(a=0.1 * len(keys)))


def test_a_space_is_gone_through_to_its_last_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "MAX_REPEATS", 1)  # so that draws soon find nothing new
    keys = exhausted_search(tmp_path / "a", restart_after=99)
    assert len(keys) == len(set(keys)) == 9
    assert exhausted_search(tmp_path / "b", restart_after=2) == keys


def test_a_large_space_is_not_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = priors.drawings(SPACES["attention"], BASE, EMBEDDED)
    assert drawn is not None
    assert len(drawn) == 1251
    propose = priors.proposer(SPACES["attention"], BASE, EMBEDDED)
    some = drawn[::100]
    assert len({digest(propose(FixedTrial(dict(each))).config) for each in some}) == len(some)  # type: ignore[arg-type]
    monkeypatch.setattr(priors, "MOST", 1250)
    assert priors.drawings(SPACES["attention"], BASE, EMBEDDED) is None


def test_a_source_is_found_by_name_folder_or_database(tmp_path: Path) -> None:
    earlier(tmp_path / "a")
    assert len(priors.open_source("a", tmp_path).trials) == 6
    url = f"sqlite:///{tmp_path}/s.db"
    storage = optuna.storages.get_storage(url)
    for name in ("x", "y"):
        optuna.create_study(study_name=f"{name}-search", storage=storage)
    assert priors.open_source(f"{url}#x", tmp_path).study_name == "x-search"
    with pytest.raises(ConfigError) as raised:
        priors.open_source(url, tmp_path)
    assert str(raised.value) == f"warm-start: expected #STUDY after {url}, one of x, y, got ''"
    with pytest.raises(ConfigError, match=r"warm-start: expected a study's folder, .*, got 'no'"):
        priors.open_source("no", tmp_path)


def test_known_designs_are_presets_or_objects() -> None:
    assert priors.fault("nv_embed") is None
    assert priors.fault(MEAN) is None
    assert "one of tang_yang_1, " in (priors.fault("nv_embet") or "")
