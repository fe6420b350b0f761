import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis import proxy
from analysis.score_table import aliases, owners, read, read_costs
from analysis.scores import ScoresError
from tests.analysis.conftest import Study
from tests.analysis.scores import drawn, write

PUBLISHED = "POOLSEARCH_SCORES"  # a table of models' scores on MTEB(eng, v2)
QUICK = ("--repeats", "2", "--width", "3")


def test_a_table_gives_a_suite_its_worth_and_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = drawn(24, 9)
    scores[5] = scores[11]
    table = write(tmp_path / "scores.csv", scores)
    arguments = ["--scores", str(table), "--tasks", "3", "--output", str(tmp_path / "out")]
    assert proxy.main([*arguments, *QUICK]) == 0
    said = capsys.readouterr().out
    assert "24 models, 9 tasks; aliases, never in two folds: owner11/m11 = owner5/m05" in said
    assert "confidence that it is at least 0.97" in said
    kept = json.loads((tmp_path / "out" / "proxy.json").read_text())
    assert kept["tasks"] == kept["suites"][kept["rule"]]["tasks"]
    assert 1 <= len(kept["tasks"]) <= 3
    assert kept["aliases"] == [["owner11/m11", "owner5/m05"]]
    assert set(kept["held_out"]) == {"mean", "category_mean", "fitted", "chosen"}
    assert kept["held_out"]["mean"]["best"]["num_models"] == 8
    assert (tmp_path / "out" / "proxy.svg").read_text().startswith("<svg")


def test_two_runs_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "scores.csv", drawn(20, 6))
    said = []
    for _ in range(2):
        proxy.main(["--scores", str(table), "--tasks", "2", *QUICK])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_a_budget_and_categories_are_kept(tmp_path: Path) -> None:
    table = write(tmp_path / "scores.csv", drawn(24, 9))
    costs = tmp_path / "costs.csv"
    costs.write_text("task,seconds\n" + "".join(f"t{n:02d},{n + 1}\n" for n in range(9)))
    arguments = ["--scores", str(table), "--budget", "12", "--costs", str(costs)]
    proxy.main([*arguments, "--cover", "STS", "Clustering", "--output", str(tmp_path), *QUICK])
    for suite in json.loads((tmp_path / "proxy.json").read_text())["suites"].values():
        assert {"STS", "Clustering"} <= set(suite["categories"].values())
        assert suite["seconds"] <= 12


def test_tasks_can_be_taken_from_some_that_stand_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "scores.csv", drawn(20, 8))
    among = ["t01", "t04", "t05"]
    arguments = ["--scores", str(table), "--output", str(tmp_path), *QUICK]
    assert proxy.main([*arguments, "--tasks", "2", "--among", *among]) == 0
    kept = json.loads((tmp_path / "proxy.json").read_text())
    assert set(kept["tasks"]) <= set(among)
    assert kept["held_out"]["mean"]["all"]["value"] < 0.999
    assert "20 models, 3 tasks" in capsys.readouterr().out
    assert proxy.main([*arguments, "--among", "t77"]) == 2
    assert "tasks: expected some of t00, t01, " in capsys.readouterr().err


