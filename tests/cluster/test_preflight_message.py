"""Whatever is wrong, before anything starts, in one message and by the flags that were typed."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from filelock import FileLock

from cluster.arguments import with_flags
from cluster.dispatch.slots import Node
from cluster.preflight import plan
from cluster.preflight.filling import filling
from cluster.preflight.forecast import Forecast
from cluster.preflight.surroundings import Place
from cluster.search import main
from cluster.settings import StudyConfig, write_once
from cluster.study.opening import claim
from tests.cluster import test_forecast
from tests.cluster.test_forecast import made_of
from trainables.config import TrialConfig
from trainables.data import open_data
from trainables.overlay import overlay
from trainables.tokenizer import Tokenizer

base = test_forecast.base
steady = test_forecast.steady


@pytest.fixture
def arguments(
    tiny_model: Path, tiny_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    (tmp_path / "tasks" / "NFCorpus").mkdir(parents=True)
    monkeypatch.setenv("POOLSEARCH_TASKS", str(tmp_path / "tasks"))
    return [
        *("--model", str(tiny_model), "--train-data", str(tiny_pairs), "--layers", "3"),
        *("--tasks", "NFCorpus", "--outputs", str(tmp_path / "out"), "--dry-run"),
    ]


def faults(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[str]:
    assert main(arguments) == 2
    return [line.partition(": ")[0] for line in capsys.readouterr().err.splitlines()]


def test_the_default_of_what_is_refused_is_no_second_fault(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    several = ["--objectives", "score", "embedding_size", "--pruner", "halving"]
    assert faults(capsys, [*arguments, *several]) == ["--pruner"]


def test_settings_designs_and_neighbours_are_faulted_together(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    claim(optuna.create_study(study_name="s-search", storage=url), "another folder")
    designs = tmp_path / "mine.json"
    designs.write_text(json.dumps([{"pooling.layers": "last_9"}, 3]))
    folder = tmp_path / "out" / "s"
    folder.mkdir(parents=True)
    before = (tmp_path / "studies.db").read_bytes()
    with FileLock(folder / "driver.lock"):
        found = faults(
            capsys,
            [
                *(*arguments, "--study", "s", "--storage", url, "--warm-start", "none"),
                *("--first", str(designs), "nv_embet", "--trials", "0", "--eta", "2"),
                *("--set", "seed=-1", "--set", "steps", "--seed", "-1", "--trails", "9"),
            ],
        )
    assert sorted(found) == [
        "--eta",
        "--first (first.0.pooling.layers)",
        "--first (first.1)",
        "--first (first.2)",
        "--seed",
        "--set",
        "--set seed (base.seed)",
        "--storage",
        "--study",
        "--trails",
        "--trials",
        "--warm-start",
    ]
    assert (tmp_path / "studies.db").read_bytes() == before
    assert [file.name for file in folder.iterdir()] == ["driver.lock"]


def test_a_factorials_faults_come_with_the_settings(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    wrong = [
        *(*arguments, "--mode", "factorial", "--space", "attention", "--seeds", "0"),
        *(
            "--factors",
            "attention.mak",
            "pooling.token_scope",
            "--fraction",
            "9999",
            "--tune",
            "1",
        ),
        *("--tune-over", "lora.dropout", "training.stepz=3", "lora.alpha=0.5"),
    ]
    assert sorted(faults(capsys, wrong)) == [
        "--factors (factors.attention.mak)",
        "--fraction",
        "--seeds",
        "--tune",
        "--tune-over (tuned.lora.alpha)",
        "--tune-over (tuned.lora.dropout)",
        "--tune-over (tuned.training.stepz)",
    ]


def test_factors_are_looked_at_where_the_model_is_not_known(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path
) -> None:
    wrong = [
        *(*arguments, "--model", str(tmp_path / "none"), "--mode", "factorial"),
        *("--space", "pooling", "--factors", "pooling.hed"),
    ]
    assert sorted(faults(capsys, wrong)) == [
        "--factors (factors.pooling.hed)",
        "--model (backbone.model)",
    ]


def test_a_study_with_other_settings_is_faulted_with_the_rest(
    capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    kept = overlay(TrialConfig(), {"training.steps": 9, "backbone.num_layers": 3})
    write_once(StudyConfig(name="s", num_trials=9, base=kept), tmp_path / "out" / "s")
    found = faults(capsys, [*arguments, "--study", "s", "--finalists", "0"])
    assert sorted(found) == [
        "--finalists",
        "--model (backbone.model)",
        "--study",
        "--tasks (evaluation.tasks)",
        "--train-data (training.data)",
        "--trials",
        "training.steps",
    ]


def test_a_share_of_a_gpu_that_is_too_small_is_refused_beforehand(
    base: TrialConfig, tmp_path: Path
) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})
    made = made_of(base, tmp_path)
    needed = made.demands[0].needed.total_bytes
    place = Place(outputs=tmp_path, gpus_per_worker=0.25)

    def told(memory: float | None) -> list[str]:
        node = Node(cpus=8, gpus=1, memory_bytes=memory)
        fields = {name: getattr(made, name) for name in Forecast.__slots__}
        return plan.share_faults(Forecast(**fields | {"nodes": (node,), "place": place}))

    assert told(None) == told(4.1 * needed) == []
    (fault,) = told(3 * needed)
    assert fault.startswith("gpus-per-worker: expected at least 0.5, as the control takes about ")
    assert with_flags(fault).startswith("--gpus-per-worker: expected")


def test_the_filling_is_that_of_all_steps_texts(base: TrialConfig, tiny_pairs: Path) -> None:
    given = {"training.data": [{"name": str(tiny_pairs)}], "training.steps": 6}
    base = overlay(base, given | {"training.batch_size": 4})
    data, training = open_data(base, Tokenizer(base.backbone.model)), base.training
    texts = [ids for step in range(6) for ids, _ in data.batch_at(step).texts]
    longest = training.max_query_tokens + 2 * training.max_passage_tokens
    expected = sum(map(len, texts)) / (6 * 4 * longest)
    assert filling(data, training) == pytest.approx(expected)
    assert 0 < expected < 1


def test_time_is_that_of_the_texts_own_lengths(base: TrialConfig, tmp_path: Path) -> None:
    base = overlay(base, {"evaluation.tasks": ("NFCorpus",)})
    whole, half = made_of(base, tmp_path), made_of(base, tmp_path, filled=0.5)
    assert whole.seconds > half.seconds
    lines = "\n".join(plan.lines(half, ["a plan"]))
    assert "training texts 50% as long as they may be; what early stopping" in lines
