from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from cluster.study.ledger import Ledger
from cluster.study.mirror import mirrored
from cluster.study.storage import fault, hidden, journal, open_storage
from tests.cluster.test_ledger import outcome, propose, report, take
from trainables.config import ConfigError


def study_in(storage: optuna.storages.BaseStorage) -> optuna.Study:
    return optuna.create_study(
        study_name="s",
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
    )


@pytest.mark.parametrize("url", [None, "sqlite"])
def test_any_storage_holds_what_happened(url: str | None, tmp_path: Path) -> None:
    place = url and f"sqlite:///{tmp_path}/s.db"
    study = study_in(open_storage(place, tmp_path))
    study.enqueue_trial({"attention.mask": "causal", "pooling.token_scope": "mean"})
    ledger = Ledger(study, propose, num_trials=2, folder=tmp_path / "search", observers=[])
    first, second = take(ledger), take(ledger)
    ledger.report(first.number, report(2, 0.3))
    ledger.complete(first.number, outcome(a=0.4))
    ledger.fail(second.number, "it broke")
    again = study_in(open_storage(place, tmp_path)).trials
    assert [t.state for t in again] == [TrialState.COMPLETE, TrialState.FAIL]
    assert again[0].params == {"attention.mask": "causal", "pooling.token_scope": "mean"}
    assert (again[0].value, again[0].intermediate_values) == (0.4, {2: 0.3})
    assert again[1].user_attrs["reason"] == "it broke"


def test_optunas_own_reader_sees_the_same(tmp_path: Path) -> None:
    study = study_in(journal(tmp_path))
    ledger = Ledger(study, propose, num_trials=2, folder=tmp_path / "search", observers=[])
    ledger.report(take(ledger).number, report(2, 0.3))
    theirs = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    (trial,) = optuna.load_study(study_name="s", storage=theirs).trials
    assert (trial.state, trial.intermediate_values) == (TrialState.RUNNING, {2: 0.3})
    assert trial.params == trial.user_attrs["params"]


def test_an_event_is_written_at_once(tmp_path: Path) -> None:
    storage, file = journal(tmp_path), tmp_path / "study.journal"
    study = study_in(storage)
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))
    before = file.read_text()
    with storage.together():
        storage.set_trial_user_attr(0, "a", 1)
        storage.set_trial_user_attr(0, "b", 2)
        assert file.read_text() == before
    assert len(file.read_text().splitlines()) == len(before.splitlines()) + 2
    assert storage.get_trial(0).user_attrs == {"a": 1, "b": 2}


def test_nothing_of_an_event_that_fails_is_written(tmp_path: Path) -> None:
    storage = journal(tmp_path)
    study_in(storage).add_trial(optuna.trial.create_trial(state=TrialState.RUNNING))

    def fail() -> None:
        with storage.together():
            storage.set_trial_user_attr(0, "a", 1)
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        fail()
    assert storage.get_trial(0).user_attrs == {}


def test_half_a_line_does_not_spoil_the_journal(tmp_path: Path) -> None:
    study_in(journal(tmp_path))
    file = tmp_path / "study.journal"
    with file.open("a") as journal_file:
        journal_file.write('{"op_code": 4, "wor')
    study_in(journal(tmp_path)).add_trial(optuna.trial.create_trial(value=1.0))
    assert len(study_in(journal(tmp_path)).trials) == 1


def test_trials_of_another_process_are_noticed(tmp_path: Path) -> None:
    study = study_in(journal(tmp_path))
    ledger = Ledger(study, propose, num_trials=2, folder=tmp_path / "search", observers=[])
    study_in(journal(tmp_path)).ask()
    with pytest.raises(RuntimeError, match="another process adds trials to the study"):
        ledger.next_trial()


def test_a_mirror_starts_as_the_study_is(tmp_path: Path) -> None:
    study = study_in(journal(tmp_path))
    study.set_user_attr("a", 1)
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"b": 2}))
    copy, mirror = mirrored(study)
    assert (copy.user_attrs, copy.best_value) == ({"a": 1}, 1.0)
    assert [t.user_attrs for t in mirror.trials()] == [{"b": 2}]


def test_passwords_are_not_shown() -> None:
    assert hidden("postgresql://ada:secret@host/s") == "postgresql://ada:***@host/s"
    assert hidden(None) is None
    assert hidden("sqlite:////shared/s.db") == "sqlite:////shared/s.db"


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    assert fault("sqlite:///s.db") is None
    expected = "expected a database URL such as sqlite:////shared/studies.db, got 'outputs'"
    assert fault("outputs") == expected
    with pytest.raises(ConfigError, match="storage: expected a database that opens, got"):
        open_storage(f"sqlite:///{tmp_path}", tmp_path)


def test_a_database_file_is_made_with_its_folder(tmp_path: Path) -> None:
    study_in(open_storage(f"sqlite:///{tmp_path}/new/s.db", tmp_path))
    assert (tmp_path / "new/s.db").is_file()