def test_searches_are_compared_on_the_same_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "scores.csv", drawn(20, 6))
    arguments = ["--scores", str(table), "--tasks", "2", "--compare", "--repeats", "2"]
    assert proxy.main([*arguments, "--width", "1", "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "proxy.json").read_text())["searches"]
    assert found["mean"]["beam"] == found["mean"]["greedy"]
    assert set(found["fitted"]) == {"greedy", "beam", "exhaustive"}
    assert "fitted weights, exhaustive search:" in capsys.readouterr().out


def test_what_lacks_scores_is_left_out_and_named(tmp_path: Path) -> None:
    table = write(tmp_path / "scores.csv", drawn(12, 4), without=((3, 1), (3, 2), (5, 2)))
    of_models = read(str(table))
    assert of_models.left_out == (
        "owner3/m03: no score on t01, t02",
        "owner5/m05: no score on t02",
    )
    assert of_models.scores.shape == (10, 4)
    of_tasks = read(str(table), missing="tasks")
    assert of_tasks.left_out == (
        "t01: no score of owner3/m03",
        "t02: no score of owner3/m03, owner5/m05",
    )
    assert of_tasks.tasks == ("t00", "t03")
    every = write(tmp_path / "holes.csv", drawn(2, 2), without=((0, 1), (1, 0)))
    with pytest.raises(ScoresError, match=r"a score on every task, got none; try --missing tasks"):
        read(str(every))


def test_every_fault_of_a_table_is_listed(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text(
        "model,category,task,score\na,STS,x,0.5\na,STS,x,0.6\nb,STS,x,7\nc,STS,x,high\n"
        "d,Retrieval,x,0.2\n,STS,x,0.1\n"
    )
    with pytest.raises(ScoresError) as raised:
        read(str(table))
    assert str(raised.value).splitlines() == [
        "model: expected a name, got nothing in line 7",
        "score: expected a number, got 'high' in line 5",
        "score: expected one for each model, task and seed, got 2 of a on x (lines 2, 3); keep "
        "one, or give the runs a column 'seed'",
        "category: expected one for each task, got Retrieval, STS for x",
    ]
    table.write_text("model,category,task,score\na,STS,x,50\nb,STS,x,60\n")
    with pytest.raises(ScoresError, match="expected -1 to 1, got 60; divide scores of 0 to 100"):
        read(str(table))
    with pytest.raises(ScoresError, match="expected a CSV file"):
        read(str(tmp_path / "none.csv"))


def test_costs_are_complete(tmp_path: Path) -> None:
    costs = tmp_path / "costs.csv"
    costs.write_text("task,seconds\na,1\nb,-2\nc,3\nc,4\n")
    with pytest.raises(ScoresError) as raised:
        read_costs(costs, ("a", "b", "c", "d"))
    assert [line.partition(": ")[2] for line in str(raised.value).splitlines()] == [
        "c: expected one row, got several",
        "b: expected seconds above 0, got -2.0",
        "d: expected seconds above 0, got nan",
    ]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--cover", "Speech"), "--cover: expected one of Clustering, Retrieval, STS, got Speech"),
        (("--tasks", "2", "--cover", "STS", "Retrieval", "Clustering"), "that 2 tasks can cover"),
        (("--budget", "3"), "--budget and --costs: expected both or none"),
        (("--tasks", "7"), "--tasks: expected 1 to 6, got 7"),
        (("--folds", "1"), "--folds: expected 2 to 12, got 1"),
        (("--best", "2"), "--best: expected 3 to 12, got 2"),
        (("--wanted", "1"), "--wanted: expected above 0 and below 1, got 1.0"),
    ],
)
def test_options_that_cannot_be_are_refused(
    arguments: tuple[str, ...], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "scores.csv", drawn(12, 6))
    assert proxy.main(["--scores", str(table), *arguments]) == 2
    assert fault in capsys.readouterr().err


def test_too_few_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = np.repeat(drawn(6, 6), 2, axis=0)
    table = write(tmp_path / "scores.csv", scores)
    assert proxy.main(["--scores", str(table)]) == 2
    assert "expected at least 10 different models, got 6" in capsys.readouterr().err


def test_aliases_of_aliases_and_owners_are_joined() -> None:
    scores = np.array([[0.1], [0.1004], [0.3], [0.1008], [0.9]])
    assert aliases(scores).tolist() == [0, 0, 2, 0, 4]
    names = ("a/x", "b/x", "a/y", "c/x", "c/y")
    assert len(set(owners(names, aliases(scores)).tolist())) == 1


def test_a_study_s_finished_trials_are_models(make_study: Callable[..., Study]) -> None:
    table = read(str(make_study().folder))
    assert set(table.categories) == {"Classification", "Clustering", "Retrieval", "STS"}
    assert len(table.models) >= 10
    assert all(model.startswith("search-") for model in table.models)


@pytest.mark.slow
@pytest.mark.skipif(PUBLISHED not in os.environ, reason=f"${PUBLISHED} names no table")
def test_five_tasks_rank_published_models_as_all_do(tmp_path: Path) -> None:
    arguments = ["--scores", os.environ[PUBLISHED], "--repeats", "3", "--output", str(tmp_path)]
    assert proxy.main(arguments) == 0
    kept = json.loads((tmp_path / "proxy.json").read_text())
    assert len(kept["tasks"]) <= 5
    assert kept["held_out"]["chosen"]["all"]["value"] >= 0.97
    assert kept["held_out"]["chosen"]["all"]["sureness"] > 0.9
