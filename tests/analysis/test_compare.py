"""The program that compares pairs of models, against scipy and by the text of its messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.compare import main
from analysis.pairs import KEYS, compare_pairs
from analysis.score_sources import read_scores
from analysis.scores import scores_from

PUBLISHED = os.environ.get("POOLSEARCH_SCORES", "")  # a long CSV of published scores


def table(models: int = 4, tasks: int = 12, decimals: int = 16) -> pd.DataFrame:
    """Scores of models that differ, on tasks of two categories."""
    generator = np.random.default_rng(models * tasks)
    skill, hardness = generator.normal(0.6, 0.03, (models, 1)), generator.normal(0, 0.1, tasks)
    scores = skill + hardness + generator.normal(0, 0.03, (models, tasks))
    names = [f"t{n:02d}" for n in range(tasks)]
    return pd.DataFrame(
        {
            "model": np.repeat([f"model-{n}" for n in range(models)], tasks),
            "category": np.tile(["STS" if n % 2 else "Retrieval" for n in range(tasks)], models),
            "task": np.tile(names, models),
            "score": np.round(scores, decimals).ravel(),
        }
    )


def run(frame: pd.DataFrame, path: Path, *arguments: str) -> tuple[int, Any]:
    file = path / "scores.csv"
    frame.to_csv(file, index=False)
    return main(["--scores", str(file), "--format", "json", *arguments]), None


def compared(frame: pd.DataFrame, tmp_path: Path, capsys: Any, *arguments: str) -> list[Any]:
    code, _ = run(frame, tmp_path, *arguments)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    rows: list[Any] = json.loads(shown.out)
    return rows


def refused(frame: pd.DataFrame, tmp_path: Path, capsys: Any, *arguments: str) -> str:
    code, _ = run(frame, tmp_path, *arguments)
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    return str(shown.err)


def by_hand(frame: pd.DataFrame) -> list[Any]:
    """All pairs of one family, each by scipy, corrected by statsmodels."""
    wide = frame.pivot_table(index="task", columns="model", values="score", sort=False)
    names, tests = list(dict.fromkeys(frame["model"])), []
    for left, first in enumerate(names):
        for second in names[left + 1 :]:
            test: Any = stats.wilcoxon(wide[first] - wide[second], method="exact")
            tests.append((first, second, float(test.statistic), float(test.pvalue)))
    adjusted = multipletests([p for *_, p in tests], method="holm")[1]
    return [(*test, float(p)) for test, p in zip(tests, adjusted, strict=True)]


def test_the_json_has_exactly_the_documented_keys(tmp_path: Path, capsys: Any) -> None:
    rows = compared(table(), tmp_path, capsys)
    assert len(rows) == 6 * 3
    assert {tuple(row) for row in rows} == {KEYS}
    assert [row["category"] for row in rows[::6]] == ["all", "Retrieval", "STS"]
    assert all(row["wins"] + row["losses"] + row["ties"] == row["n"] for row in rows)


@pytest.mark.parametrize("category", ["all", "STS"])
def test_it_is_scipy_and_statsmodels(category: str, tmp_path: Path, capsys: Any) -> None:
    frame = table(models=5, tasks=20)
    rows = compared(frame, tmp_path, capsys, "--category", category)
    part = frame if category == "all" else frame[frame["category"] == category]
    for row, (a, b, statistic, p, adjusted) in zip(rows, by_hand(part), strict=True):
        assert (row["a"], row["b"], row["statistic"]) == (a, b, statistic)
        assert row["p"] == pytest.approx(p, rel=1e-12)
        assert row["p_adjusted"] == pytest.approx(adjusted, rel=1e-12)
        wide = part.pivot(index="task", columns="model", values="score")
        apart = (wide[a] - wide[b]).to_numpy()
        interval = stats.ttest_1samp(apart, 0).confidence_interval()
        expected = (apart.mean(), interval.low, interval.high)
        got = (row["mean_difference"], row["ci_low"], row["ci_high"])
        assert got == pytest.approx(expected, rel=1e-9)


def test_all_pairs_of_183_models_are_those_of_scipy() -> None:
    frame = table(models=183, tasks=41)
    scores = scores_from(frame)
    found = compare_pairs(scores, scores.models, "all")
    assert len(found) == 183 * 182 // 2
    wide = frame.pivot(index="task", columns="model", values="score")
    some = found.sample(40, random_state=0)
    for row in some.to_dict("records"):
        expected: Any = stats.wilcoxon(wide[row["a"]] - wide[row["b"]], method="exact")
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    holm = multipletests(found["p"], method="holm")[1]
    np.testing.assert_allclose(found["p_adjusted"], holm, rtol=1e-12)


def test_named_pairs_in_the_order_given(tmp_path: Path, capsys: Any) -> None:
    rows = compared(table(), tmp_path, capsys, "--models", "model-2", "model-0")
    assert {(row["a"], row["b"]) for row in rows} == {("model-2", "model-0")}
    assert all(row["p"] == row["p_adjusted"] for row in rows)


def test_exploration_is_benjamini_and_hochbergs(tmp_path: Path, capsys: Any) -> None:
    rows = compared(table(), tmp_path, capsys, "--correction", "bh", "--category", "all")
    expected = multipletests([row["p"] for row in rows], method="fdr_bh")[1]
    assert [row["p_adjusted"] for row in rows] == pytest.approx(list(expected), rel=1e-12)


def test_rounded_scores_tie(tmp_path: Path, capsys: Any) -> None:
    """0.3 - 0.2, 0.2 - 0.1 and 0.8 - 0.7 are one difference, whatever their last bits."""
    left, right = (0.3, 0.2, 0.8, 0.1, 0.5, 0.5), (0.2, 0.1, 0.7, 0.4, 0.5, 0.3)
    frame = pd.DataFrame(
        [
            (name, "STS", f"t{at}", score)
            for name, scores in (("A", left), ("B", right))
            for at, score in enumerate(scores)
        ],
        columns=["model", "category", "task", "score"],
    )
    (row,) = compared(frame, tmp_path, capsys, "--category", "all")
    assert (row["wins"], row["losses"], row["ties"], row["statistic"]) == (4, 1, 1, 5)
    every = stats.PermutationMethod(n_resamples=2**5)
    expected: Any = stats.wilcoxon([0.1, 0.1, 0.1, -0.3, 0.2], method=every)
    assert row["p"] == pytest.approx(expected.pvalue, rel=1e-12)
    (pratt,) = compared(frame, tmp_path, capsys, "--category", "all", "--zeros", "pratt")
    assert pratt["statistic"] == 6


def test_missing_cells_lower_n_and_are_said(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=3)
    gone = (frame["model"] == "model-1") & frame["task"].isin(["t00", "t03"])
    rows = compared(frame[~gone], tmp_path, capsys, "--category", "all")
    assert [row["n"] for row in rows] == [10, 12, 10]
    assert rows[0]["note"] == "model-1 has no score on t00, t03"
    assert rows[1]["note"] == ""


def test_other_seeds_and_scales_are_told(tmp_path: Path, capsys: Any) -> None:
    drawn = np.random.default_rng(0)
    rows = [
        {"model": model, "category": "STS", "task": f"t{task}", "seed": seed}
        | {"score": scale * float(drawn.uniform())}
        for model, seeds, scale in (("A", (1, 2), 1), ("B", (7,), 1), ("C", (1, 2), 100))
        for task in range(6)
        for seed in seeds
        if (model, task, seed) != ("C", 0, 2)
    ]
    found = compared(pd.DataFrame(rows), tmp_path, capsys, "--category", "STS")
    notes = {(row["a"], row["b"]): row["note"] for row in found}
    assert notes["A", "B"].endswith("; A has seeds 1, 2, B seeds 7")
    assert "perhaps two scales" not in notes["A", "B"]
    assert "perhaps two scales, 0 to 1 and 0 to 100" in notes["A", "C"]
    assert notes["A", "C"].endswith("C seeds 1, 2, not all on some tasks")


def test_a_blank_score_is_a_missing_one(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2)
    frame.loc[3, "score"] = np.nan
    rows = compared(frame, tmp_path, capsys, "--category", "all")
    assert (rows[0]["n"], rows[0]["note"]) == (11, "model-0 has no score on t03")
    none = frame.assign(score=np.nan)
    assert "score: expected a number in some line, got none" in refused(none, tmp_path, capsys)


def test_models_without_a_common_task_leave_the_family(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=3)
    half = frame["task"] < "t06"
    kept = frame[~((frame["model"] == "model-0") & half | (frame["model"] == "model-1") & ~half)]
    rows = compared(kept, tmp_path, capsys, "--category", "all")
    assert (rows[0]["n"], rows[0]["p"], rows[0]["p_adjusted"], rows[0]["ci_low"]) == (
        0,
        *[None] * 3,
    )
    assert rows[0]["note"].endswith("no task in common, so no test and not in the family")
    p = [row["p"] for row in rows[1:]]
    assert [row["p_adjusted"] for row in rows[1:]] == pytest.approx(
        list(multipletests(p, method="holm")[1])
    )


def test_aliases_are_said(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2)
    alias = frame[frame["model"] == "model-0"].assign(model="alias")
    rows = compared(pd.concat([frame, alias]), tmp_path, capsys, "--models", "model-0", "alias")
    assert {row["p"] for row in rows} == {1.0}
    assert {row["effect_rank_biserial"] for row in rows} == {0.0}
    assert {row["note"] for row in rows} == {
        "all differences are zero: perhaps one model under two names"
    }


def test_too_few_tasks_are_said(tmp_path: Path, capsys: Any) -> None:
    rows = compared(table(models=2, tasks=10), tmp_path, capsys, "--category", "STS")
    assert rows[0]["note"] == "too few: with 5 tasks the smallest two-sided exact p is 0.0625"
    rows = compared(table(models=4, tasks=7), tmp_path, capsys, "--category", "all")
    assert rows[0]["note"] == (
        "too few: with 7 tasks the smallest two-sided exact p is 0.016, which Holm over 6 pairs "
        "raises to 0.094"
    )


def test_seeds_are_averaged_and_it_is_said(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2)
    runs = [
        frame.assign(score=frame["score"] + shift, seed=n) for n, shift in enumerate((0, 0.02))
    ]
    rows = compared(pd.concat(runs), tmp_path, capsys)
    alone = compared(frame, tmp_path, capsys)
    assert [row["mean_difference"] for row in rows] == pytest.approx(
        [row["mean_difference"] for row in alone]
    )
    assert "scores are means over seeds, whose luck p and interval do not cover" in rows[0]["note"]


def test_related_tasks_count_once(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2, tasks=6)
    frame["task"] = frame["task"].replace({f"t{n:02d}": f"STS1{n}" for n in range(2, 6)})
    rows = compared(frame, tmp_path, capsys, "--related", "--category", "all")
    assert rows[0]["n"] == 3


def test_every_fault_is_in_one_message(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2, tasks=4).astype({"score": object})
    frame.loc[0, "score"] = "good"
    frame.loc[1, "score"] = ""
    frame.loc[3, "score"] = "inf"
    frame.loc[6, "category"] = "all"
    frame.loc[5, "model"] = ""
    frame = pd.concat([frame, frame.iloc[[4]]])
    assert refused(frame, tmp_path, capsys, "--models", "model-0", "Qwen").splitlines() == [
        "model: expected a name, got nothing in line 7",
        "score: expected a number, got 'good' in line 2",
        "score: expected a finite number, got infinity in line 5",
        "score: expected one for each model, task and seed, got 2 of model-1 on t00 (lines 6, "
        "10); keep one, or give the runs a column 'seed'",
        "category: expected one for each task, got Retrieval, all for t02",
        "category: expected another name than 'all', which is all of them",
        "models: expected a model of the table, got 'Qwen'; it has model-0, model-1",
    ]


def test_missing_columns_are_named_with_their_neighbours(tmp_path: Path, capsys: Any) -> None:
    frame = table().rename(columns={"score": "scores", "task": "dataset"})
    assert refused(frame, tmp_path, capsys).splitlines() == [
        "task: expected a column of this name, got model, category, dataset, scores; the table "
        "needs model, category, task, score, and seed if there is one",
        "score: expected a column of this name, got model, category, dataset, scores (did you "
        "mean 'scores'?); the table needs model, category, task, score, and seed if there is one",
    ]


def test_unknown_names_come_with_the_nearest(tmp_path: Path, capsys: Any) -> None:
    arguments = ("--models", "Model-0", "model-1", "model-1", "--category", "Sts")
    assert refused(table(), tmp_path, capsys, *arguments).splitlines() == [
        "models: expected a model of the table, got 'Model-0' (did you mean 'model-0'?)",
        "models: expected each once, got 'model-1' again",
        "category: expected one of all, Retrieval, STS, got 'Sts' (did you mean 'STS'?)",
    ]
    one = table(models=1)
    assert "expected two or more to compare, got model-0" in refused(one, tmp_path, capsys)


@pytest.mark.parametrize("text", ["", "model,category,task,score\n"])
def test_empty_files_are_refused(text: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty.csv").write_text(text)
    assert main(["--scores", str(tmp_path / "empty.csv")]) == 2
    assert "expected" in capsys.readouterr().err
    assert main(["--scores", str(tmp_path / "nothing.csv")]) == 2
    assert "got nothing at" in capsys.readouterr().err


def test_table_and_page_hold_the_same_and_escape(tmp_path: Path, capsys: Any) -> None:
    frame = table(models=2)
    frame["model"] = frame["model"].replace("model-0", "<b>&")
    frame.to_csv(tmp_path / "s.csv", index=False)
    for form, name in (("table", "<b>&"), ("html", "&lt;b&gt;&amp;")):
        assert main(["--scores", str(tmp_path / "s.csv"), "--format", form]) == 0
        assert capsys.readouterr().out.count(name) == 3


def test_it_imports_neither_torch_nor_ray_nor_mlflow() -> None:
    code = (
        "import sys, analysis.compare; print({'torch', 'ray', 'mlflow', 'mteb'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_names_are_read_without_their_spaces_and_too_many_tasks_are_refused(
    tmp_path: Path, capsys: Any
) -> None:
    frame = table(models=2)
    frame.loc[0, "model"] = "model-0 "
    rows = compared(frame, tmp_path, capsys, "--category", "all")
    assert [row["n"] for row in rows] == [12]
    assert "task: expected at most 1000 different ones, got 1001" in refused(
        table(models=2, tasks=1001), tmp_path, capsys
    )


@pytest.mark.skipif(not Path(PUBLISHED).is_file(), reason="POOLSEARCH_SCORES names no CSV file")
def test_published_scores_against_scipy_and_statsmodels() -> None:
    scores = read_scores(PUBLISHED)
    found = compare_pairs(scores, scores.models, "all")
    frame = pd.read_csv(PUBLISHED)
    wide = frame.pivot(index="task", columns="model", values="score")
    for row in found.sample(300, random_state=1).to_dict("records"):
        apart = (wide[row["a"]] - wide[row["b"]]).dropna().round(12)
        assert (row["n"], row["mean_difference"]) == (len(apart), pytest.approx(apart.mean()))
        assert row["ties"] == (apart == 0).sum()
        if row["ties"] or apart.abs().duplicated().any():
            continue
        expected: Any = stats.wilcoxon(apart, method="exact")
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-15)
    holm = multipletests(found["p"], method="holm")[1]
    np.testing.assert_allclose(found["p_adjusted"], holm, rtol=1e-12)
