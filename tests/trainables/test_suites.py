"""The suites: complete, split by name, and the confirming part out of a search's reach."""

from __future__ import annotations

import itertools

import pytest

from trainables import suites
from trainables.config import ConfigError, EvaluationConfig, TrialConfig
from trainables.identity import digest
from trainables.overlay import overlay
from trainables.suites import EMBEDDED_CATEGORIES, EMBEDDED_TASKS, SPLITS, SUITES, Part, parts
from trainables.tasks import category, check_tasks, load_task

SHARED = [name for name, suite in SUITES.items() if suite.split_by == "tasks"]


@pytest.mark.parametrize("name", SUITES)
def test_all_tasks_of_a_suite_can_be_scored(name: str) -> None:
    assert check_tasks([name]) == []
    assert suites.expand([name]) == tuple(dict.fromkeys(suites.expand([name])))
    assert set(suites.expand([name])) == set(SUITES[name].tasks)


def test_the_suites_are_what_they_are_called() -> None:
    import mteb

    from trainables.mteb_guard import guarded

    with guarded():
        english = {task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v2)").tasks}
    assert set(SUITES["mteb-eng-v2"].tasks) == english
    assert set(SUITES["proxy"].tasks) <= english
    counts = {"STS": 8, "Retrieval": 14, "Classification": 6, "Clustering": 11}
    found = sorted(map(category, SUITES["paper"].tasks))
    assert {kind: len(list(group)) for kind, group in itertools.groupby(found)} == counts
    assert sorted(EMBEDDED_CATEGORIES.values()) == sorted([*counts] * 3)
    assert set(SUITES["embedded-quick"].tasks) <= set(SUITES["embedded"].tasks)


@pytest.mark.parametrize("name", SHARED)
def test_no_search_can_load_a_confirming_task(name: str) -> None:
    chosen, confirmed = (parts([name], split) for split in SPLITS)
    assert set(chosen).isdisjoint(confirmed)
    assert {category(task) for task, _ in chosen} >= {
        *("STS", "Retrieval", "Classification", "Clustering")
    }
    for split, others in (("choosing", confirmed), ("confirming", chosen)):
        for task, whole in others:
            with pytest.raises(ConfigError, match=f"expected a task of the {split} split, got"):
                load_task(task, split, whole=whole)  # type: ignore[arg-type]


def test_a_task_has_one_role_in_all_suites_and_kin_have_the_same() -> None:
    for name, other in itertools.combinations(SHARED, 2):
        assert set(parts([name], "choosing")).isdisjoint(parts([other], "confirming"))
    assert set(parts(SHARED, "choosing")).isdisjoint(parts(SHARED, "confirming"))
    for kin in (
        *(["STSBenchmark", "STS12", "STS17"], ["FEVER", "FEVERHardNegatives", "ClimateFEVER"]),
        *(["MedrxivClusteringP2P.v2", "MedrxivClusteringS2S.v2"], ["SCIDOCS", "SciFact"]),
        ["CQADupstackUnixRetrieval", "StackExchangeClustering.v2", "AskUbuntuDupQuestions"],
    ):
        assert len(set(map(suites.role, kin))) == 1


def test_suites_and_tasks_can_be_mixed() -> None:
    names = ["embedded-quick", "embedded", "NFCorpus", "BoolQRetrieval"]
    assert [part.task for part in parts(names, "choosing")] == [*EMBEDDED_TASKS, "NFCorpus"]
    assert Part("NFCorpus", whole=False) in parts(names, "choosing")
    assert EvaluationConfig(tasks=tuple(names)).tasks == tuple(names)


def test_a_task_cannot_be_whole_and_halved() -> None:
    with pytest.raises(ConfigError) as error:
        EvaluationConfig(tasks=("paper", "STSBenchmark"))
    assert str(error.value) == (
        "tasks: expected each task once, got STSBenchmark by name and in a suite; "
        "leave the name out"
    )


def test_lists_that_score_the_same_are_one_trial() -> None:
    def named(*tasks: str) -> str:
        return digest(overlay(TrialConfig(), {"evaluation.tasks": tasks}))

    assert named("embedded") == named(*reversed(EMBEDDED_TASKS)) != named("embedded-quick")
    assert named("paper") != named(*SUITES["paper"].tasks)


def test_an_unknown_suite_is_named_with_the_nearest() -> None:
    [fault] = check_tasks(["embeded"])
    assert fault.endswith("got 'embeded', did you mean 'embedded'?")
